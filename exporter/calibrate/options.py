"""The options of a calibration, checked before anything is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exaone_export.errors import CalibrationError, ConfigError
from exaone_export.files.destination import check_replaceable, resolve_path
from exaone_export.planning.sizes import parse_size
from exaone_export.targets.precision import FLOATS, KEPT_FLOAT, PRECISIONS
from exaone_export.targets.target import CACHE_PRECISIONS

from ..checkpoint.safetensors_file import read_texts
from ..option_types import convert_types

__all__ = [
    "METADATA_KEY",
    "METHODS",
    "PRECISION_NAMES",
    "ROUNDINGS",
    "SENSITIVITIES",
    "SMOOTHINGS",
    "WEIGHTS_STAY",
    "Options",
    "check_destination",
]

PRECISION_NAMES = tuple(name for name in PRECISIONS if name not in FLOATS)
METHODS = ("max", "percentile", "entropy", "mse")
ROUNDINGS = ("nearest", "gptq", "awq")
SMOOTHINGS = ("none", "fold", "explicit")
SENSITIVITIES = ("error", "kl")
SAMPLES, SEQ_LENGTH = 128, 512

METADATA_KEY = "exaone_export"
"""Of the text in a scales file's header that says how the file was made."""

WEIGHTS_STAY = (
    "the weights of this checkpoint are already quantized and do not change; calibrate it with --cache alone, or "
    "with no option but --data."
)
"""Error message for a calibration that would change the weights of a quantized checkpoint."""

# A run continues an interrupted one that read the same model and samples, however they were chosen.
_READING = ("samples", "seq_length", "max_tokens", "revision", "head")


