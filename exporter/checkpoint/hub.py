"""Checkpoints of the Hugging Face hub: from its cache, or downloaded into it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exaone_export.errors import CheckpointError, UnsupportedOptionError
from exaone_export.hub.failures import why_not_downloaded
from exaone_export.hub.snapshot import snapshot

__all__ = ["check_no_revision", "download"]


def check_no_revision(folder: Path, revision: str | None) -> None:
    """Raise where a revision is given of a folder.

    Raises:
        UnsupportedOptionError: It is.
    """
    if revision is not None:
        raise UnsupportedOptionError(
            f"{folder} is a local folder, which has no revision {revision!r}; leave --revision out."
        )


def download(hub_id: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of a model's files; without a network, what the cache has of them.

    Args:
        hub_id: The model.
        revision: A branch, tag or commit; the main branch by default.
        patterns: Of the files' names.

    Raises:
        CheckpointError: It can neither be downloaded nor is it in the cache.
    """
    try:
        return snapshot(hub_id, revision, patterns)
    except Exception as cause:  # Those of its HTTP client, whichever that is, have no base of ours to name.
        raise CheckpointError(f"{hub_id} is not a local folder, and {why_not_downloaded(cause, revision)}.") from cause
