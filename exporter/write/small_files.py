"""The files of an artifact beside graph and weights: config, tokenizer, chat template, licence."""

from __future__ import annotations

import json
from pathlib import Path

from exaone_export.artifact import sidecars
from exaone_export.errors import CheckpointError

from ..checkpoint.checkpoint import Checkpoint

__all__ = ["copy_small_files"]


def copy_small_files(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy what the checkpoint's sidecars held when it was opened, and write the config that is exported.

    Raises:
        CheckpointError: A file was changed since, or holds what an artifact must not.
        OSError: The folder cannot be written.
    """
    for sidecar in checkpoint.sidecars:
        copy = folder / sidecar.name
        copy.write_bytes(checkpoint.read_sidecar(sidecar.name))
        sidecars.check_content(copy, CheckpointError)
    # The artifact's config is of what was exported, in a spelling that transformers 5 knows.
    config = json.dumps(dict(checkpoint.config), indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")
