"""The scales file: what calibration found, in one safetensors file with a JSON text in its header.

``docs/reference/scales.md`` is its specification.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from exaone_export import strict_json
from exaone_export.calibration.ranges import check_range
from exaone_export.errors import CalibrationError
from exaone_export.exporter.checkpoint import Checkpoint
from exaone_export.exporter.safetensors_file import SafetensorsHeader, TensorInfo
from exaone_export.precision import PARTS, input_sizes
from exaone_export.spec import ModelSpec

__all__ = ["SCHEMA_VERSION", "CalibrationData", "ProductRange", "ScalesFile", "check_destination"]

SCHEMA_VERSION = 1

_METADATA_KEY = "exaone_export"
_AGAIN = "make it again with: exaone-export calibrate MODEL OUT --data FILE.jsonl"


@dataclass(frozen=True)
class CalibrationData:
    """What the statistics were taken over.

    Attributes:
        sha256: Of the data file.
        samples: Prompts and chats that were used.
        tokens: Tokens of all of them.
        seq_length: Where each was cut.
    """

    sha256: str
    samples: int
    tokens: int
    seq_length: int


@dataclass(frozen=True)
class ProductRange:
    """One product's input.

    Attributes:
        range: The magnitude that becomes the largest value of a number format.
        channel_maximum: ``[in]`` float32, the largest magnitude of each channel.
    """

    range: float
    channel_maximum: torch.Tensor


@dataclass(frozen=True)
class ScalesFile:
    """The content of a scales file.

    Attributes:
        method: How ranges were chosen from statistics.
        formats: The number formats that the ranges are for.
        source: Name, revision and fingerprint of the checkpoint.
        data: What the statistics were taken over.
        ranges: One dict a layer, by part.
        sha256: Of the file; empty where it has not been written.
    """

    method: str
    formats: tuple[str, ...]
    source: dict[str, str | None]
    data: CalibrationData
    ranges: tuple[Mapping[str, ProductRange], ...]
    sha256: str = ""

    def write(self, path: Path, *, overwrite: bool = False) -> ScalesFile:
        """Write the file; one that stands there stays until the new one is whole.

        Returns:
            The same, with the file's hash.

        Raises:
            CalibrationError: A range cannot be used, or the file cannot be written.
        """
        tensors = {}
        for layer, parts in enumerate(self.ranges):
            for part, found in parts.items():
                check_range(found.range, found.channel_maximum, _place(layer, part))
                tensors[_name(layer, part, "range")] = torch.tensor(found.range, dtype=torch.float32)
                tensors[_name(layer, part, "channel_maximum")] = found.channel_maximum
        text = json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "method": self.method,
                "formats": list(self.formats),
                "source": self.source,
                "data": asdict(self.data),
            },
            sort_keys=True,
        )
        check_destination(path, overwrite=overwrite)
        data = safetensors.torch.save(tensors, {_METADATA_KEY: text})
        _write_whole(path, data)
        return replace(self, sha256=hashlib.sha256(data).hexdigest())

    @classmethod
    def read(cls, path: str | Path, spec: ModelSpec) -> ScalesFile:
        """Read a file and check that every number in it can be used.

        Args:
            path: The file.
            spec: The model that it must fit.

        Raises:
            CalibrationError: The file is missing, damaged, cut off or of another model's shape; or a range is missing,
                zero, negative, not finite, or a value that no calibration has put there. The message names the layer
                and the part.
        """
        path = Path(path).expanduser()
        if not path.exists():
            raise CalibrationError(f"{path} does not exist; {_AGAIN}.")
        header = SafetensorsHeader.read(path, error=CalibrationError, mend=_AGAIN)
        about = _parse_about(header)
        sizes = input_sizes(spec)
        _check_tensors(header, sizes, spec.num_hidden_layers)
        try:
            data = path.read_bytes()
            tensors = safetensors.torch.load(data)
        except (OSError, SafetensorError) as cause:
            raise CalibrationError(f"{path} changed while it was read ({cause}); run the command again.") from cause
        if not data.startswith(header.raw):
            raise CalibrationError(f"{path} changed while it was read; run the command again.")
        ranges = []
        for layer in range(spec.num_hidden_layers):
            parts = {}
            for part in sizes:
                found = tensors[_name(layer, part, "range")].item()
                parts[part] = ProductRange(found, tensors[_name(layer, part, "channel_maximum")])
                check_range(found, parts[part].channel_maximum, _place(layer, part))
                _check_method(about["method"], parts[part], _place(layer, part))
            ranges.append(parts)
        return cls(**about, ranges=tuple(ranges), sha256=hashlib.sha256(data).hexdigest())

    def check_fits(self, checkpoint: Checkpoint, number_format: str) -> None:
        """Raise unless the ranges are of this checkpoint and for this number format.

        Raises:
            CalibrationError: They are not.
        """
        if self.source["fingerprint"] != checkpoint.fingerprint():
            raise CalibrationError(
                f"the scales were made from {self.source['name']}, which is not the checkpoint {checkpoint.name} that "
                f"is exported (their fingerprints differ); {_AGAIN}."
            )
        if number_format not in self.formats:
            raise CalibrationError(
                f"the scales are for {', '.join(self.formats)}, and the precision needs {number_format}; {_AGAIN}."
            )

    def to_dict(self) -> dict[str, Any]:
        """The form that a manifest holds: where the scales came from."""
        return {"method": self.method, "sha256": self.sha256, "data": asdict(self.data)}


def check_destination(path: Path, *, overwrite: bool) -> None:
    """Refuse to write where something stands, before the work is done.

    Raises:
        CalibrationError: Something stands there that may not be replaced, or the folder is missing.
    """
    if path.is_dir():
        raise CalibrationError(f"{path} is a folder; give the path of a file, such as scales.safetensors.")
    if path.exists() and not overwrite:
        raise CalibrationError(f"{path} exists already; pass --overwrite to replace it.")
    if not path.parent.is_dir():
        raise CalibrationError(f"{path.parent} is not a folder; make it, or choose another path.")


def _name(layer: int, part: str, what: str) -> str:
    return f"layers.{layer}.{part}.{what}"


def _place(layer: int | str, part: str) -> str:
    return f"layer {layer}'s {part} projection"


def _check_method(method: str, found: ProductRange, where: str) -> None:
    """Raise where a range is not what its method makes of the channels: a bit that fell over shows here."""
    reach = found.channel_maximum.max().item()
    if method == "max" and found.range != reach:
        raise CalibrationError(
            f"the range of {where} is {found.range:g}, and its method takes the largest of its channels, {reach:g}; "
            f"{_AGAIN}."
        )


def _check_tensors(header: SafetensorsHeader, sizes: Mapping[str, int], layers: int) -> None:
    """Raise unless the file holds both tensors of every product, in the model's shapes, and nothing else."""
    expected: dict[str, tuple[int, ...]] = {}
    for index in range(layers):
        for part in PARTS:
            expected[_name(index, part, "range")] = ()
            expected[_name(index, part, "channel_maximum")] = (sizes[part],)
    for name, shape in expected.items():
        info: TensorInfo | None = header.tensors.get(name)
        if info is None:
            _, layer, part, what = name.split(".")
            raise CalibrationError(
                f"{header.path} lacks the {what.replace('_', ' ')} of {_place(layer, part)}; {_AGAIN}."
            )
        if info.shape != shape or info.dtype != "F32":
            raise CalibrationError(
                f"{name} in {header.path} is {info.dtype} {list(info.shape)} in place of F32 {list(shape)}, so it is "
                f"of another model; {_AGAIN}."
            )
    if extra := sorted(header.tensors.keys() - expected.keys()):
        raise CalibrationError(f"{header.path} has {extra[0][:80]!r}, which the model has no place for; {_AGAIN}.")


