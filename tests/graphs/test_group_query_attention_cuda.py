"""The nodes for ONNX Runtime's CUDA kernel, without one: their form by the operator's schema, their numbers on a CPU.

The CPU kernel does all that the CUDA kernel does but for the norms of queries and keys. `unfused` takes those out of
the operator again, in float32; what is left is the very node, with its cache of the window's size.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as state

from exaone_export.errors import GraphContradictionError
from exaone_export.exporter import export as pipeline
from exaone_export.graphs.passes.group_query_attention import OPERATOR_INPUTS, LowerToGroupQueryAttention
from exaone_export.graphs.passes.name_layers import NameLayers
from exaone_export.graphs.passes.repeat_layers import RepeatLayers, kinds_of
from exaone_export.graphs.passes.tidy import Tidy
from exaone_export.graphs.verify import verify
from exaone_export.model.config.reading import read_spec
from exaone_export.targets.cache_layout import CacheLayout, LayerCache
from exaone_export.targets.recipe import Recipe
from tests.conftest import HYBRID
from tests.graphs.attention_reference import (
    EPSILON,
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    MAX_LENGTH,
    Weights,
    attend,
    make_rows,
    make_weights,
)
from tests.graphs.kernels import attention_model, layer_cache

TOLERANCE = 2e-6
SPEC = read_spec(HYBRID | {"model_type": "exaone4"})
LAYOUT = CacheLayout.plan(SPEC.layers, 64, slack=0)
RECIPE = Recipe.plan(SPEC, "bfloat16", "bfloat16")
# The operator's inputs and attributes in onnxruntime 1.31.1, the oldest release that the nodes are for.
OLDEST_INPUTS = OPERATOR_INPUTS[:16]
OLDEST_ATTRIBUTES = {
    "causal", "do_rotary", "k_quant_type", "kv_cache_bit_width", "kv_num_heads", "local_window_size", "num_heads",
    "qk_norm_epsilon", "qk_output", "rotary_interleaved", "scale", "sliding_window_cache", "smooth_softmax", "softcap",
    "v_quant_type",
}  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> Weights:
    return make_weights(np.random.default_rng(0))


def fused_model(weights: Weights, layer: LayerCache, rotary: bool) -> ir.Model:
    return LowerToGroupQueryAttention(MAX_LENGTH, fused=True)(attention_model(weights, layer, rotary, mask=True)).model


def lowered(dtype: torch.dtype) -> ir.Model:
    """The hybrid of `HYBRID`, without weights: three local layers of window 8 with RoPE, then a global one without."""
    return LowerToGroupQueryAttention(LAYOUT.max_length, fused=True)(traced(dtype).clone()).model


@functools.cache
def traced(dtype: torch.dtype) -> ir.Model:
    return ir.passes.Sequential(RepeatLayers(kinds_of(SPEC, LAYOUT)), Tidy(), NameLayers())(
        pipeline.trace(SPEC, LAYOUT, dtype)
    ).model


def attention(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "GroupQueryAttention"]


def named_inputs(node: ir.Node) -> dict[str, ir.Value]:
    pairs = zip(OPERATOR_INPUTS, node.inputs, strict=False)
    return {name: value for name, value in pairs if value is not None}


def unfused(model: ir.Model) -> ir.Model:
    """Normalize queries and keys before the operator, by nodes of their own, and no norm in float16."""
    for norm in [node for node in model.graph if node.op_type == "RMSNormalization"]:
        if norm.inputs[0].dtype == ir.DataType.FLOAT16:
            cast = ir.node("Cast", [norm.inputs[0]], {"to": ir.DataType.FLOAT})
            model.graph.insert_before(norm, cast)
            norm.replace_input_with(0, cast.outputs[0])
    for node in attention(model):
        tape = ir.tape.Tape()
        heads, kv_heads = (node.attributes[name].as_int() for name in ("num_heads", "kv_num_heads"))
        head_dim = int(node.inputs[14].shape[0])

        def ints(*values: int, tape: ir.tape.Tape = tape) -> ir.Value:
            return tape.op("Constant", [], {"value_ints": list(values)})

        sizes = ints(heads * head_dim, kv_heads * head_dim, kv_heads * head_dim)
        parts = tape.op_multi_out("Split", [node.inputs[0], sizes], {"axis": -1}, num_outputs=3)
        epsilon = node.attributes.pop("qk_norm_epsilon").as_float()
        for i, count in enumerate((heads, kv_heads)):
            apart = tape.op("Reshape", [parts[i], ints(0, 0, count, head_dim)])
            normal = tape.op("RMSNormalization", [apart, node.inputs[14 + i]], {"axis": -1, "epsilon": epsilon})
            node.replace_input_with(i, tape.op("Reshape", [normal, ints(0, 0, count * head_dim)]))
            node.replace_input_with(14 + i, None)
        node.replace_input_with(2, parts[2])
        assert node.graph is not None
        node.graph.insert_before(node, tape.nodes)
    return model


def open_session(model: ir.Model) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    proto = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])


def mask_of_lengths(past: list[int], chunk: int) -> np.ndarray:
    """As many columns as the longest row has tokens; the node reads no more of it."""
    return np.zeros((len(past), max(past) + chunk), np.int64)


class Cached:
    """One layer's operator with its cache, which begins as NaN."""

    def __init__(self, session: Any, layer: LayerCache, batch: int) -> None:
        self.session = session
        self.cache = [np.full((batch, KV_HEADS, layer.capacity, HEAD_DIM), np.nan, np.float32) for _ in range(2)]

    def step(self, qkv: np.ndarray, past: list[int], rows: slice = slice(None)) -> np.ndarray:
        """``[b, S, width]`` after ``past`` tokens a row, for some rows of the batch; every row brings S tokens."""
        inputs = {"qkv": qkv, "past_lengths": np.array(past), "query_lengths": np.full(len(past), qkv.shape[1])}
        inputs |= {name: part[rows] for name, part in zip(("past_key", "past_value"), self.cache, strict=True)}
        inputs["attention_mask"] = mask_of_lengths(past, qkv.shape[1])
        output, *present = self.session.run(None, inputs)
        for part, new in zip(self.cache, present, strict=True):
            part[rows] = new
        return output


