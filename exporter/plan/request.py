"""What the arguments of an export decide by themselves, refused before torch is loaded or a model downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exaone_export.artifact.writer import ArtifactWriter
from exaone_export.errors import ConfigError
from exaone_export.files import strict_json
from exaone_export.model.hf_config import MAX_CONFIG_BYTES
from exaone_export.planning.setting import check_prefill_chunk
from exaone_export.targets.precision import canonical

from .recipe import choose_target

__all__ = ["check_export"]


def check_export(
    model: str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    target: str = "ort-cpu",
    precision: str | None = None,
    compute_type: str | None = None,
    cache_precision: str | None = None,
    prefill_chunk: int | None = None,
    **_others: Any,
) -> None:
    """Refuse what `exaone_export.exporter.export.export` would refuse whatever the checkpoint's weights are.

    Args:
        model: A folder in Hugging Face form, or a hub id.
        out: The artifact folder to make.
        overwrite: Whether an artifact at ``out`` may be replaced.
        target: As `exaone_export.exporter.export.plan_export`, like the rest.
        precision: Likewise.
        compute_type: Likewise.
        cache_precision: Likewise.
        prefill_chunk: Likewise.

    Raises:
        ArtifactError: ``out`` cannot be written.
        ConfigError: The target has no use for ``prefill_chunk``.
        TargetError: The target is unknown, or does not run what is asked for.
    """
    ArtifactWriter(out, overwrite).check()
    place = choose_target(model, target, precision, cache_precision)
    check_prefill_chunk(place, prefill_chunk)
    if _is_quantized(Path(model).expanduser()):
        return  # what can be chosen depends on how
    chosen = place.check_precision(precision or place.precisions[0])
    place.check_compute_type(chosen, None if compute_type is None else canonical(compute_type))


def _is_quantized(folder: Path) -> bool:
    """Whether a checkpoint's config says that it is quantized, or cannot be read, which is for its own check."""
    if not folder.is_dir():
        return True
    try:
        config = strict_json.read_object(folder / "config.json", max_bytes=MAX_CONFIG_BYTES, error=ConfigError)
    except (ConfigError, OSError):
        return True
    return config.get("quantization_config") is not None