def _parse_about(header: SafetensorsHeader) -> dict[str, Any]:
    text = header.metadata.get(_METADATA_KEY)
    if text is None:
        raise CalibrationError(f"{header.path} is no scales file; {_AGAIN}.")
    about = strict_json.parse_object(text.encode(), name=f"the header of {header.path.name}", error=CalibrationError)
    version = about.pop("schema_version", None)
    if type(version) is not int or version != SCHEMA_VERSION:
        raise CalibrationError(
            f"{header.path} has schema version {version!r:.40}, and this program reads {SCHEMA_VERSION}; {_AGAIN}."
        )
    if about.keys() != _CHECKS.keys() or not all(check(about[key]) for key, check in _CHECKS.items()):
        raise CalibrationError(f"the header of {header.path} is not what a calibration writes; {_AGAIN}.")
    return about | {"formats": tuple(about["formats"]), "data": CalibrationData(**about["data"])}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _is_source(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"name", "revision", "fingerprint"}
        and isinstance(value["name"], str)
        and isinstance(value["fingerprint"], str)
        and isinstance(value["revision"], str | None)
    )


def _is_data(value: Any) -> bool:
    counts = {"samples", "tokens", "seq_length"}
    return (
        isinstance(value, dict)
        and value.keys() == counts | {"sha256"}
        and isinstance(value["sha256"], str)
        and all(type(value[name]) is int and value[name] > 0 for name in counts)
    )


_CHECKS = {
    "method": lambda value: isinstance(value, str),
    "formats": _is_texts,
    "source": _is_source,
    "data": _is_data,
}


def _write_whole(path: Path, data: bytes) -> None:
    """Write beside the destination, sync, rename."""
    # Not named after the destination, whose name may be as long as names can be.
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as cause:
        raise CalibrationError(f"{path} cannot be written ({cause.strerror}); choose another path.") from cause
    finally:
        partial.unlink(missing_ok=True)  # It is there when a write failed or Ctrl-C came.
