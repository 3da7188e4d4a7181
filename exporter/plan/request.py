"""What the arguments of an export decide by themselves, refused before torch is loaded or a model downloaded."""

from __future__ import annotations

from pathlib import Path

from exaone_export.artifact.writer import ArtifactWriter
from exaone_export.errors import ConfigError
from exaone_export.files import strict_json
from exaone_export.model.config.reading import MAX_CONFIG_BYTES
from exaone_export.planning.prefill import check_prefill_chunk

from .options import ExportOptions
from .recipe import choose_target

__all__ = ["check_export"]


def check_export(model: str | Path, out: str | Path, options: ExportOptions, *, overwrite: bool = False) -> None:
    """Refuse what `exaone_export.exporter.export.export` would refuse whatever the checkpoint's weights are.

    Args:
        model: A folder in Hugging Face form, or a hub id.
        out: The artifact folder to make.
        options: The options of the export.
        overwrite: Whether an artifact at ``out`` may be replaced.

    Raises:
        ArtifactError: ``out`` cannot be written.
        ConfigError: The target has no use for ``prefill_chunk``.
        TargetError: The target is unknown, or does not run the options.
    """
    ArtifactWriter(out, overwrite).check()
    target = choose_target(model, options)
    check_prefill_chunk(target, options.prefill_chunk)
    if _is_quantized(Path(model).expanduser()):
        return  # what can be chosen depends on how
    precision = target.check_precision(options.precision or target.precisions[0])
    target.check_compute_type(precision, options.compute_type)
    target.check_prefill_precision(precision, options.prefill_precision)


def _is_quantized(folder: Path) -> bool:
    """Whether a checkpoint's config says that it is quantized, or cannot be read, which is for its own check."""
    path = folder / "config.json"
    if not folder.is_dir() or path.is_symlink():  # of links, the checkpoint knows which may be followed
        return True
    try:
        config = strict_json.read_object(path, max_bytes=MAX_CONFIG_BYTES, error=ConfigError)
    except (ConfigError, OSError):
        return True
    return config.get("quantization_config") is not None