@dataclass(frozen=True)
class Options:
    """The options of a calibration, beside the checkpoint and the data.

    Attributes:
        precision: The precision that the file is for; None for the input ranges of int8 and fp8.
        method: How a range is chosen from statistics.
        weights: How weights are rounded; None for the precision's default.
        smooth: Which inputs are smoothed: ``none``, those whose division folds into a weight, or all.
        cache: Number format of the cache, to find its scales; None for no scales.
        signed_scales: Whether scales of int4 may be negative.
        keep_layers: Extra size allowed for layers in a higher precision, such as ``"10%"`` of the layers' weights or
            ``"200MiB"``; None for no such layers.
        sensitivity: How the layers that lose most are found; None for ``error``.
        samples: The most lines that are read.
        seq_length: Length in tokens that each is cut to.
        max_tokens: Length in tokens that all of them together are cut to; None for no limit.
        revision: Branch, tag or commit of a hub id.
        head: The kind of head, as `exaone_export.model.config.head.choose_head` takes it; None for the checkpoint's
            own.

    Raises:
        CalibrationError: A value is unknown, or two contradict each other.
        UnsupportedOptionError: A value has another type.
    """

    precision: str | None = None
    method: str = "max"
    weights: str | None = None
    smooth: str = "none"
    cache: str | None = None
    signed_scales: bool = False
    keep_layers: str | None = None
    sensitivity: str | None = None
    samples: int = SAMPLES
    seq_length: int = SEQ_LENGTH
    max_tokens: int | None = None
    revision: str | None = None
    head: str | None = None

    def __post_init__(self) -> None:
        convert_types(self)
        for name, value, allowed in (
            ("precision", self.precision, (None, *PRECISION_NAMES)),
            ("method", self.method, METHODS),
            ("weights", self.weights, (None, *ROUNDINGS)),
            ("smooth", self.smooth, SMOOTHINGS),
            ("cache", self.cache, (None, *CACHE_PRECISIONS)),
            ("sensitivity", self.sensitivity, (None, *SENSITIVITIES)),
        ):
            if value not in allowed:
                choices = ", ".join(choice for choice in allowed if choice is not None)
                raise CalibrationError(f"{name} is {value!r:.40}; choose --{name} from: {choices}.")
        if flaw := self._contradiction():
            raise CalibrationError(flaw)
        if self.keep_layers is not None:
            self.budget(100)

    @property
    def choices(self) -> dict[str, Any]:
        """The options that decide the scales; the others decide which model and samples are read."""
        return {name: value for name, value in vars(self).items() if name not in _READING}

    @property
    def formats(self) -> tuple[str, ...]:
        """The number formats that ranges are chosen for."""
        chosen = PRECISIONS.values() if self.precision is None else (PRECISIONS[self.precision],)
        return tuple(sorted({choice.activations for choice in chosen if choice.activations is not None}))

    @property
    def rounding(self) -> str | None:
        """How weights are rounded here; None where the export rounds them."""
        if not self.rounds_weights_alone:
            return None
        return self.weights or ("gptq" if self.precision == "int4" else "nearest")

    @property
    def rounds_weights_alone(self) -> bool:
        """Whether the precision does not round inputs."""
        return self.precision is not None and PRECISIONS[self.precision].activations is None

    @property
    def changes_weights(self) -> bool:
        """Whether weights are rounded or smoothed, or some layers have another precision."""
        return self.rounding is not None or self.smooth != "none" or self.keep_layers is not None

    @property
    def passes(self) -> int:
        """How often the data pass through a layer."""
        smooths = self.smooth != "none" or self.rounding == "awq"
        return 1 + smooths + (self.measure == "error")

    @property
    def kept_precision(self) -> str:
        """Precision of the layers that lose most."""
        return "int8-weights" if self.precision == "int4" else KEPT_FLOAT

    @property
    def measure(self) -> str | None:
        """How the layers that lose most are found; None if all have one precision."""
        return None if self.keep_layers is None else self.sensitivity or "error"

    def budget(self, quantized_bytes: int) -> int:
        """Bytes that layers in a higher precision may take beyond ``quantized_bytes``, those of all layers' weights.

        Raises:
            CalibrationError: ``keep_layers`` is not a valid size.
        """
        assert self.keep_layers is not None
        share = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?%", self.keep_layers.strip())
        try:
            if share is None:
                return parse_size(self.keep_layers)
            if float(share[1]) > 0:
                return int(float(share[1]) * (quantized_bytes / 100))
        except ConfigError:
            pass
        raise CalibrationError(
            f"keep layers is {self.keep_layers!r:.40}; pass a share or a size above 0, such as 10% or 200MiB."
        )

    def _contradiction(self) -> str | None:
        named = f"precision {self.precision}"
        alone = [name for name in PRECISION_NAMES if PRECISIONS[name].activations is None]
        if self.precision is None:
            for option, value in {
                "--weights": self.weights,
                "--keep-layers": self.keep_layers,
                "--smooth": None if self.smooth == "none" else self.smooth,
                "--method": None if self.method == "max" else self.method,
            }.items():
                if value is not None:
                    return f"{option} {value} is for one precision; pass --precision too, or leave it out."
        elif self.rounds_weights_alone and self.method != "max":
            return f"{named} rounds no inputs, so it has no range to choose; leave --method {self.method} out."
        elif not self.rounds_weights_alone and self.weights is not None:
            return (
                f"{named} has its weights rounded at the export; leave --weights {self.weights} out, or pass "
                f"--precision {' or '.join(alone)}."
            )
        if self.smooth != "none" and self.precision != "int8":
            return f"smoothing is for int8 inputs; leave --smooth {self.smooth} out, or pass --precision int8."
        if self.signed_scales and (self.precision != "int4" or self.rounding == "awq"):
            return "signed scales are for int4 by gptq or nearest; leave --signed-scales out, or pass --precision int4."
        if self.sensitivity is not None and self.keep_layers is None:
            return f"--sensitivity {self.sensitivity} chooses the layers to keep; pass --keep-layers too, such as 10%."
        return None


def check_destination(path: Path, *, overwrite: bool) -> None:
    """Refuse to write where something stands, before the work is done.

    Raises:
        CalibrationError: Something stands there that may not be replaced, or the folder is missing.
    """
    if path.is_dir():
        raise CalibrationError(f"{path} is a folder; give the path of a file, such as scales.safetensors.")
    if path.exists():
        if not overwrite:
            raise CalibrationError(f"{path} exists already; pass --overwrite to replace it.")
        if not _is_ours(path):
            raise CalibrationError(
                f"{path} is not a scales file, and would be lost; remove it, or choose another path."
            )
    if not path.parent.is_dir():
        raise CalibrationError(f"{path.parent} is not a folder; make it, or choose another path.")
    check_replaceable(resolve_path(path.parent, CalibrationError) / path.name, CalibrationError)


def _is_ours(path: Path) -> bool:
    """Whether a file is one that a calibration has written, cut off or not, or holds nothing: what may be lost."""
    return METADATA_KEY in read_texts(path) or (path.is_file() and path.stat().st_size == 0)
