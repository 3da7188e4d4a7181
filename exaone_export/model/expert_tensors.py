"""The weights of sparse layers beside their shared experts: a router, and the experts in stacks."""

from __future__ import annotations

from collections.abc import Iterator

from .spec import ModelSpec
from .weights import Source, Weight, layer_prefix

__all__ = ["expert_weights", "experts_name", "fused_name", "holds_experts"]

_FUSED = {"gate_up": "gate_up_proj", "down": "down_proj"}


def expert_weights(spec: ModelSpec, layer: int) -> Iterator[Weight]:
    """The router and the experts of a sparse layer; nothing of a dense one."""
    if (sparse := spec.sparse_at(layer)) is None:
        return
    stored, prefix, hidden = f"model.layers.{layer}.mlp.", f"{layer_prefix(layer)}mlp.", spec.hidden_size
    yield Weight(f"{prefix}router.weight", (Source(f"{stored}gate.weight", (sparse.num_experts, hidden)),), True)
    yield Weight(f"{prefix}router.bias", (Source(f"{stored}e_score_correction_bias", (sparse.num_experts,)),))
    size = sparse.moe_intermediate_size
    for product, names, shape in (
        ("gate_up", ("gate_proj", "up_proj"), (size, hidden)),
        ("down", ("down_proj",), (hidden, size)),
    ):
        sources = (
            Source(f"{stored}experts.{expert}.{name}.weight", shape)
            for expert in range(sparse.num_experts)
            for name in names
        )
        yield Weight(experts_name(layer, product), tuple(sources), transposed=True, experts=sparse.num_experts)


def experts_name(layer: int, product: str) -> str:
    """What a graph calls the stacked weights of a sparse layer's experts, of ``gate_up`` or ``down``."""
    return f"{layer_prefix(layer)}mlp.experts.{product}"


def holds_experts(name: str) -> bool:
    """Whether an initializer of a graph is such a stack, or what a pass has made of it."""
    return ".mlp.experts." in name


def fused_name(weight: Weight) -> str:
    """What a checkpoint calls the tensor that holds a whole stack, where it has one."""
    stored, _, _ = weight.names[0].partition(".experts.")
    return f"{stored}.experts.{_FUSED[weight.name.rpartition('.')[2]]}"
