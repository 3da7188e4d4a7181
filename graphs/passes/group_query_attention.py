"""``exaone::HybridAttention`` to ONNX Runtime's ``GroupQueryAttention`` on the CPU."""

from __future__ import annotations

import onnx_ir as ir

from exaone_export.graphs.hybrid_attention import INPUTS, is_hybrid_attention

CONTRIB_DOMAIN = "com.microsoft"


class LowerToGroupQueryAttention(ir.passes.InPlacePass):
    """Give every layer ONNX Runtime's own attention, with the cache updated in place.

    1. Queries and keys are normalized before the operator, since its CPU kernel refuses the norm's weights.
    2. A layer without RoPE gets neither tables nor ``do_rotary``.
    3. A local layer whose capacity is below the cache's maximum length gets ``sliding_window_cache``: the operator
       evicts. One that can hold every token gets the window alone.
    4. The lengths that all layers share are computed once.

    Left alone: every other node, and the names of inputs and outputs.

    Args:
        max_length: Rows of a global layer's cache.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every node in place."""
        nodes = [node for node in model.graph if is_hybrid_attention(node)]
        if not nodes:
            return ir.passes.PassResult(model, modified=False)
        lengths = _shared_lengths(nodes[0])
        for node in nodes:
            self._lower(node, lengths)
        model.graph.opset_imports[CONTRIB_DOMAIN] = 1
        return ir.passes.PassResult(model, modified=True)

    def _lower(self, node: ir.Node, lengths: tuple[ir.Value, ir.Value, ir.Value]) -> None:
        given = dict(zip(INPUTS, node.inputs, strict=True))
        heads, kv_heads = (node.attributes[name].as_int() for name in ("num_heads", "num_key_value_heads"))
        window, rotary = node.attributes["window"].as_int(), node.attributes["rotary"].as_int()
        past_key = given["past_key"]
        assert past_key is not None and past_key.shape is not None
        capacity, head_dim = past_key.shape[2], past_key.shape[3]
        assert isinstance(capacity, int) and isinstance(head_dim, int)

        tape = ir.tape.Tape()
        sizes = _ints(tape, heads * head_dim, kv_heads * head_dim, kv_heads * head_dim)
        query, key, value = tape.op_multi_out("Split", [given["qkv"], sizes], {"axis": -1}, num_outputs=3)
        epsilon = node.attributes["epsilon"].as_float()
        query = _normalize_heads(tape, query, given["q_norm"], heads, head_dim, epsilon)
        key = _normalize_heads(tape, key, given["k_norm"], kv_heads, head_dim, epsilon)

        attributes = {
            "num_heads": heads,
            "kv_num_heads": kv_heads,
            "scale": node.attributes["scale"].as_float(),
            "do_rotary": rotary,
        }
        if window:
            attributes |= {"local_window_size": window, "sliding_window_cache": int(capacity < self.max_length)}
        seqlens_k, total_sequence_length, query_seqlens = lengths
        tables = (given["cos"], given["sin"]) if rotary else (None, None)
        outputs = tape.op_multi_out(
            "GroupQueryAttention",
            [
                *(query, key, value, past_key, given["past_value"], seqlens_k, total_sequence_length, *tables),
                *(None,) * 7,  # position_ids, attention_bias, head_sink, k_scale, v_scale, q_norm, k_norm
                query_seqlens,
            ],
            attributes,
            domain=CONTRIB_DOMAIN,
            num_outputs=3,
        )
        assert node.graph is not None
        ir.convenience.replace_nodes_and_values(node.graph, node, [node], tape.nodes, node.outputs, outputs)


def _normalize_heads(
    tape: ir.tape.Tape, packed: ir.Value, weight: ir.Value | None, heads: int, head_dim: int, epsilon: float
) -> ir.Value:
    apart = tape.op("Reshape", [packed, _ints(tape, 0, 0, heads, head_dim)])
    normal = tape.op("RMSNormalization", [apart, weight], {"axis": -1, "epsilon": epsilon})
    return tape.op("Reshape", [normal, _ints(tape, 0, 0, heads * head_dim)])


def _shared_lengths(first: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
    """``seqlens_k``, ``total_sequence_length`` and ``query_seqlens``, int32, made before the first attention."""
    given = dict(zip(INPUTS, first.inputs, strict=True))
    tape = ir.tape.Tape()

    def int32(value: ir.Value | None) -> ir.Value:
        return tape.op("Cast", [value], {"to": ir.DataType.INT32})

    total = tape.op("Add", [given["past_lengths"], given["query_lengths"]])
    seqlens_k = int32(tape.op("Sub", [total, _ints(tape, 1)]))
    # With query_seqlens this is a bound and no more; the kernel wants it no shorter than the chunk, padding and all.
    chunk = tape.op("Squeeze", [tape.op("Shape", [given["qkv"]], {"start": 1, "end": 2})])
    longest = int32(tape.op("Max", [tape.op("ReduceMax", [total], {"keepdims": 0}), chunk]))
    query_seqlens = int32(given["query_lengths"])
    assert first.graph is not None
    first.graph.insert_before(first, tape.nodes)
    return seqlens_k, longest, query_seqlens


def _ints(tape: ir.tape.Tape, *values: int) -> ir.Value:
    return tape.op("Constant", [], {"value_ints": list(values)})