@pytest.mark.parametrize("rotary", [True, False], ids=["rope", "nope"])
@pytest.mark.parametrize("window", [0, 1, 2, 8, 60])
def test_chunks_and_decoding_over_several_windows_are_attention_over_all_of_them(
    window: int, rotary: bool, weights: Weights
) -> None:
    """Traps 4, 6 and 9, with the capacity at the window: one row in chunks of any size, stale slots full of NaN."""
    layer = layer_cache(window, 0)
    session = open_session(unfused(fused_model(weights, layer, rotary)))
    tokens = make_rows(np.random.default_rng(1), (50,)).tokens[0]
    wanted = attend(tokens, weights, window, rotary)
    for chunk in {1, 3, max(window - 1, 1), window + 1, min(2 * window + 1, MAX_LENGTH)}:
        cached = Cached(session, layer, 1)
        cuts = [*range(0, 37, chunk), *range(37, 51)]
        parts = [cached.step(tokens[None, start:stop], [start]) for start, stop in itertools.pairwise(cuts)]
        np.testing.assert_allclose(np.concatenate(parts, 1)[0], wanted, atol=TOLERANCE, rtol=0, err_msg=f"{chunk}")


@pytest.mark.parametrize("window", [0, 8])
def test_rows_that_were_prefilled_apart_are_decoded_together(window: int, weights: Weights) -> None:
    layer = layer_cache(window, 0)
    cached = Cached(open_session(unfused(fused_model(weights, layer, True))), layer, 3)
    rows, prompts = make_rows(np.random.default_rng(2), (40, 25, 12)).tokens, [30, 15, 2]
    outputs = []
    for r, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        outputs.append([*cached.step(row[None, :prompt], [0], slice(r, r + 1))[0]])
    for i in range(10):
        past = [prompt + i for prompt in prompts]
        step = cached.step(np.stack([row[n : n + 1] for row, n in zip(rows, past, strict=True)]), past)
        for r in range(3):
            outputs[r].append(step[r, 0])
    for row, output in zip(rows, outputs, strict=True):
        np.testing.assert_allclose(np.stack(output), attend(row, weights, window, True), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("window", [0, 8])
def test_a_batch_of_one_length_is_prefilled_together(window: int, weights: Weights) -> None:
    layer = layer_cache(window, 0)
    cached = Cached(open_session(unfused(fused_model(weights, layer, True))), layer, 3)
    rows = make_rows(np.random.default_rng(3), (20, 20, 20)).tokens
    output = cached.step(np.stack(rows), [0, 0, 0])
    for r, row in enumerate(rows):
        np.testing.assert_allclose(output[r], attend(row, weights, window, True), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("window", "lengths", "past", "sentence"),
    [
        (8, [20, 13], [0, 0], "seqlens_k[1] = 12 is too small for sequence_length 20"),
        (8, [5, 5], [3, 3], "batch_size must be 1 when sequence_length > 1 and past context is given"),
        (0, [5, 5], [3, 3], "batch_size must be 1 when sequence_length > 1 and past context is given"),
    ],
    ids=["ragged prompts over a window", "a chunk for two rows", "a chunk for two rows, global"],
)
def test_why_rows_are_taken_apart(
    window: int, lengths: list[int], past: list[int], sentence: str, weights: Weights
) -> None:
    """What `dense_steps` works around; when the operator takes such steps, that can go."""
    layer = layer_cache(window, 0)
    session = open_session(unfused(fused_model(weights, layer, True)))
    qkv = np.zeros((2, max(lengths), (HEADS + 2 * KV_HEADS) * HEAD_DIM), np.float32)
    cache = np.zeros((2, KV_HEADS, layer.capacity, HEAD_DIM), np.float32)
    inputs = {"qkv": qkv, "past_key": cache, "past_value": cache, "attention_mask": mask_of_lengths(past, max(lengths))}
    with pytest.raises(state.InvalidArgument) as caught:
        session.run(None, {**inputs, "past_lengths": np.array(past), "query_lengths": np.array(lengths)})
    assert sentence in str(caught.value)


def test_the_cpu_kernel_refuses_the_fused_norm(weights: Weights) -> None:
    layer = layer_cache(8, 0)
    cached = Cached(open_session(fused_model(weights, layer, True)), layer, 1)
    with pytest.raises(state.InvalidArgument, match="q_norm_weight"):
        cached.step(make_rows(np.random.default_rng(4), (3,)).tokens[0][None], [0])


def test_inputs_stand_where_the_operator_s_schema_has_them() -> None:
    schema = next(found for found in state.get_all_operator_schema() if found.name == "GroupQueryAttention")
    assert tuple(value.name for value in schema.inputs) == OPERATOR_INPUTS
    assert set(schema.attributes) >= OLDEST_ATTRIBUTES
    for node in attention(lowered(torch.bfloat16)):
        assert len(node.inputs) <= len(OLDEST_INPUTS)
        assert set(node.attributes) <= OLDEST_ATTRIBUTES
        required = {name for name, attribute in schema.attributes.items() if attribute.required}
        assert set(node.attributes) >= required


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.float16, ir.DataType.FLOAT16), (torch.bfloat16, ir.DataType.BFLOAT16)]
)
def test_a_layer_is_one_node_of_one_type(dtype: torch.dtype, kind: ir.DataType) -> None:
    model = lowered(dtype)
    *local, last = attention(model)
    always = {"query", "past_key", "past_value", "seqlens_k", "total_sequence_length", "q_norm_weight", "k_norm_weight"}
    for node in local:
        given = named_inputs(node)
        assert given.keys() == always | {"cos_cache", "sin_cache"}
        assert given["query"].producer().op_type == "MatMul"
        lengths = {"seqlens_k", "total_sequence_length"}
        assert {given[name].dtype for name in given.keys() - lengths} == {kind}
        assert {given[name].dtype for name in lengths} == {ir.DataType.INT32}
        settings = {name: attribute.value for name, attribute in node.attributes.items()}
        assert (settings["num_heads"], settings["kv_num_heads"], settings["do_rotary"]) == (4, 2, 1)
        assert (settings["local_window_size"], settings["sliding_window_cache"]) == (8, 1)
        assert settings["qk_norm_epsilon"] == pytest.approx(1e-5)
        assert settings["scale"] == pytest.approx(0.25)
    assert named_inputs(last).keys() == always
    assert last.attributes["do_rotary"].as_int() == 0
    assert "local_window_size" not in last.attributes
    # Rounded once for all layers; the layers' own norms stay where they are, in float32.
    for name in ("cos_cache", "sin_cache", "seqlens_k", "total_sequence_length"):
        assert len({named_inputs(node)[name] for node in local}) == 1
    assert sum(node.op_type == "RMSNormalization" for node in model.graph) == 2 * 4 + 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_types_and_shapes_hold_for_onnx_runtime(dtype: torch.dtype) -> None:
    """It resolves the graph's types before it looks for kernels, and has no CPU kernel for bfloat16."""
    model = lowered(dtype)
    for value in model.graph.initializers.values():
        if value.dtype.is_floating_point():
            value.const_value = ir.tensor(np.zeros(value.shape.numpy(), value.dtype.numpy()), name=value.name)
    if dtype == torch.float16:
        open_session(model)
    else:
        with pytest.raises(state.NotImplemented):
            open_session(model)


