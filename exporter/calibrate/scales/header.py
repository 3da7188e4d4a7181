"""What a scales file says of itself, as JSON: how it was made, from what, and what each slice of the data reached."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from exaone_export.calibration.number_formats import FORMATS
from exaone_export.errors import CalibrationError
from exaone_export.files import strict_json
from exaone_export.model.tensors import PROJECTIONS
from exaone_export.targets.precision import FLOATS, KEPT_FLOAT, PRECISIONS
from exaone_export.targets.target import CACHE_PRECISIONS

from ..smoothing import FOLDED

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
METADATA_KEY = "exaone_export"


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
class WeightRounding:
    """How the weights in the file were rounded.

    Attributes:
        method: ``"nearest"``, ``"gptq"`` or ``"awq"``.
        blocks: By projection, how many weights of an output channel share a scale; empty where a whole channel does.
        signed: Whether scales may be negative, which TensorRT does not take.
    """

    method: str
    blocks: Mapping[str, int]
    signed: bool


@dataclass(frozen=True)
class SliceReach:
    """One slice of the data.

    Attributes:
        samples: Lines of it.
        tokens: Their tokens.
        reach: By projection, the largest magnitude that it brought to the input of each layer's product.
    """

    samples: int
    tokens: int
    reach: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one layer costs.

    Attributes:
        measure: ``"error"`` or ``"kl"``.
        layers: One figure a layer.
    """

    measure: str
    layers: tuple[float, ...]


def write_about(about: Mapping[str, Any]) -> str:
    """The JSON text of a file's fields, those of `_CHECKS`."""
    text = dict(about)
    for key in ("data", "weights", "sensitivity"):
        text[key] = None if about[key] is None else asdict(about[key])
    text["slices"] = {label: asdict(found) for label, found in about["slices"].items()}
    text["kept"] = {str(layer): kept for layer, kept in about["kept"].items()}
    return json.dumps({"schema_version": SCHEMA_VERSION, **{key: text[key] for key in _CHECKS}}, sort_keys=True)


def read_about(text: str, *, name: str, mend: str) -> dict[str, Any]:
    """Read the text, strictly: its keys are those of `_CHECKS`, and each value is one that a calibration writes.

    Raises:
        CalibrationError: It is anything else.
    """
    about = strict_json.parse_object(text.encode(), name=f"the header of {name}", error=CalibrationError)
    version = about.pop("schema_version", None)
    if type(version) is not int or version != SCHEMA_VERSION:
        raise CalibrationError(
            f"{name} has schema version {version!r:.40}, and this program reads {SCHEMA_VERSION}; {mend}."
        )
    if (
        about.keys() != _CHECKS.keys()
        or not all(check(about[key]) for key, check in _CHECKS.items())
        or bool(about["formats"]) == _rounds_weights_alone(about["precision"])
    ):
        raise CalibrationError(f"the header of {name} is not what a calibration writes; {mend}.")
    sensitivity = about["sensitivity"]
    return about | {
        "formats": tuple(about["formats"]),
        "data": CalibrationData(**about["data"]),
        "weights": about["weights"] and WeightRounding(**about["weights"]),
        "smoothed": tuple(about["smoothed"]),
        "kept": {int(layer): kept for layer, kept in about["kept"].items()},
        "sensitivity": sensitivity and Sensitivity(sensitivity["measure"], tuple(sensitivity["layers"])),
        "slices": {label: _slice(found) for label, found in about["slices"].items()},
    }


def fits_layers(about: Mapping[str, Any], layers: int) -> bool:
    """Whether what a header says of layers, it says of so many."""
    figures = [reach for found in about["slices"].values() for reach in found.reach.values()]
    if about["sensitivity"] is not None:
        figures.append(about["sensitivity"].layers)
    return all(len(found) == layers for found in figures) and all(layer < layers for layer in about["kept"])


def _slice(found: dict[str, Any]) -> SliceReach:
    reach = {projection: tuple(layers) for projection, layers in found["reach"].items()}
    return SliceReach(found["samples"], found["tokens"], reach)


def _rounds_weights_alone(precision: str | None) -> bool:
    return precision is not None and PRECISIONS[precision].activations is None


# What a value may be.


def _is_one_of(*allowed: str | None) -> Callable[[Any], bool]:
    return lambda value: (value is None and None in allowed) or (isinstance(value, str) and value in allowed)


def _is_formats(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text in FORMATS for text in value)


def _is_source(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"name", "revision", "fingerprint"}
        and isinstance(value["name"], str)
        and isinstance(value["fingerprint"], str)
        and isinstance(value["revision"], str | None)
    )


def _are_counts(value: dict[str, Any], *names: str) -> bool:
    return all(type(value[name]) is int and value[name] > 0 for name in names)


def _is_data(value: Any) -> bool:
    counts = ("samples", "tokens", "seq_length")
    return (
        isinstance(value, dict)
        and value.keys() == {*counts, "sha256"}
        and isinstance(value["sha256"], str)
        and _are_counts(value, *counts)
    )


def _is_rounding(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and value.keys() == {"method", "blocks", "signed"}
        and isinstance(value["method"], str)
        and isinstance(value["signed"], bool)
        and isinstance(value["blocks"], dict)
        and value["blocks"].keys() in (set(), set(PROJECTIONS))
        and _are_counts(value["blocks"], *value["blocks"])
    )


def _is_smoothed(value: Any) -> bool:
    return isinstance(value, list) and value in ([], [*FOLDED], [*PROJECTIONS])


def _is_kept(value: Any) -> bool:
    allowed = {KEPT_FLOAT, *PRECISIONS} - {*FLOATS}
    return isinstance(value, dict) and all(
        re.fullmatch(r"0|[1-9]\d{0,5}", layer) and isinstance(kept, str) and kept in allowed
        for layer, kept in value.items()
    )


def _are_figures(value: Any) -> bool:
    return isinstance(value, list) and all(type(figure) in (int, float) and math.isfinite(figure) for figure in value)


def _is_sensitivity(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and value.keys() == {"measure", "layers"}
        and isinstance(value["measure"], str)
        and _are_figures(value["layers"])
    )


def _are_slices(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(found, dict)
        and found.keys() == {"samples", "tokens", "reach"}
        and _are_counts(found, "samples", "tokens")
        and isinstance(found["reach"], dict)
        and found["reach"].keys() == set(PROJECTIONS)
        and all(_are_figures(reach) for reach in found["reach"].values())
        for found in value.values()
    )


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "method": lambda value: isinstance(value, str),
    "formats": _is_formats,
    "source": _is_source,
    "data": _is_data,
    "precision": _is_one_of(None, *(name for name in PRECISIONS if name not in FLOATS)),
    "weights": _is_rounding,
    "smoothed": _is_smoothed,
    "cache_format": _is_one_of(None, *CACHE_PRECISIONS),
    "kept": _is_kept,
    "sensitivity": _is_sensitivity,
    "slices": _are_slices,
}
