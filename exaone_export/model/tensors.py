"""Every weight of a model: what a graph calls it, which tensors of a checkpoint make it, and how large it is.

This is the only table of them; checkpoints, graphs, plans and scales files are read and written by it. A layer's
entries are those of `_layer_weights`, a sparse layer's also those of `expert_weights`, and what lies outside of the
layers those of `body_weights` and `head_weights`: the body and the head are apart, so that another head over the same
body is another function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter

from .expert_tensors import expert_weights
from .families import NormPosition
from .sparse_mlp import SparseMlp
from .spec import ModelSpec
from .weights import Source, Weight, layer_prefix

__all__ = [
    "EMBEDDING",
    "EMBEDDING_TENSOR",
    "FINAL_NORM",
    "HEAD",
    "HEAD_BIAS",
    "HEAD_MODULE",
    "HEAD_TENSOR",
    "PROJECTIONS",
    "Norm",
    "Projection",
    "Source",
    "Weight",
    "body_weights",
    "expected_tensors",
    "head_weights",
    "input_sizes",
    "layer_norms",
    "layer_prefix",
    "layer_products",
    "num_parameters",
    "projection_sources",
    "vocabulary_weight",
    "weight_name",
    "weight_table",
]

Size = Callable[[ModelSpec], int]

EMBEDDING, FINAL_NORM, HEAD, HEAD_BIAS = "body.embedding", "norm.weight", "head.weight", "head.bias"
"""What a graph calls the weights outside of the layers; ``HEAD`` and ``HEAD_BIAS`` only where the model has them."""

HEAD_MODULE = "lm_head"
EMBEDDING_TENSOR, HEAD_TENSOR = "model.embed_tokens.weight", f"{HEAD_MODULE}.weight"
"""What a checkpoint calls the embedding and the vocabulary projection."""


@dataclass(frozen=True)
class Projection:
    """A product of a layer with a weight ``[in, out]``.

    Attributes:
        name: In recipes, scales files and manifests.
        module: In a graph, behind the layer's prefix.
        inputs: Length of the vectors that it takes.
        sources: By the checkpoint's name behind the layer's, the length of the vectors that each tensor gives; they are
            packed into one weight in this order.
        behind: The projection whose last outputs are this one's inputs, channel by channel, so that its rows can take a
            division of them; None where the residual stream stands in front.
    """

    name: str
    module: str
    inputs: Size
    sources: Mapping[str, Size]
    behind: str | None = None

    def outputs(self, spec: ModelSpec) -> int:
        """Length of the vectors that it gives."""
        return sum(size(spec) for size in self.sources.values())


@dataclass(frozen=True)
class Norm:
    """The weight of an RMSNorm of a layer.

    Attributes:
        name: In a graph, behind the layer's prefix.
        source: In the checkpoint, behind the layer's prefix.
        size: Of the vectors that are normalized.
        before: The projection whose inputs it alone gives, so that it can take a division of them; None where it does
            not stand in front of one.
    """

    name: str
    source: str
    size: Size
    before: str | None = None


_hidden: Size = attrgetter("hidden_size")
_intermediate: Size = attrgetter("intermediate_size")
_head_dim: Size = attrgetter("head_dim")


def _queries(spec: ModelSpec) -> int:
    return spec.num_attention_heads * spec.head_dim


def _keys(spec: ModelSpec) -> int:
    return spec.num_key_value_heads * spec.head_dim


def _shared(spec: ModelSpec) -> int:
    return _experts(spec).shared_size


def _experts(spec: ModelSpec) -> SparseMlp:
    assert spec.sparse_mlp is not None
    return spec.sparse_mlp


_ATTENTION = (
    Projection(
        "qkv",
        "attention.qkv",
        _hidden,
        {"self_attn.q_proj": _queries, "self_attn.k_proj": _keys, "self_attn.v_proj": _keys},
    ),
    Projection("output", "attention.output", _queries, {"self_attn.o_proj": _hidden}, behind="qkv"),
)
_QK_NORMS = (
    Norm("attention.q_norm", "self_attn.q_norm", _head_dim),
    Norm("attention.k_norm", "self_attn.k_norm", _head_dim),
)
_DENSE_MLP = (
    Projection("gate_up", "mlp.gate_up", _hidden, {"mlp.gate_proj": _intermediate, "mlp.up_proj": _intermediate}),
    Projection("down", "mlp.down", _intermediate, {"mlp.down_proj": _hidden}, behind="gate_up"),
)
_SHARED_EXPERTS = (
    Projection(
        "gate_up",
        "mlp.gate_up",
        _hidden,
        {"mlp.shared_experts.gate_proj": _shared, "mlp.shared_experts.up_proj": _shared},
    ),
    Projection("down", "mlp.down", _shared, {"mlp.shared_experts.down_proj": _hidden}, behind="gate_up"),
)
# What a checkpoint calls the norms of a layer's attention and of its feed-forward network, by the side they stand on.
_SUBLAYER_NORMS: Mapping[NormPosition, tuple[str, str]] = {
    "input": ("input_layernorm", "post_attention_layernorm"),
    "output": ("post_attention_layernorm", "post_feedforward_layernorm"),
}

PROJECTIONS: Mapping[str, Projection] = {entry.name: entry for entry in (*_ATTENTION, *_DENSE_MLP)}
"""A dense layer's products by name, in the order in which they are computed."""


