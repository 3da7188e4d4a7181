"""``exaone::HybridAttention`` to the standard operators that TensorRT turns into its native layers.

TensorRT's parser makes ``TensorScatter`` a KV-cache-update layer, ``RotaryEmbedding`` a rotary layer and ``Attention``
an attention layer. Its cache update is in place and linear, so a step's tokens are appended and the runtime evicts
behind it (`exaone_export.targets.cache_layout`).

Legend: B batch, S query length, T length of ``attention_mask``, R rows of a cache's buffer, E keys that are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from exaone_export.targets.cache_layout import CacheLayout, LayerCache

from ..constants import ints
from ..hybrid_attention import INPUTS, ensure_lowered, hybrid_attention_nodes

_FLOAT = ir.DataType.FLOAT


class LowerToTensorScatter(ir.passes.InPlacePass):
    """Give every layer TensorRT's native cache update and attention, written in opset 24.

    1. Queries and keys are normalized and rotated in float32 and rounded once; a layer without RoPE is not rotated, and
       one without QK-norm is not normalized.
    2. Keys and values are appended to a row's resident tokens. Padding after a row's tokens is written too, into rows
       that the next step overwrites.
    3. Attention sees the first ``E = min(T, R)`` rows of the buffer under a boolean mask, so its cost follows the
       mask's length, a shape, and not the buffer's. The mask comes from absolute positions, never from slots. Rows that
       hold nothing are masked, and must be finite: their share is zero, and zero times NaN is NaN.
    4. The values that layers of one kind share are computed once: the write position, the mask, the rotary positions.

    Left alone: every other node, and the names of inputs and outputs.

    Requires: as many attention nodes as the layout has layers, or none. Ensures: no ``exaone::HybridAttention`` is
    left.

    Args:
        layout: The caches, one entry an attention node, in the order of the graph.
    """

    def __init__(self, layout: CacheLayout) -> None:
        super().__init__()
        self.layout = layout

    def requires(self, model: ir.Model) -> None:
        """Check the number of attention nodes."""
        found = len(hybrid_attention_nodes(model))
        if found not in (0, len(self.layout.layers)):
            raise ir.passes.PreconditionError(f"{found} attention nodes for {len(self.layout.layers)} layers")

    def ensures(self, model: ir.Model) -> None:
        """Check that no attention node is left."""
        ensure_lowered(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every node in place."""
        nodes = hybrid_attention_nodes(model)
        if not nodes:
            return ir.passes.PassResult(model, modified=False)
        mask = next((value for value in model.graph.inputs if value.name == "attention_mask"), None)
        shared = _Shared(nodes[0], mask, self.layout.max_length)
        kinds = {cache: shared.kind(cache) for cache in dict.fromkeys(self.layout.layers)}
        assert nodes[0].graph is not None
        nodes[0].graph.insert_before(nodes[0], shared.tape.nodes)
        for node, cache in zip(nodes, self.layout.layers, strict=True):
            _lower(node, shared.angles, kinds[cache])
        return ir.passes.PassResult(model, modified=True)


@dataclass(frozen=True)
class _Kind:
    """What the layers of one cache shape share.

    Attributes:
        write_at: ``[B]`` int64, the row that a step's first token goes to.
        seen: ``[1]`` int64, E.
        mask: ``[B, 1, S, E]`` bool.
    """

    write_at: ir.Value
    seen: ir.Value
    mask: ir.Value


