"""Every file that is read of a checkpoint belongs to it, is a regular one, and is data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from exaone_export.artifact import sidecars
from exaone_export.errors import CheckpointError, ConfigError, ExaoneExportError
from exaone_export.files import strict_json
from exaone_export.files.containment import check_file, find_outside, read_file
from exaone_export.model.config.reading import MAX_CONFIG_BYTES, check_family
from exaone_export.model.families import EXAONE3

from .weight_files import adapter

__all__ = ["check_files", "read_small_file"]

_ADAPTER = "adapter_config.json"
_TEMPLATES = "additional_chat_templates"
_WEIGHTS = (".safetensors",)
_NEVER_OPENED = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".gguf", ".msgpack")


def check_files(folder: Path) -> dict[str, str]:
    """Check what this program and transformers read in a checkpoint's folder, before anything of it is read.

    Weights may be hard links, which are how copies of many gigabytes are shared on a disk: their content only ever
    becomes numbers. The small files are copied into artifacts as they are.

    Returns:
        Sha256 of each small file, by name.

    Raises:
        CheckpointError: A file leads out of the folder, is special, shared, too large, or asks for code or for another
            file; or the folder holds an adapter.
        ConfigError: ``config.json`` is such a file.
    """
    digests = {}
    for path in _read(folder):
        if path.name == _ADAPTER and not (folder / "config.json").exists():
            raise CheckpointError(_adapter_alone(path))
        if path.name == _ADAPTER:
            raise CheckpointError(
                f"{folder} holds {_ADAPTER}, and with an adapter transformers loads another model; merge the adapter "
                f"into the weights, or remove the file."
            )
        error = ConfigError if path.name == "config.json" else CheckpointError
        if path.suffix in _WEIGHTS:
            check_file(path, root=folder, max_bytes=None, error=error, shared=True)
        elif path.name.endswith(".index.json"):
            check_file(path, root=folder, max_bytes=sidecars.MAX_SIDECAR_BYTES, error=error)
        else:
            check_file(path, root=folder, max_bytes=sidecars.max_bytes_of(path.name), error=error)
            original = False
            if path.name == "config.json":  # before advice that would be of no use to another family
                config = strict_json.read_object(path, max_bytes=MAX_CONFIG_BYTES, error=ConfigError)
                check_family(config)
                original = config["model_type"] == EXAONE3.model_type
            sidecars.check_content(path, error, original=original)
            if path.parent == folder:
                digests[path.name] = _digest(_contained(path, folder, error))
    return digests


def read_small_file(folder: Path, name: str, digest: str) -> bytes:
    """Read a small file as it was when `check_files` gave its digest.

    Raises:
        CheckpointError: It changed, or leads elsewhere.
    """
    data = _contained(folder / name, folder, CheckpointError)
    if _digest(data) != digest:
        raise CheckpointError(f"{folder / name} changed while it was read; run the command again.")
    return data


def _contained(path: Path, folder: Path, error: type[ExaoneExportError]) -> bytes:
    return read_file(path, root=folder, max_bytes=sidecars.max_bytes_of(path.name), error=error)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _adapter_alone(path: Path) -> str:
    check_file(path, root=path.parent, max_bytes=sidecars.max_bytes_of(path.name), error=CheckpointError)
    base = strict_json.read_object(path, max_bytes=sidecars.max_bytes_of(path.name), error=CheckpointError).get(
        "base_model_name_or_path"
    )
    return adapter(path.parent, f" of {base!r:.80}" if isinstance(base, str) else "")


def _read(folder: Path) -> Iterator[Path]:
    """What lies there and is read; a folder, and a link that leads nowhere, are as if they were missing."""
    names = [*sidecars.names_read(folder), *(path.name for path in sorted(folder.glob("LICENSE*")))]
    for path in (folder / name for name in names):
        if path.name == _TEMPLATES and path.is_dir() and find_outside(path, folder)[0]:
            yield path  # to be refused, before a folder of another place is looked into
        elif path.name == _TEMPLATES and path.is_dir():
            yield from (template for template in sorted(path.glob("*.jinja")) if template.exists())
        elif path.exists() and not path.is_dir() and path.suffix not in _NEVER_OPENED:
            yield path
