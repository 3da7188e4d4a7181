"""``exaone::HybridAttention`` to ONNX Runtime's ``GroupQueryAttention``, on the CPU and on CUDA."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from ..constants import CONTRIB_DOMAIN, ints
from ..hybrid_attention import INPUTS, ensure_lowered, has_qk_norm, hybrid_attention_nodes
from ..wanted import CacheScale, want

# The operator's inputs, in order (docs/ContribOperators.md of ONNX Runtime).
OPERATOR_INPUTS = (
    "query",
    "key",
    "value",
    "past_key",
    "past_value",
    "seqlens_k",
    "total_sequence_length",
    "cos_cache",
    "sin_cache",
    "position_ids",
    "attention_bias",
    "head_sink",
    "k_scale",
    "v_scale",
    "q_norm_weight",
    "k_norm_weight",
    "query_seqlens",
)
_TABLES = ("cos_cache", "sin_cache")


class LowerToGroupQueryAttention(ir.passes.InPlacePass):
    """Give every layer ONNX Runtime's own attention, with the cache updated in place.

    1. For the CPU, queries and keys are normalized before the operator, since its kernel refuses the norms' weights;
       without QK-norm it takes the packed product. A step's rows may have different numbers of tokens
       (``query_seqlens``).
    2. For CUDA (``fused``), the operator takes the packed product and any norms' weights and does both. Weights and
       rotary tables are rounded to its one type. Every row of a step has the same number of tokens: ``query_seqlens``
       is newer than the oldest supported release, 1.31. Its kernel reads ``total_sequence_length`` on the host, where a
       number that the device computes may arrive too late, so there it is the mask's number of columns.
    3. A layer without RoPE gets neither tables nor ``do_rotary``.
    4. A local layer whose capacity is below the cache's maximum length gets ``sliding_window_cache``: the operator
       evicts. One that can hold every token gets the window alone. The CUDA kernel wants the capacity to be the window.
    5. A quantized cache (``cache``) has one scale a channel; the operator rounds keys, after the rotation, and values.
    6. The values that all layers share are computed once: the lengths and the rounded tables.

    Left alone: every other node, and the names of inputs and outputs.

    Ensures: no ``exaone::HybridAttention`` is left.

    Args:
        max_length: Rows of a global layer's cache.
        fused: Whether the nodes are for the CUDA kernel.
        cache: Number format of keys and values; None for the compute type.
    """

    def __init__(self, max_length: int, *, fused: bool = False, cache: str | None = None) -> None:
        super().__init__()
        self.max_length, self.fused, self.cache = max_length, fused, cache

    def ensures(self, model: ir.Model) -> None:
        """Check that no attention node is left."""
        ensure_lowered(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every node in place."""
        nodes = hybrid_attention_nodes(model)
        if not nodes:
            return ir.passes.PassResult(model, modified=False)
        mask = next((value for value in model.graph.inputs if value.name == "attention_mask"), None)
        shared = _shared_inputs(nodes, mask if self.fused else None)
        for layer, node in enumerate(nodes):
            self._lower(node, layer, shared)
        model.graph.opset_imports[CONTRIB_DOMAIN] = 1
        return ir.passes.PassResult(model, modified=True)

    def _lower(self, node: ir.Node, layer: int, shared: dict[str, ir.Value]) -> None:
        given = dict(zip(INPUTS, node.inputs, strict=True))
        heads, kv_heads = (node.attributes[name].as_int() for name in ("num_heads", "num_key_value_heads"))
        window, rotary = node.attributes["window"].as_int(), node.attributes["rotary"].as_int()
        epsilon = node.attributes["epsilon"].as_float()
        past_key = given["past_key"]
        assert past_key is not None and past_key.shape is not None
        capacity, head_dim = past_key.shape[2], past_key.shape[3]
        assert isinstance(capacity, int) and isinstance(head_dim, int)

        tape = ir.tape.Tape()
        attributes: dict[str, float | str] = {
            "num_heads": heads,
            "kv_num_heads": kv_heads,
            "scale": node.attributes["scale"].as_float(),
            "do_rotary": rotary,
        }
        inputs: dict[str, ir.Value | None] = {name: shared[name] for name in shared if rotary or name not in _TABLES}
        inputs |= {"past_key": past_key, "past_value": given["past_value"]}
        if not has_qk_norm(node):
            inputs["query"] = given["qkv"]
        elif self.fused:
            norms = {f"{x}_norm_weight": _rounded(tape, given[f"{x}_norm"], given["qkv"]) for x in "qk"}
            inputs |= {"query": given["qkv"], **norms}
            attributes["qk_norm_epsilon"] = epsilon
        else:
            sizes = ints(tape, heads * head_dim, kv_heads * head_dim, kv_heads * head_dim)
            query, key, value = tape.op_multi_out("Split", [given["qkv"], sizes], {"axis": -1}, num_outputs=3)
            query = _normalize_heads(tape, query, given["q_norm"], heads, head_dim, epsilon)
            key = _normalize_heads(tape, key, given["k_norm"], kv_heads, head_dim, epsilon)
            inputs |= {"query": query, "key": key, "value": value}
        if window:
            evicts = capacity < self.max_length
            assert not (self.fused and evicts and capacity != window)
            attributes |= {"local_window_size": window, "sliding_window_cache": int(evicts)}
        if self.cache is not None:
            inputs |= _quantize_cache(node, layer, kv_heads, head_dim)
            attributes |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
        last = max(map(OPERATOR_INPUTS.index, inputs))
        outputs = tape.op_multi_out(
            "GroupQueryAttention",
            [inputs.get(name) for name in OPERATOR_INPUTS[: last + 1]],
            attributes,
            domain=CONTRIB_DOMAIN,
            num_outputs=3,
        )
        if self.cache is not None:
            for present in node.outputs[1:]:
                present.type = ir.TensorType(ir.DataType.INT8)
        assert node.graph is not None
        ir.convenience.replace_nodes_and_values(node.graph, node, [node], tape.nodes, node.outputs, outputs)