def _layer_weights(spec: ModelSpec, layer: int) -> tuple[Projection | Norm, ...]:
    """Every weight of a layer but its router and experts, in the order in which a checkpoint lists its tensors."""
    mlp = _DENSE_MLP if spec.sparse_at(layer) is None else _SHARED_EXPERTS
    return (*_ATTENTION, *(_QK_NORMS if spec.qk_norm else ()), *mlp, *_sublayer_norms(spec))


def layer_products(spec: ModelSpec, layer: int) -> Mapping[str, Projection]:
    """The products of one layer by the names of `PROJECTIONS`; a sparse layer's last two are the shared experts'."""
    return {entry.name: entry for entry in _layer_weights(spec, layer) if isinstance(entry, Projection)}


def layer_norms(spec: ModelSpec) -> tuple[Norm, ...]:
    """A layer's norms."""
    return tuple(entry for entry in _layer_weights(spec, 0) if isinstance(entry, Norm))


def _sublayer_norms(spec: ModelSpec) -> Iterator[Norm]:
    attention, mlp = _SUBLAYER_NORMS[spec.norm_position]
    in_front = spec.norm_position == "input"
    yield Norm("attention_norm.weight", attention, _hidden, before="qkv" if in_front else None)
    yield Norm("mlp_norm.weight", mlp, _hidden, before="gate_up" if in_front else None)


def weight_name(layer: int, projection: str) -> str:
    """What a graph calls the weight of a layer's projection."""
    return f"{layer_prefix(layer)}{PROJECTIONS[projection].module}.weight"


def input_sizes(spec: ModelSpec) -> dict[str, int]:
    """By projection, the largest number that divides the length of the vectors that it takes in every layer."""
    products = [layer_products(spec, layer).values() for layer in range(spec.num_hidden_layers)]
    return {each[0].name: math.gcd(*(found.inputs(spec) for found in each)) for each in zip(*products, strict=True)}


def body_weights(spec: ModelSpec) -> Iterator[Weight]:
    """The embedding, the layers' weights and the final norm's."""
    yield Weight(EMBEDDING, (Source(EMBEDDING_TENSOR, (spec.vocab_size, spec.hidden_size)),))
    for layer in range(spec.num_hidden_layers):
        for entry in _layer_weights(spec, layer):
            yield _layer_weight(spec, layer, entry)
        yield from expert_weights(spec, layer)
    yield Weight(FINAL_NORM, (Source("model.norm.weight", (spec.hidden_size,)),))


def head_weights(spec: ModelSpec) -> Iterator[Weight]:
    """The head's product and its bias; nothing where the embedding is the vocabulary projection too."""
    if spec.head.module is None or spec.shares_embedding:
        return
    yield Weight(HEAD, (Source(f"{spec.head.module}.weight", (spec.head_size, spec.hidden_size)),), transposed=True)
    if spec.head.bias:
        yield Weight(HEAD_BIAS, (Source(f"{spec.head.module}.bias", (spec.head_size,)),))


def weight_table(spec: ModelSpec) -> dict[str, Weight]:
    """Every weight by its name in a graph."""
    return {weight.name: weight for weights in (body_weights, head_weights) for weight in weights(spec)}


def vocabulary_weight(spec: ModelSpec) -> str:
    """Name of the weight that the next token's logits are made with: the head, or the embedding where they are tied."""
    return EMBEDDING if spec.shares_embedding else HEAD


def expected_tensors(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of this architecture has, with its shape; projections are ``[out, in]``."""
    return {source.name: source.shape for weight in weight_table(spec).values() for source in weight.sources}


def projection_sources(spec: ModelSpec) -> set[str]:
    """The tensors of a checkpoint that the layers' projections are made of, those of experts too."""
    table = weight_table(spec)
    names = (weight_name(layer, name) for layer in range(spec.num_hidden_layers) for name in PROJECTIONS)
    products = {source for name in names for source in table[name].names}
    return products.union(*(weight.names for weight in table.values() if weight.experts))


def num_parameters(spec: ModelSpec) -> int:
    """Weights of a checkpoint, counted once where the embeddings are tied."""
    return sum(math.prod(shape) for shape in expected_tensors(spec).values())


def _layer_weight(spec: ModelSpec, layer: int, entry: Projection | Norm) -> Weight:
    stored = f"model.layers.{layer}."
    if isinstance(entry, Norm):
        return Weight(
            layer_prefix(layer) + entry.name, (Source(f"{stored}{entry.source}.weight", (entry.size(spec),)),)
        )
    inputs = entry.inputs(spec)
    sources = (Source(f"{stored}{name}.weight", (size(spec), inputs)) for name, size in entry.sources.items())
    return Weight(weight_name(layer, entry.name), tuple(sources), transposed=True)