class _Shared:
    """What all layers share, made from the first attention node's inputs."""

    def __init__(self, first: ir.Node, attention_mask: ir.Value | None, max_length: int) -> None:
        given = dict(zip(INPUTS, first.inputs, strict=True))
        self.tape = tape = ir.tape.Tape()
        self._mask_length = (
            None if attention_mask is None else tape.op("Shape", [attention_mask], {"start": 1, "end": 2})
        )
        self._past = _required(given["past_lengths"])
        self._past_column = tape.op("Unsqueeze", [self._past, ints(tape, 1)])
        zero, one = _int(tape, 0), _int(tape, 1)
        length = tape.op("Squeeze", [tape.op("Shape", [given["qkv"]], {"start": 1, "end": 2})])
        steps = tape.op("Range", [zero, length, one])
        positions = tape.op("Add", [self._past_column, steps])
        total = tape.op("Add", [self._past, given["query_lengths"]])
        last = tape.op("Unsqueeze", [tape.op("Sub", [total, one]), ints(tape, 1)])
        # Padding looks from the row's last position, so that no row of the mask is empty.
        looking = tape.op("Min", [positions, last])
        self.angles = tape.op("Min", [looking, _int(tape, max_length - 1)])
        self._looking = tape.op("Unsqueeze", [looking, ints(tape, 1, 3)])

    def kind(self, cache: LayerCache) -> _Kind:
        tape, past = self.tape, self._past
        zero, one = _int(tape, 0), _int(tape, 1)
        evicted = None
        if cache.headroom:
            # LayerCache.evicted
            block = cache.capacity - cache.window + 1
            over = tape.op("Max", [tape.op("Sub", [past, _int(tape, cache.capacity)]), zero])
            blocks = tape.op("Div", [tape.op("Add", [over, _int(tape, block - 1)]), _int(tape, block)])
            evicted = tape.op("Mul", [blocks, _int(tape, block)])
        seen = ints(tape, cache.rows)
        if self._mask_length is not None:
            seen = tape.op("Min", [self._mask_length, seen])
        slots = tape.op("Range", [zero, tape.op("Squeeze", [seen]), one])
        positions = tape.op("Unsqueeze", [slots, ints(tape, 0, 1, 2)])
        if evicted is not None:
            positions = tape.op("Add", [positions, tape.op("Unsqueeze", [evicted, ints(tape, 1, 2, 3)])])
        mask = tape.op("LessOrEqual", [positions, self._looking])
        if cache.window:
            oldest = tape.op("Sub", [self._looking, _int(tape, cache.window)])
            mask = tape.op("And", [mask, tape.op("Greater", [positions, oldest])])
        return _Kind(past if evicted is None else tape.op("Sub", [past, evicted]), seen, mask)


def _lower(node: ir.Node, angles: ir.Value, kind: _Kind) -> None:
    norms = dict(zip(INPUTS, node.inputs, strict=True))
    given = {name: value for name, value in norms.items() if value is not None}
    heads, kv_heads = (node.attributes[name].as_int() for name in ("num_heads", "num_key_value_heads"))
    epsilon, rotary = node.attributes["epsilon"].as_float(), node.attributes["rotary"].as_int()
    past_key = given["past_key"]
    assert past_key.shape is not None
    dtype, head_dim = past_key.dtype, past_key.shape[3]
    assert isinstance(head_dim, int)
    tape = ir.tape.Tape()

    def normalized(packed: ir.Value, weight: ir.Value | None) -> ir.Value:
        x = packed if dtype == _FLOAT else tape.op("Cast", [packed], {"to": _FLOAT})
        if weight is not None:
            x = tape.op("RMSNormalization", [x, weight], {"axis": -1, "epsilon": epsilon})
        if rotary:
            x = tape.op("RotaryEmbedding", [x, given["cos"], given["sin"], angles])
        return x if dtype == _FLOAT else tape.op("Cast", [x], {"to": dtype})

    def resident(past: ir.Value, update: ir.Value) -> tuple[ir.Value, ir.Value]:
        present = tape.op("TensorScatter", [past, update, kind.write_at], {"axis": 2, "mode": "linear"})
        return present, tape.op("Slice", [present, ints(tape, 0), kind.seen, ints(tape, 2)])

    apart = tape.op("Reshape", [given["qkv"], ints(tape, 0, 0, heads + 2 * kv_heads, head_dim)])
    apart = tape.op("Transpose", [apart], {"perm": [0, 2, 1, 3]})
    sizes = ints(tape, heads, kv_heads, kv_heads)
    query, key, value = tape.op_multi_out("Split", [apart, sizes], {"axis": 1}, num_outputs=3)
    query, key = normalized(query, norms["q_norm"]), normalized(key, norms["k_norm"])
    present_key, keys = resident(past_key, key)
    present_value, values = resident(given["past_value"], value)
    scale = {"scale": node.attributes["scale"].as_float()}
    mixed = tape.op("Attention", [query, keys, values, kind.mask], scale)
    merged = tape.op("Transpose", [mixed], {"perm": [0, 2, 1, 3]})
    output = tape.op("Reshape", [merged, ints(tape, 0, 0, heads * head_dim)])
    assert node.graph is not None
    ir.convenience.replace_nodes_and_values(
        node.graph, node, [node], tape.nodes, node.outputs, [output, present_key, present_value]
    )


def _required(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value


def _int(tape: ir.tape.Tape, value: int) -> ir.Value:
    return tape.op("Constant", [], {"value_int": value})