def _quantize_cache(node: ir.Node, layer: int, kv_heads: int, head_dim: int) -> dict[str, ir.Value]:
    """Make the layer's caches int8, in and out; their scales, without data."""
    scales: dict[str, ir.Value] = {}
    names: tuple[Literal["key", "value"], ...] = ("key", "value")
    for which in names:
        past = node.inputs[INPUTS.index(f"past_{which}")]
        assert past is not None and past.name is not None and node.graph is not None
        # A new type, because clones of a graph share theirs.
        past.type = ir.TensorType(ir.DataType.INT8)
        name, shape = f"{past.name.replace('past_key_values', 'cache')}.scale", (1, kv_heads, 1, head_dim)
        scales[f"{which[0]}_scale"] = want(node.graph, name, ir.DataType.FLOAT, shape, CacheScale(layer, which))
    return scales


def _normalize_heads(
    tape: ir.tape.Tape, packed: ir.Value, weight: ir.Value | None, heads: int, head_dim: int, epsilon: float
) -> ir.Value:
    apart = tape.op("Reshape", [packed, ints(tape, 0, 0, heads, head_dim)])
    normal = tape.op("RMSNormalization", [apart, weight], {"axis": -1, "epsilon": epsilon})
    return tape.op("Reshape", [normal, ints(tape, 0, 0, heads * head_dim)])


def _shared_inputs(nodes: list[ir.Node], mask: ir.Value | None) -> dict[str, ir.Value]:
    """By the operator's names, what all layers share: the lengths, int32, and the tables where a layer rotates.

    With ``mask``, the longest row's length is the mask's number of columns; without, it is that of the lengths.
    """
    first = nodes[0]
    given = dict(zip(INPUTS, first.inputs, strict=True))
    tape = ir.tape.Tape()

    def int32(value: ir.Value | None) -> ir.Value:
        cast = tape.op("Cast", [value], {"to": ir.DataType.INT32})
        cast.dtype = ir.DataType.INT32
        return cast

    def size(value: ir.Value | None) -> ir.Value:
        return tape.op("Squeeze", [tape.op("Shape", [value], {"start": 1, "end": 2})])

    total = _total_lengths(tape, given)
    shared = {"seqlens_k": int32(tape.op("Sub", [total, ints(tape, 1)]))}
    if mask is not None:
        shared["total_sequence_length"] = int32(size(mask))
    else:
        # With query_seqlens this is a bound and no more; the kernel wants it no shorter than the padded chunk.
        longest = tape.op("Max", [tape.op("ReduceMax", [total], {"keepdims": 0}), size(given["qkv"])])
        shared |= {"total_sequence_length": int32(longest), "query_seqlens": int32(given["query_lengths"])}
    if any(node.attributes["rotary"].as_int() for node in nodes):
        shared |= {name: _rounded(tape, given[name.removesuffix("_cache")], given["qkv"]) for name in _TABLES}
    assert first.graph is not None
    first.graph.insert_before(first, tape.nodes)
    return shared


def _total_lengths(tape: ir.tape.Tape, given: dict[str, ir.Value | None]) -> ir.Value:
    """Tokens that each row holds after the step: what the past lengths were computed from, where they were."""
    past, fresh = given["past_lengths"], given["query_lengths"]
    made = past.producer() if past is not None else None
    if made is not None and made.op_type == "Sub" and made.inputs[1] is fresh and made.inputs[0] is not None:
        return made.inputs[0]
    return tape.op("Add", [past, fresh])


def _rounded(tape: ir.tape.Tape, value: ir.Value | None, like: ir.Value | None) -> ir.Value:
    """``value`` in the type of ``like``: the operator has one type for all but the cache and its scales."""
    assert value is not None and like is not None and like.dtype is not None
    if value.dtype == like.dtype:
        return value
    rounded = tape.op("Cast", [value], {"to": like.dtype})
    rounded.dtype, rounded.shape = like.dtype, value.shape
    return rounded
