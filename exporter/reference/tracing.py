"""Reference model to `onnx_ir` graph, without a single weight in memory.

The model is made and traced on fake tensors, so that its size does not matter. Initializers get their data later, see
`exaone_export.exporter.write.binding`.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import onnx_ir as ir
import torch
from torch._subclasses import FakeTensorMode

from exaone_export.graphs.experts.operator import register_schema as register_experts
from exaone_export.graphs.hybrid_attention import OPSET, register_schema
from exaone_export.graphs.passes.repeat_layers import kinds_of
from exaone_export.model.dtypes import FLOATS
from exaone_export.model.spec import ModelSpec
from exaone_export.targets.cache_layout import PAST, PRESENT, CacheLayout, cache_names

from .model import Reference

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in FLOATS}
"""What a model is computed in, by the names of recipes."""
_BATCH, _STEP, _MASK, _KEPT = 2, 3, 5, 2
# torch.export keeps what it traces in variables of the process, which a second thread would overwrite.
_ALONE = threading.Lock()


def trace(spec: ModelSpec, layout: CacheLayout, dtype: torch.dtype) -> ir.Model:
    """Trace one layer of each kind of the reference model, in the order of `kinds_of`.

    A trace of the whole model takes time for every layer; `RepeatLayers` makes the same graph of this one.

    Args:
        spec: The architecture.
        layout: The caches' capacities, which the graph holds as constants.
        dtype: Of products, attention, cache and next tokens' logits; other heads are float32.

    Returns:
        A graph of opset 24 whose attention nodes are ``exaone::HybridAttention``; its initializers have names, types
        and shapes, and no data.
    """
    kinds = kinds_of(spec, layout)
    firsts = [kinds.index(kind) for kind in range(max(kinds) + 1)]
    caches = tuple(layout.layers[first] for first in firsts)
    return trace_whole(spec.with_layers(firsts), replace(layout, layers=caches), dtype)


def trace_whole(spec: ModelSpec, layout: CacheLayout, dtype: torch.dtype) -> ir.Model:
    """Trace all layers of the reference model, as `trace` says."""
    with _ALONE, FakeTensorMode(allow_non_fake_inputs=True):
        register_schema()
        register_experts()
        model = Reference(spec, layout, dtype).eval()
        shapes = _dynamic_shapes(spec)
        exported = torch.export.export(model, _example_inputs(model), dynamic_shapes=shapes, strict=False)
        with _quiet():
            program = torch.onnx.export(
                exported,
                dynamo=True,
                opset_version=24,
                optimize=False,
                verbose=False,
                dynamic_shapes=shapes,  # for the names of the dimensions
                input_names=[*_INPUTS, *cache_names(PAST, spec.num_hidden_layers)],
                output_names=[*spec.head.outputs, *cache_names(PRESENT, spec.num_hidden_layers)],
                custom_translation_table={
                    torch.ops.exaone.hybrid_attention.default: _translate,
                    torch.ops.exaone.routed_experts.default: _translate_experts,
                },
            )
    assert program is not None
    return program.model


_INPUTS = ("input_ids", "attention_mask", "position_ids", "logits_to_keep")


def _example_inputs(model: Reference) -> tuple[object, ...]:
    def tokens(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int64)

    # One tensor each: a tensor passed twice would be traced as one input.
    return tokens(_BATCH, _STEP), tokens(_BATCH, _MASK), tokens(_BATCH, _STEP), tokens(_KEPT), model.empty_cache(_BATCH)


def _dynamic_shapes(spec: ModelSpec) -> tuple[object, ...]:
    batch, step = torch.export.Dim("batch"), torch.export.Dim("sequence")
    cache = [({0: batch}, {0: batch}) for _ in range(spec.num_hidden_layers)]
    return (
        {0: batch, 1: step},
        {0: batch, 1: torch.export.Dim("total_sequence")},
        {0: batch, 1: step},
        {0: torch.export.Dim("kept")},
        cache,
    )


def _translate(  # type: ignore[no-untyped-def]
    qkv,
    q_norm,
    k_norm,
    cos,
    sin,
    past_key,
    past_value,
    past_lengths,
    query_lengths,
    num_heads: int,
    num_key_value_heads: int,
    scale: float,
    window: int,
    rotary: bool,
    epsilon: float,
):
    return OPSET.HybridAttention(
        qkv,
        q_norm,
        k_norm,
        cos,
        sin,
        past_key,
        past_value,
        past_lengths,
        query_lengths,
        num_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
        scale=scale,
        window=window,
        rotary=int(rotary),
        epsilon=epsilon,
    )


def _translate_experts(  # type: ignore[no-untyped-def]
    hidden, router, bias, gate_up, down, chosen: int, groups: int, chosen_groups: int, normalized: bool, scale: float
):
    return OPSET.RoutedExperts(
        hidden,
        router,
        bias,
        gate_up,
        down,
        chosen=chosen,
        groups=groups,
        chosen_groups=chosen_groups,
        normalized=int(normalized),
        scale=scale,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that are not there and of names it changes; neither is news to a user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