def test_a_local_layer_that_can_hold_every_token_keeps_them_all(weights: Weights) -> None:
    (node,) = attention(fused_model(weights, LayerCache(MAX_LENGTH, 2 * MAX_LENGTH), True))
    assert node.attributes["sliding_window_cache"].as_int() == 0


def test_a_capacity_beyond_the_window_is_a_mistake(weights: Weights) -> None:
    with pytest.raises(AssertionError):
        fused_model(weights, layer_cache(8, 1), True)


def test_the_graph_is_read_back_as_its_model() -> None:
    readings = verify(lowered(torch.bfloat16), SPEC, LAYOUT, RECIPE)
    assert [reading.attention.rotary for reading in readings] == [True, True, True, False]
    assert [reading.attention.window for reading in readings] == [8, 8, 8, 0]
    assert all(reading.attention.qk_norm and reading.norms == "output" for reading in readings)


def _drop_key_norm(node: ir.Node) -> None:
    node.replace_input_with(15, None)


def _forget_epsilon(node: ir.Node) -> None:
    node.attributes.pop("qk_norm_epsilon")


def _normalize_twice(node: ir.Node) -> None:
    packed = node.inputs[0]
    norm = ir.node("RMSNormalization", [packed, node.inputs[14]], {"axis": -1, "epsilon": 1e-5})
    node.graph.insert_before(node, norm)
    node.replace_input_with(0, norm.outputs[0])


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (_drop_key_norm, " has 1 norms of queries and keys, not one of each."),
        (_normalize_twice, " has 3 norms of queries and keys, not one of each."),
        (_forget_epsilon, f"layer 1 of the graph has epsilon 1e-06, and the model has {EPSILON}."),
    ],
)
def test_a_wrong_norm_is_refused(mistake: Callable[[ir.Node], None], sentence: str) -> None:
    model = lowered(torch.float16)
    mistake(attention(model)[1])
    with pytest.raises(GraphContradictionError) as caught:
        verify(model, SPEC, LAYOUT, Recipe.plan(SPEC, "float16", "float16"))
    assert str(caught.value).endswith(sentence)
