"""The scales file: what calibration found, in one safetensors file with a JSON text in its header.

``docs/reference/scales.md`` is its specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from exaone_export.calibration.ranges import check_range
from exaone_export.calibration.weights import QuantizedWeight
from exaone_export.errors import CalibrationError
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import PROJECTIONS
from exaone_export.targets.precision import PRECISIONS
from exaone_export.targets.recipe import Recipe

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.safetensors_file import SafetensorsHeader
from ...checkpoint.tensor_file import map_tensors, read_header, write_tensors
from ...quantize.packed_int4 import unpack_int4
from ..options import check_destination
from .checks import AGAIN, check_method, check_scale, check_tensors
from .header import (
    METADATA_KEY,
    SCHEMA_VERSION,
    CalibrationData,
    Sensitivity,
    SliceReach,
    WeightRounding,
    fits_layers,
    read_about,
    write_about,
)
from .layout import HEAD_SCALE, HEAD_VALUES, expected_tensors, place, tensor_name

__all__ = [
    "SCHEMA_VERSION",
    "CalibrationData",
    "ProductRange",
    "ScalesFile",
    "Sensitivity",
    "SliceReach",
    "WeightRounding",
]


@dataclass(frozen=True)
class ProductRange:
    """One product's input, after smoothing where there is any.

    Attributes:
        range: The magnitude that becomes the largest value of a number format.
        channel_maximum: ``[in]`` float32, the largest magnitude of each channel.
    """

    range: float
    channel_maximum: torch.Tensor


@dataclass(frozen=True)
class ScalesFile:
    """The content of a scales file. Tensors of one that was read stay on disk until they are used.

    Attributes:
        method: How ranges were chosen from statistics.
        formats: The number formats that the ranges are for; none where the precision rounds weights alone.
        source: Name, revision and fingerprint of the checkpoint.
        data: What the statistics were taken over.
        ranges: One dict a layer, by projection.
        sha256: Of the file; empty where it has not been written.
        precision: The one that the file is for; None where it holds ranges for any of ``formats``.
        weights: How the weights in the file were rounded; None where there are none.
        smoothed: The projections whose inputs are divided by `smoothing`.
        cache_format: Of the scales that `cache` gives; None where there are none.
        kept: By layer, what it is kept in: a precision, or ``"float"`` for the compute type. Others have ``precision``.
        sensitivity: What each layer loses; None where it was not measured.
        slices: By name, what each slice of the data reached.
        tensors: By name, all but the ranges; `smoothing`, `weight` and `cache` read them.
        header: Of the file that was read; None where it has not been.
    """

    method: str
    formats: tuple[str, ...]
    source: dict[str, str | None]
    data: CalibrationData
    ranges: tuple[Mapping[str, ProductRange], ...]
    sha256: str = ""
    precision: str | None = None
    weights: WeightRounding | None = None
    smoothed: tuple[str, ...] = ()
    cache_format: str | None = None
    kept: Mapping[int, str] = field(default_factory=dict)
    sensitivity: Sensitivity | None = None
    slices: Mapping[str, SliceReach] = field(default_factory=dict)
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    header: SafetensorsHeader | None = field(default=None, repr=False, compare=False)

    @property
    def block(self) -> Mapping[str, int]:
        """By projection, how many weights of an output channel share a scale; empty where a whole channel does."""
        return {} if self.weights is None else self.weights.blocks

    def smoothing(self, layer: int, projection: str) -> torch.Tensor | None:
        """``[in]`` float32: the product's input is divided by it, and its weight's columns are multiplied by it.

        `exaone_export.exporter.calibrate.smoothing.weight_factors` has the latter, and what divides the rows of the
        weights in front where that is where the division happens (``output`` and ``down``).
        """
        return self.tensors.get(tensor_name(layer, projection, "smoothing"))

    def has_weight(self, layer: int, projection: str) -> bool:
        """Whether the calibration has rounded the weight; otherwise the export does, or the layer is kept in float."""
        return tensor_name(layer, projection, "values") in self.tensors

    @property
    def has_head(self) -> bool:
        """Whether the calibration has rounded the vocabulary projection."""
        return HEAD_VALUES in self.tensors

    def weight(self, layer: int, projection: str, rows: slice = slice(None)) -> QuantizedWeight | None:
        """The rounded weight, smoothed before it was; None where `has_weight` is false.

        Scales are bfloat16 numbers, which float32 holds exactly, and float16 from 2^-17 on. Only the output channels
        ``rows`` are read.

        Raises:
            CalibrationError: A scale is zero or not finite.
        """
        name, scale_name = (tensor_name(layer, projection, what) for what in ("values", "scale"))
        precision = PRECISIONS.get(self.kept.get(layer, str(self.precision)))
        packed = precision is not None and precision.weights == "int4"
        return self._rows(name, scale_name, rows, packed, f"a scale of the weight of {place(layer, projection)}")

    def head(self, rows: slice = slice(None)) -> QuantizedWeight | None:
        """The rounded vocabulary projection ``[vocab_size, hidden_size]``; None where `has_head` is false.

        Only the output channels ``rows`` are read. Raises as `weight`.
        """
        return self._rows(HEAD_VALUES, HEAD_SCALE, rows, True, "a scale of the vocabulary projection")

    def _rows(self, name: str, scale_name: str, rows: slice, packed: bool, called: str) -> QuantizedWeight | None:
        values = self.tensors.get(name)
        if values is None:
            return None
        values, scale = values[rows], self.tensors[scale_name][rows]
        check_scale(scale, called, signed=True)
        return QuantizedWeight(unpack_int4(values) if packed else values, scale)

    def cache(self, layer: int, *, smoothed: bool = True) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Scales of keys and values, ``[num_key_value_heads, head_dim]`` float32 each.

        Args:
            layer: Whose cache.
            smoothed: Whether the layer's weights are smoothed where the scales are used, as they were when the scales
                were measured: smoothing of ``output`` divides the values that the cache holds.
        """
        key = self.tensors.get(tensor_name(layer, "cache", "key_scale"))
        if key is None:
            return None
        value = self.tensors[tensor_name(layer, "cache", "value_scale")]
        factor = None if smoothed else self.smoothing(layer, "output")
        if factor is not None:
            heads, head_dim = value.shape  # the query heads that read one head of values have its factors
            value = value * factor.reshape(heads, -1, head_dim)[:, 0]
        return key, value

    def write(self, path: Path, *, overwrite: bool = False, staged: Path | None = None) -> ScalesFile:
        """Write the file; one that stands there stays until the new one is whole.

        Args:
            path: The file.
            overwrite: Whether one that stands there may be replaced.
            staged: Where it is written before it is renamed; beside its destination by default.

        Returns:
            The same, with the file's hash.

        Raises:
            CalibrationError: A number cannot be used, or the file cannot be written.
        """
        tensors = dict(self.tensors)
        for layer, ranges in enumerate(self.ranges):
            for projection, found in ranges.items():
                check_range(found.range, found.channel_maximum, place(layer, projection))
                tensors[tensor_name(layer, projection, "range")] = torch.tensor(found.range, dtype=torch.float32)
                tensors[tensor_name(layer, projection, "channel_maximum")] = found.channel_maximum
        self._check_small_tensors()
        check_destination(path, overwrite=overwrite)
        sha256 = write_tensors(path, tensors, {METADATA_KEY: write_about(vars(self))}, staged)
        return replace(self, sha256=sha256)

    @classmethod
    def read(cls, path: str | Path, spec: ModelSpec) -> ScalesFile:
        """Map a file and check that every number in it can be used; those of weights are checked by `weight`.

        Args:
            path: The file.
            spec: The model that it must fit.

        Raises:
            CalibrationError: The file is missing, damaged, cut off or of another model's shape; or a range or a scale
                is missing, zero, negative or not finite. The message names the layer and the projection.
        """
        path = Path(path).expanduser()
        if not path.exists():
            raise CalibrationError(f"{path} does not exist; {AGAIN}.")
        header = read_header(path, AGAIN)
        text, layers = header.metadata.get(METADATA_KEY), spec.num_hidden_layers
        if text is None:
            raise CalibrationError(f"{path} is not a scales file; {AGAIN}.")
        about = read_about(text, name=path.name, fix=AGAIN)
        # Of the same checkpoint, the bare model takes the file of the language model too.
        has_head = spec.head.is_causal_lm or HEAD_VALUES in header.tensors
        check_tensors(header, expected_tensors(spec, about, has_head=has_head))
        if not fits_layers(about, layers):
            raise CalibrationError(f"the header of {path.name} is not what a calibration writes; {AGAIN}.")
        tensors, sha256 = map_tensors(path, header)
        ranges = tuple(
            {projection: _take_range(tensors, about["method"], layer, projection) for projection in PROJECTIONS}
            for layer in range(layers)
        )
        scales = cls(**about, ranges=ranges, sha256=sha256, tensors=tensors, header=header)
        scales._check_small_tensors()
        return scales

    def check_unchanged(self) -> None:
        """Raise CalibrationError where the file was replaced or written to since it was read."""
        if self.header is not None:
            self.header.check_unchanged(error=CalibrationError)

    def check_fits(self, checkpoint: Checkpoint, number_format: str | None) -> None:
        """Raise unless the ranges are of this checkpoint and for this number format, where one is given.

        Raises:
            CalibrationError: They are not.
        """
        if self.source["fingerprint"] != checkpoint.fingerprint():
            raise CalibrationError(
                f"the scales were made from {self.source['name']}, which is not the checkpoint {checkpoint.name} that "
                f"is exported (their fingerprints differ); {AGAIN}."
            )
        if number_format is not None and number_format not in self.formats:
            known = ", ".join(self.formats) or f"the weights of {self.precision} alone"
            raise CalibrationError(f"the scales are for {known}, and the precision needs {number_format}; {AGAIN}.")

    def check_recipe(self, checkpoint: Checkpoint, recipe: Recipe, cache_precision: str | None = None) -> None:
        """Raise unless the file can be used for this checkpoint and this recipe.

        Raises:
            CalibrationError: It cannot.
        """
        # Kernels that round inputs as they come need no ranges.
        self.check_fits(checkpoint, None if recipe.kernels else recipe.precision.activations)
        if cache_precision is not None and self.cache_format != cache_precision:
            raise CalibrationError(
                f"the scales have none for a cache in {cache_precision}; run: exaone-export calibrate MODEL OUT --data "
                f"FILE.jsonl --cache {cache_precision}."
            )
        if recipe.precision.weights is None:
            return  # of the file, only the cache's scales are used
        name = recipe.precision.name
        if self.precision not in (None, name):
            raise CalibrationError(f"the scales are for {self.precision}, and the precision is {name}; {AGAIN}.")
        if self.weights is not None and self.weights.signed and not recipe.kernels:
            raise CalibrationError(
                "the scales may be negative, which TensorRT does not take; make the file again without --signed-scales."
            )
        if self.block and dict(self.block) != dict(recipe.blocks):
            raise CalibrationError(
                f"the scales have blocks of {dict(self.block)}, and the precision has {dict(recipe.blocks)}; {AGAIN}."
            )

    def to_dict(self) -> dict[str, Any]:
        """The form that a manifest holds: where the scales came from."""
        return {"method": self.method, "sha256": self.sha256, "data": msgspec.structs.asdict(self.data)}

    def _check_small_tensors(self) -> None:
        for layer in range(len(self.ranges)):
            for projection in PROJECTIONS:
                if (smoothing := self.smoothing(layer, projection)) is not None:
                    check_scale(smoothing, f"a smoothing factor of {place(layer, projection)}")
            for name, scale in zip(("key", "value"), self.cache(layer) or (), strict=False):
                check_scale(scale, f"a {name} scale of layer {layer}'s cache")


def _take_range(tensors: dict[str, torch.Tensor], method: str, layer: int, projection: str) -> ProductRange:
    """A product's range, which leaves the tensors."""
    found, channel_maximum = (
        tensors.pop(tensor_name(layer, projection, what)) for what in ("range", "channel_maximum")
    )
    check_range(found.item(), channel_maximum, place(layer, projection))
    check_method(method, found.item(), channel_maximum, place(layer, projection))
    return ProductRange(found.item(), channel_maximum)
