"""Files of one commit of the hub, in the cache of its client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["UnsafeNameError", "snapshot"]

_NAME = re.compile(r"\w[\w.:+=-]{0,254}")


class UnsafeNameError(Exception):
    """A server answers with a name that would lead out of the cache."""


def snapshot(hub_id: str, revision: str | None, patterns: Iterable[str], *, is_offline: bool = False) -> Path:
    """The folder of the files; those that are missing are downloaded.

    The client makes names in its cache of what the server answers, ETags and hashes, and does not look at them.

    Args:
        hub_id: The repository of a model.
        revision: A branch, tag or commit; the main branch by default.
        patterns: Of the files' names.
        is_offline: Whether the cache is to do.

    Raises:
        UnsafeNameError: An ETag or a hash is not a name; or it is the cause of what is raised.
        Exception: What the client and its HTTP client raise, which have no common base; see `why_not_downloaded`.
    """
    import huggingface_hub

    hooks = huggingface_hub.get_session().event_hooks["response"]
    hooks.append(_check_names)
    try:
        # Also for a single file: it asks the hub once, where `hf_hub_download` tries for 24 seconds without a network.
        found = huggingface_hub.snapshot_download(
            hub_id,
            revision=revision,
            allow_patterns=list(patterns),
            **({"local_files_only": True} if is_offline else {}),
        )
    finally:
        hooks.remove(_check_names)
    return Path(found)


def _check_names(response: Any) -> None:
    """Raise where a name that the client will use is not one."""
    for value in _names(response):
        if _NAME.fullmatch(value) is None:
            raise UnsafeNameError(f"{response.url.host} answers with {value!r:.60} as the hash of a file")


def _names(response: Any) -> Iterator[str]:
    if response.request.method == "HEAD":  # that of a download's own answer is the storage's, and is not kept
        for header in ("ETag", "X-Linked-ETag"):
            if (value := response.headers.get(header)) is not None:
                yield value.removeprefix("W/").strip('"')
    if "/tree/" in response.url.path and response.is_success:  # the client keeps the hashes of this list too
        response.read()
        yield from _hashes(json.loads(response.content))


def _hashes(content: Any) -> Iterator[str]:
    if isinstance(content, list):
        for each in content:
            yield from _hashes(each)
    elif isinstance(content, dict):
        for key, value in content.items():
            if isinstance(value, dict | list):
                yield from _hashes(value)
            elif key in ("oid", "sha256", "xetHash") and value is not None:
                yield str(value)
