"""The calibration of one layer: observe, smooth, choose ranges and cache scales, round weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from exaone_export.calibration.awq import awq_scales
from exaone_export.calibration.cache_scales import cache_scale
from exaone_export.calibration.gptq import gptq
from exaone_export.calibration.number_formats import FORMATS, NumberFormat
from exaone_export.calibration.ranges import METHODS, check_range
from exaone_export.calibration.statistics import InputStatistics, observe_inputs
from exaone_export.calibration.weight_ranges import round_weight
from exaone_export.calibration.weights import QuantizedWeight
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import PROJECTIONS
from exaone_export.progress import Step
from exaone_export.targets.precision import PRECISIONS
from exaone_export.targets.recipe import Recipe

from ..quantize.packed_int4 import pack_int4
from ..reference.layer_stream import StreamedLayer
from .batches import Batch
from .options import Options
from .rounded import rounded
from .scales.layout import SCALE_TYPE, place
from .smoothing import apply_smoothing, folded, smoothquant_factors, tie_heads
from .state import LayerResult

__all__ = ["KEPT_PREFIX", "LayerWork"]

_AWQ_VECTORS = 512

KEPT_PREFIX = "kept_"
"""Prefix of a layer's weights in the higher precision, until it is known which layers have it."""


@dataclass
class _Observed:
    """One pass over the layer.

    Attributes:
        inputs: By part.
        cache: Largest magnitudes of keys and of values, ``[num_key_value_heads, head_dim]``; None where not measured.
        outputs: Every batch's hidden states behind the layer.
    """

    inputs: dict[str, InputStatistics]
    cache: tuple[torch.Tensor, torch.Tensor] | None
    outputs: list[torch.Tensor]


