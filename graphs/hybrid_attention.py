"""``exaone::HybridAttention``: the schema of the custom operator, and its body in standard opset-24 operators.

The body is an ONNX function that travels inside the model, so an un-lowered graph runs wherever opset 24 does. It
computes what `exaone_export.exporter.reference.attention.hybrid_attention` computes, whose docstring says what the
inputs are.

Legend: B batch, S query length, C cache capacity, D head_dim, N attention heads, K key-value heads.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx.defs import OpSchema
from onnxscript import script
from onnxscript.onnx_opset import opset24 as op
from onnxscript.values import Opset

DOMAIN = "exaone"
VERSION = 1
NAME = "HybridAttention"
OPSET = Opset(DOMAIN, VERSION)

INPUTS = (
    "qkv",
    "q_norm",
    "k_norm",
    "cos",
    "sin",
    "past_key",
    "past_value",
    "past_lengths",
    "query_lengths",
)
OUTPUTS = ("output", "present_key", "present_value")
_OPTIONAL, _REQUIRED = OpSchema.FormalParameterOption.Optional, OpSchema.FormalParameterOption.Single


def _schema() -> OpSchema:
    attributes = {
        "num_heads": OpSchema.AttrType.INT,
        "num_key_value_heads": OpSchema.AttrType.INT,
        "scale": OpSchema.AttrType.FLOAT,
        "window": OpSchema.AttrType.INT,
        "rotary": OpSchema.AttrType.INT,
        "epsilon": OpSchema.AttrType.FLOAT,
    }
    kinds = dict.fromkeys((*INPUTS, *OUTPUTS), "T")
    kinds |= dict.fromkeys(("q_norm", "k_norm", "cos", "sin"), "F") | dict.fromkeys(INPUTS[-2:], "L")
    absent = {"q_norm", "k_norm"}
    return OpSchema(
        NAME,
        DOMAIN,
        VERSION,
        doc="QK-norm or none, RoPE or none, the hybrid cache's update and grouped-query attention of one EXAONE layer.",
        inputs=[
            OpSchema.FormalParameter(name, kinds[name], param_option=_OPTIONAL if name in absent else _REQUIRED)
            for name in INPUTS
        ],
        outputs=[OpSchema.FormalParameter(name, kinds[name]) for name in OUTPUTS],
        type_constraints=[
            ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "Activations and cache."),
            ("F", ["tensor(float)"], "Norm weights and rotary tables."),
            ("L", ["tensor(int64)"], "Lengths."),
        ],
        attributes=[OpSchema.Attribute(name, kind, required=True) for name, kind in attributes.items()],
    )


def register_schema() -> None:
    """Make the operator known to `onnx` in this process; a second call changes nothing."""
    if not onnx.defs.has(NAME, DOMAIN):
        onnx.defs.register_schema(_schema())


@script(OPSET, default_opset=op)
def HybridAttention(  # type: ignore[no-untyped-def]
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
    rotary: int,
    epsilon: float,
):
    """The portable body; see the module docstring."""
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    heads = op.Constant(value_int=num_heads)
    kv_heads = op.Constant(value_int=num_key_value_heads)
    window_size = op.Constant(value_int=window)
    capacity = op.Squeeze(op.Shape(past_key, start=2, end=3))
    length = op.Squeeze(op.Shape(qkv, start=1, end=2))

    # Split the heads, normalize queries and keys.
    head_dim = op.Shape(past_key, start=3, end=4)
    minus_one = op.Constant(value_ints=[-1])
    zeros = op.Constant(value_ints=[0, 0])
    packed = op.Transpose(op.Reshape(qkv, op.Concat(zeros, minus_one, head_dim, axis=0)), perm=[0, 2, 1, 3])
    one_axis = op.Constant(value_ints=[1])
    splits = op.Concat(
        op.Reshape(heads, one_axis), op.Reshape(kv_heads, one_axis), op.Reshape(kv_heads, one_axis), axis=0
    )
    query, key, value = op.Split(packed, splits, axis=1)
    query = op.RMSNormalization(op.Cast(query, to=1), q_norm, axis=-1, epsilon=epsilon)
    key = op.RMSNormalization(op.Cast(key, to=1), k_norm, axis=-1, epsilon=epsilon)

    # Rotate; a layer without RoPE turns by nothing, since an attribute cannot choose between graphs.
    steps = op.Range(zero, length, one)
    past_column = op.Unsqueeze(past_lengths, one_axis)
    query_position = op.Add(past_column, steps)
    rotates = op.Cast(op.Constant(value_int=rotary), to=9)
    cosine = op.Where(rotates, cos, op.Constant(value_float=1.0))
    sine = op.Where(rotates, sin, op.Constant(value_float=0.0))
    last_angle = op.Sub(op.Squeeze(op.Shape(cos, start=0, end=1)), one)
    angle = op.Min(query_position, last_angle)
    query = op.CastLike(op.RotaryEmbedding(query, cosine, sine, angle), past_key)
    key = op.CastLike(op.RotaryEmbedding(key, cosine, sine, angle), past_key)

    # evicted(T) of the cache law, 0 where nothing is ever evicted.
    total = op.Add(past_lengths, query_lengths)
    block = op.Add(op.Sub(capacity, window_size), one)
    evicts = op.And(op.Greater(window_size, zero), op.Greater(block, zero))
    safe_block = op.Where(evicts, block, one)
    past_over = op.Max(op.Sub(past_lengths, capacity), zero)
    over = op.Max(op.Sub(total, capacity), zero)
    rounding = op.Sub(safe_block, one)
    past_evicted = op.Where(evicts, op.Mul(safe_block, op.Div(op.Add(past_over, rounding), safe_block)), zero)
    evicted = op.Where(evicts, op.Mul(safe_block, op.Div(op.Add(over, rounding), safe_block)), zero)

    # Keys in the order of their positions: resident rows, stale ones, then the chunk.
    slots = op.Range(zero, capacity, one)
    past_evicted_column = op.Unsqueeze(past_evicted, one_axis)
    resident = op.Less(slots, op.Sub(past_column, past_evicted_column))
    fresh = op.Less(steps, op.Unsqueeze(query_lengths, one_axis))
    valid = op.Concat(resident, fresh, axis=1)
    position = op.Concat(op.Add(past_evicted_column, slots), query_position, axis=1)
    # Stale slots and padding may hold anything, NaN too, and 0 * NaN would reach the output.
    keep = op.Unsqueeze(valid, op.Constant(value_ints=[1, 3]))
    nothing = op.CastLike(op.Constant(value_float=0.0), past_key)
    keys = op.Where(keep, op.Concat(past_key, key, axis=2), nothing)
    values = op.Where(keep, op.Concat(past_value, value, axis=2), nothing)

    # Padded queries look from the last position, so that no row of the mask is empty.
    last = op.Unsqueeze(op.Sub(total, one), one_axis)
    looking = op.Unsqueeze(op.Min(query_position, last), op.Constant(value_ints=[2]))
    position_row = op.Unsqueeze(position, one_axis)
    # A window of 0 sees everything: no key is older than the sequence.
    reach = op.Where(op.Greater(window_size, zero), window_size, op.Add(op.Add(capacity, length), one))
    oldest = op.Sub(looking, reach)
    in_window = op.And(op.LessOrEqual(position_row, looking), op.Greater(position_row, oldest))
    seen = op.Unsqueeze(op.And(op.Unsqueeze(valid, one_axis), in_window), one_axis)
    mixed = op.Attention(query, keys, values, seen, scale=scale)
    merged = op.Concat(zeros, minus_one, axis=0)
    output = op.Reshape(op.Transpose(mixed, perm=[0, 2, 1, 3]), merged)

    # Row i of the new cache is position evicted + i; the chunk stands at C, behind the old rows.
    new_position = op.Add(op.Unsqueeze(evicted, one_axis), slots)
    from_past = op.Sub(new_position, past_evicted_column)
    from_chunk = op.Add(op.Sub(new_position, past_column), capacity)
    source = op.Where(op.Less(new_position, past_column), from_past, from_chunk)
    last_source = op.Sub(op.Add(capacity, length), one)
    source = op.Clip(source, zero, last_source)
    index = op.Expand(op.Unsqueeze(source, op.Constant(value_ints=[1, 3])), op.Shape(past_key))
    present_key = op.GatherElements(keys, index, axis=2)
    present_value = op.GatherElements(values, index, axis=2)
    return output, present_key, present_value


def portable_body(*, qk_norm: bool = True) -> ir.Function:
    """The operator's body as a function that a model carries.

    Args:
        qk_norm: Whether the model's nodes have norms; a body has no way to ask whether an input is there.
    """
    body: ir.Function = ir.from_proto(HybridAttention.to_function_proto())
    for node in [] if qk_norm else [node for node in body if node.op_type == "RMSNormalization"]:
        assert node.inputs[0] is not None
        node.outputs[0].replace_all_uses_with(node.inputs[0])
        body.remove(node, safe=True)
    return body


def has_qk_norm(node: ir.Node) -> bool:
    """Whether a node of the operator normalizes queries and keys."""
    norms = [node.inputs[INPUTS.index(name)] is not None for name in ("q_norm", "k_norm")]
    assert norms[0] == norms[1], f"{node.name} normalizes queries or keys and not both"
    return norms[0]


def is_hybrid_attention(node: ir.Node) -> bool:
    """Whether ``node`` is the operator."""
    return node.domain == DOMAIN and node.op_type == NAME


def hybrid_attention_nodes(model: ir.Model) -> list[ir.Node]:
    """The nodes of the operator, in the order of the graph, which is the order of the layers."""
    return [node for node in model.graph if is_hybrid_attention(node)]


def ensure_lowered(model: ir.Model) -> None:
    """Raise unless no node of the operator is left.

    Raises:
        onnx_ir.passes.PostconditionError: One is.
    """
    if left := [node.name for node in hybrid_attention_nodes(model)]:
        raise ir.passes.PostconditionError(f"attention nodes {left} were not lowered")
