"""What a scales file says of itself, as JSON: how it was made, from what, and what each slice of the data reached."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

import msgspec

from exaone_export.calibration.number_formats import FORMATS
from exaone_export.errors import CalibrationError
from exaone_export.files import strict_json
from exaone_export.files.records import Count, Record, one_of, read_record
from exaone_export.model.tensors import PROJECTIONS
from exaone_export.targets.precision import FLOATS, KEPT_FLOAT, PRECISIONS
from exaone_export.targets.target import CACHE_PRECISIONS

from ..options import METADATA_KEY
from ..smoothing import BEHIND_WEIGHTS

__all__ = [
    "METADATA_KEY",
    "SCHEMA_VERSION",
    "CalibrationData",
    "Sensitivity",
    "SliceReach",
    "WeightRounding",
    "fits_layers",
    "read_about",
    "write_about",
]

SCHEMA_VERSION = 2

_Projection = Annotated[str, one_of(PROJECTIONS)]
_Quantized = Annotated[str, one_of(name for name in PRECISIONS if name not in FLOATS)]
_Kept = Annotated[str, one_of((KEPT_FLOAT, *(name for name in PRECISIONS if name not in FLOATS)))]
_Layer = Annotated[int, msgspec.Meta(ge=0, lt=10**6)]
_Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]


class CalibrationData(Record, frozen=True):
    """What the statistics were taken over.

    Attributes:
        sha256: Of the data file.
        samples: Prompts and chats that were used.
        tokens: Tokens of all of them.
        seq_length: Where each was cut.
    """

    sha256: str
    samples: Count
    tokens: Count
    seq_length: Count


class WeightRounding(Record, frozen=True):
    """How the weights in the file were rounded.

    Attributes:
        method: ``"nearest"``, ``"gptq"`` or ``"awq"``.
        blocks: By projection, how many weights of an output channel share a scale; empty where a whole channel does.
        signed: Whether scales may be negative, which TensorRT does not take.
    """

    method: str
    blocks: dict[_Projection, Count]
    signed: bool

    def __post_init__(self) -> None:
        if self.blocks.keys() not in (set(), set(PROJECTIONS)):
            raise ValueError(f"blocks must name {', '.join(PROJECTIONS)}, or none of them")


class SliceReach(Record, frozen=True):
    """One slice of the data.

    Attributes:
        samples: Lines of it.
        tokens: Their tokens.
        reach: By projection, the largest magnitude that it brought to the input of each layer's product.
    """

    samples: Count
    tokens: Count
    reach: dict[_Projection, tuple[_Finite, ...]]

    def __post_init__(self) -> None:
        if self.reach.keys() != set(PROJECTIONS):
            raise ValueError(f"reach must name {', '.join(PROJECTIONS)}")


class Sensitivity(Record, frozen=True):
    """What quantizing one layer costs.

    Attributes:
        measure: ``"error"`` or ``"kl"``.
        layers: One figure a layer.
    """

    measure: str
    layers: tuple[_Finite, ...]


class _Source(TypedDict):
    name: str
    revision: str | None
    fingerprint: str


class _Header(Record, frozen=True):
    """The fields of the JSON text, beside its version."""

    method: str
    formats: tuple[Annotated[str, one_of(FORMATS)], ...]
    source: _Source
    data: CalibrationData
    precision: _Quantized | None
    weights: WeightRounding | None
    smoothed: tuple[_Projection, ...]
    cache_format: Annotated[str, one_of(CACHE_PRECISIONS)] | None
    kept: dict[_Layer, _Kept]
    sensitivity: Sensitivity | None
    slices: dict[str, SliceReach]

    def __post_init__(self) -> None:
        if self.smoothed not in ((), BEHIND_WEIGHTS, tuple(PROJECTIONS)):
            raise ValueError("smoothed must name output and down, all projections, or none")
        if bool(self.formats) == (self.precision is not None and PRECISIONS[self.precision].activations is None):
            raise ValueError("formats must be given unless the precision rounds weights alone")


def write_about(about: Mapping[str, Any]) -> str:
    """The JSON text of a file's fields, those of `_Header`."""
    fields = msgspec.to_builtins({key: about[key] for key in _Header.__struct_fields__}, str_keys=True)
    return json.dumps({"schema_version": SCHEMA_VERSION, **fields}, sort_keys=True)


def read_about(text: str, *, name: str, fix: str) -> dict[str, Any]:
    """Read the text, strictly: its keys are those of `_Header`, and each value is one that a calibration writes.

    Raises:
        CalibrationError: It is anything else.
    """
    about = strict_json.parse_object(text.encode(), name=f"the header of {name}", error=CalibrationError)
    version = about.pop("schema_version", None)
    if type(version) is not int or version != SCHEMA_VERSION:
        raise CalibrationError(
            f"{name} has schema version {version!r:.40}, and this program reads {SCHEMA_VERSION}; {fix}."
        )
    header = read_record(about, _Header, name=f"the header of {name}", fix=fix, error=CalibrationError)
    return msgspec.structs.asdict(header)


def fits_layers(about: Mapping[str, Any], layers: int) -> bool:
    """Whether what a header says of layers, it says of so many."""
    figures = [reach for found in about["slices"].values() for reach in found.reach.values()]
    if about["sensitivity"] is not None:
        figures.append(about["sensitivity"].layers)
    return all(len(found) == layers for found in figures) and all(layer < layers for layer in about["kept"])