class LayerWork:
    """Calibrates layers, one call a layer.

    Args:
        spec: The architecture.
        options: The options of the calibration.
        batches: The data.
        step: Told how many samples have run, once for every batch and pass.
    """

    def __init__(self, spec: ModelSpec, options: Options, batches: Sequence[Batch], step: Step) -> None:
        self._spec, self._options, self._batches, self._step = spec, options, batches, step
        self._recipe = None if options.precision is None else Recipe.plan(spec, options.precision, "float32")

    @property
    def _simulates(self) -> bool:
        return self._options.measure == "error"

    def run(self, streamed: StreamedLayer) -> tuple[LayerResult, dict[str, QuantizedWeight]]:
        """Calibrate one layer, and run the data through it.

        Returns:
            What was found, and the layer's weights as the precision rounds them; none without a precision.

        Raises:
            CalibrationError: A range cannot be used.
        """
        options, tensors = self._options, dict[str, torch.Tensor]()
        smoothing = self._smoothing(streamed)
        apply_smoothing(streamed, smoothing)
        moments = tuple(PROJECTIONS) if options.rounding == "gptq" else ()
        seen = self._observe(streamed, second_moment=moments, cache=options.cache is not None)
        ranges = self._ranges(streamed.index, seen.inputs)
        for part in PROJECTIONS:
            tensors[f"{part}.range"] = torch.tensor(ranges[part], dtype=torch.float32)
            tensors[f"{part}.channel_maximum"] = seen.inputs[part].channel_maximum
            if part in smoothing:
                tensors[f"{part}.smoothing"] = smoothing[part]
        if seen.cache is not None:
            number_format = FORMATS[str(options.cache)]
            rotary = streamed.layer.attention.layer.rotary
            for name, maximum in zip(("key", "value"), seen.cache, strict=True):
                scale = cache_scale(maximum, number_format, rotary and name == "key")
                tensors[f"cache.{name}_scale"] = scale
        weights = self._rounded_weights(streamed, seen.inputs)
        if options.rounding is not None:
            tensors |= _stored(weights, "", packed=options.precision == "int4")
            if options.keep_layers is not None and options.kept_precision in PRECISIONS:
                # The layers with a higher precision are chosen after the last, so each stores both.
                tensors |= _stored(self._kept_weights(streamed, seen.inputs), KEPT_PREFIX, packed=False)
        facts: dict[str, Any] = {"reach": {part: dict(seen.inputs[part].slice_maximum) for part in PROJECTIONS}}
        if self._simulates:
            facts["sensitivity"] = self._error(streamed, weights, ranges, seen.outputs)
        streamed.hidden[:] = seen.outputs
        streamed.done = True
        return LayerResult(tensors, facts), weights

    def simulated(
        self, streamed: StreamedLayer, weights: dict[str, QuantizedWeight], result: LayerResult
    ) -> AbstractContextManager[None]:
        """A context in which the layer computes with the precision's rounding."""
        ranges = {part: result.tensors[f"{part}.range"].item() for part in PROJECTIONS}
        return rounded(streamed, weights, ranges, self._input_format)

    @property
    def _input_format(self) -> NumberFormat | None:
        name = None if self._recipe is None else self._recipe.precision.activations
        return None if name is None else FORMATS[name]

    def _observe(
        self, streamed: StreamedLayer, *, second_moment: Sequence[str] = (), keep: int = 0, cache: bool = False
    ) -> _Observed:
        outputs, maxima = [], [torch.zeros(self._spec.num_key_value_heads, self._spec.head_dim) for _ in range(2)]
        with observe_inputs(streamed.products, second_moment=second_moment, keep=keep) as seen:
            for batch, hidden in zip(self._batches, streamed.hidden, strict=True):
                seen.slice = batch.slice
                output, present = streamed.forward(hidden, keep_cache=cache)
                outputs.append(output)
                for which, tensor in enumerate(present or ()):
                    maxima[which] = torch.maximum(maxima[which], tensor.abs().amax((0, 2)))
                self._step(len(batch.tokens))
        return _Observed(seen, (maxima[0], maxima[1]) if cache else None, outputs)

    def _smoothing(self, streamed: StreamedLayer) -> dict[str, torch.Tensor]:
        options = self._options
        if options.rounding == "awq":
            assert self._recipe is not None
            seen = self._observe(streamed, keep=_AWQ_VECTORS).inputs
            number_format = FORMATS[self._recipe.weights]
            found = {}
            for part, product in streamed.products.items():
                block = self._recipe.blocks.get(part, 0)
                factor = awq_scales(product.weight.T, seen[part], number_format, block=block)
                found[part] = tie_heads(self._spec, factor) if part == "output" else factor
            return found
        if options.smooth == "none":
            return {}
        reached = {part: found.channel_maximum for part, found in self._observe(streamed).inputs.items()}
        smoothed = folded(self._spec) if options.smooth == "fold" else tuple(PROJECTIONS)
        return smoothquant_factors(streamed, reached, smoothed)

    def _ranges(self, layer: int, inputs: dict[str, InputStatistics]) -> dict[str, float]:
        formats, found = self._options.formats, {}
        for part, statistics in inputs.items():
            # Without a precision the method is "max", which asks for no format.
            number_format = FORMATS[formats[0] if formats else "int8"]
            found[part] = torch.tensor(METHODS[self._options.method](statistics, number_format)).item()
            check_range(found[part], statistics.channel_maximum, place(layer, part))
        return found

    def _rounded_weights(
        self, streamed: StreamedLayer, inputs: dict[str, InputStatistics]
    ) -> dict[str, QuantizedWeight]:
        options, recipe = self._options, self._recipe
        if recipe is None or (options.rounding is None and options.measure is None):
            return {}
        number_format, weights = FORMATS[recipe.weights], {}
        for part, product in streamed.products.items():
            weight, block = product.weight.T.contiguous(), recipe.blocks.get(part, 0)
            if options.rounding is None:  # as the export will do it
                weights[part] = round_weight(weight, number_format, block=block, search=False)
            elif options.rounding == "gptq":
                moment = inputs[part].second_moment
                assert moment is not None
                weights[part] = gptq(
                    weight,
                    moment,
                    number_format,
                    block=block,
                    scale_dtype=SCALE_TYPE,
                    signed_scale=options.signed_scales,
                )
            else:
                weights[part] = round_weight(
                    weight,
                    number_format,
                    block=block,
                    scale_dtype=SCALE_TYPE,
                    signed_scale=options.signed_scales,
                    importance=inputs[part].channel_mean.square(),
                )
        return weights

    def _kept_weights(self, streamed: StreamedLayer, inputs: dict[str, InputStatistics]) -> dict[str, QuantizedWeight]:
        kept = Recipe.plan(self._spec, self._options.kept_precision, "float32")
        weights = {}
        for part, product in streamed.products.items():
            weights[part] = round_weight(
                product.weight.T.contiguous(),
                FORMATS[kept.weights],
                block=kept.blocks.get(part, 0),
                scale_dtype=SCALE_TYPE,
                importance=inputs[part].channel_mean.square(),
            )
        return weights

    def _error(
        self,
        streamed: StreamedLayer,
        weights: dict[str, QuantizedWeight],
        ranges: dict[str, float],
        outputs: list[torch.Tensor],
    ) -> float:
        """Squared error of the layer's output by rounding, relative to the output."""
        changed = whole = 0.0
        with rounded(streamed, weights, ranges, self._input_format):
            for batch, hidden, exact in zip(self._batches, streamed.hidden, outputs, strict=True):
                found, _ = streamed.forward(hidden)
                changed += (found - exact).square().sum().item()
                whole += exact.square().sum().item()
                self._step(len(batch.tokens))
        return changed / whole


def _stored(weights: dict[str, QuantizedWeight], prefix: str, *, packed: bool) -> dict[str, torch.Tensor]:
    tensors = {}
    for part, weight in weights.items():
        tensors[f"{part}.{prefix}values"] = pack_int4(weight.values) if packed else weight.values
        tensors[f"{part}.{prefix}scale"] = weight.scale
    return tensors
