"""The files of an artifact beside graph and weights: config, tokenizer, chat template, licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exaone_export.artifact import sidecars
from exaone_export.artifact.genai_config import GENAI_NAME, genai_config, read_genai_inputs
from exaone_export.errors import CheckpointError

from ..plan.export_plan import ExportPlan

__all__ = ["write_small_files"]


def write_small_files(plan: ExportPlan, folder: Path) -> None:
    """Copy what the checkpoint's sidecars held when it was opened, and write what is said of the exported model.

    Raises:
        CheckpointError: A file was changed since, or holds what an artifact must not.
        OSError: The folder cannot be written.
    """
    checkpoint = plan.checkpoint
    for sidecar in checkpoint.sidecars:
        if sidecar.name in (GENAI_NAME, "config.json"):  # of another export of the checkpoint; written below
            continue
        copy = folder / sidecar.name
        copy.write_bytes(checkpoint.read_sidecar(sidecar.name))
        sidecars.check_content(copy, CheckpointError)
    # The artifact's config is of what was exported, in a spelling that transformers 5 knows.
    _write(folder / "config.json", dict(checkpoint.config))
    read = read_genai_inputs(folder, CheckpointError)
    if (said := genai_config(checkpoint.spec, plan.layout, plan.target, read)) is not None:
        _write(folder / GENAI_NAME, said)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
