"""A large vocabulary projection in several products: the same logits of the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import GraphContradictionError
from exaone_export.exporter.export import export
from exaone_export.graphs.passes import divide_head
from exaone_export.graphs.passes.divide_head import DivideHead
from exaone_export.graphs.verify import verify
from exaone_export.runtime.core.buffers import CacheBuffers
from exaone_export.runtime.core.steps import Step
from exaone_export.runtime.sessions.opening import open_session
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.recipe import Recipe
from tests.conftest import TINY


def logits(folder: Path) -> np.ndarray:
    """Of every position of one prompt."""
    with open_session(Artifact.open(folder), threads=1) as session:
        buffers = CacheBuffers(session.geometry, 1)
        for tensor in buffers.tensors:
            tensor[:] = 0
        tokens = np.random.default_rng(0).integers(3, session.vocab_size, (1, 9))
        (found,) = session.step(Step(tokens, [0], [9], kept=range(9)), buffers)
        return np.array(found)


def check(folder: Path, graph: ir.Model) -> None:
    artifact = Artifact.open(folder)
    verify(
        graph,
        artifact.spec,
        CacheLayout.from_dict(artifact.manifest.cache),
        Recipe.from_dict(artifact.manifest.recipe),
    )


@pytest.fixture
def divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    def make(target: str = "ort-cpu", **options: Any) -> Path:
        monkeypatch.setattr(divide_head, "LARGE_BYTES", 1)
        monkeypatch.setattr(divide_head, "PARTS", 3)
        export(TINY, tmp_path / "divided", target=target, max_length=256, **options)
        return tmp_path / "divided"

    return make


@pytest.mark.parametrize("precision", ["int4", "int8-weights"])
def test_parts_are_rows_of_the_same_tensor_and_give_the_same_logits(
    precision: str, divided: Callable[..., Path], export_artifact: Callable[..., Path]
) -> None:
    whole, parted = export_artifact(TINY, "ort-cpu", precision=precision), divided(precision=precision)
    assert (parted / "model.onnx.data").stat().st_size == (whole / "model.onnx.data").stat().st_size
    np.testing.assert_array_equal(logits(parted), logits(whole))
    graph = ir.load(parted / "model.onnx")
    concat = graph.graph.outputs[0].producer()
    assert concat is not None
    assert concat.op_type == "Concat"
    parts = [value.producer() for value in concat.inputs if value is not None]
    sizes = [part.attributes["N"].as_int() for part in parts if part is not None]
    vocabulary = Artifact.open(whole).spec.vocab_size
    assert sum(sizes) == vocabulary
    assert len(sizes) == 3
    stored = ir.load(whole / "model.onnx").graph.initializers["head.weight.quantized"].const_value
    rows = [part.inputs[1].const_value.numpy() for part in parts if part is not None]  # type: ignore[union-attr]
    assert stored is not None
    np.testing.assert_array_equal(np.concatenate(rows), stored.numpy())
    assert {size % 64 for size in sizes[:-1]} == {0}
    check(parted, graph)


def test_both_graphs_have_the_same_parts(divided: Callable[..., Path]) -> None:
    folder = divided(precision="int4", prefill_precision="int8")
    parts = [
        {name: value.const_value for name, value in ir.load(folder / file).graph.initializers.items()}
        for file in ("model.onnx", "model.prefill.onnx")
    ]
    first, second = ({n: t for n, t in part.items() if n.startswith("head.weight")} for part in parts)
    assert len(first) == 6  # values and scales of three
    places = [
        {name: (tensor.offset, tensor.length) for name, tensor in part.items() if isinstance(tensor, ir.ExternalTensor)}
        for part in (first, second)
    ]
    assert places[0] == places[1]
    assert Artifact.open(folder).of_prompts is not None


def _leave_out(concat: ir.Node) -> None:
    concat.resize_inputs(2)


def _swap(concat: ir.Node) -> None:
    first, second = concat.inputs[:2]
    concat.replace_input_with(0, second)
    concat.replace_input_with(1, first)


def _repeat(concat: ir.Node) -> None:
    concat.replace_input_with(1, concat.inputs[0])


def _give_another_input(concat: ir.Node) -> None:
    assert concat.inputs[1] is not None
    part = concat.inputs[1].producer()
    assert part is not None
    assert part.graph is not None
    part.replace_input_with(0, part.graph.inputs[0])


def _change_the_axis(concat: ir.Node) -> None:
    concat.attributes["axis"] = ir.AttrInt64("axis", 1)


def _remove_the_axis(concat: ir.Node) -> None:
    del concat.attributes["axis"]


def _exchange_the_scales(concat: ir.Node) -> None:
    first, second = (value.producer() for value in concat.inputs[:2] if value is not None)
    assert first is not None
    assert second is not None
    scales = first.inputs[2], second.inputs[2]
    first.replace_input_with(2, scales[1])
    second.replace_input_with(2, scales[0])


def _take_a_weight_from_a_node(concat: ir.Node) -> None:
    assert concat.inputs[0] is not None
    part = concat.inputs[0].producer()
    assert part is not None
    part.replace_input_with(1, ir.Value(name="computed"))


def _leave_nothing(concat: ir.Node) -> None:
    concat.resize_inputs(0)


FAULTS = (
    _take_a_weight_from_a_node,
    _leave_nothing,
    _leave_out,
    _swap,
    _repeat,
    _give_another_input,
    _change_the_axis,
    _remove_the_axis,
    _exchange_the_scales,
)


def test_parts_that_are_not_the_head_in_turn_are_refused(divided: Callable[..., Path]) -> None:
    folder = divided(precision="int4")
    check(folder, ir.load(folder / "model.onnx"))
    for fault in FAULTS:
        graph = ir.load(folder / "model.onnx")
        concat = graph.graph.outputs[0].producer()
        assert concat is not None
        fault(concat)
        with pytest.raises(GraphContradictionError, match="logits is not made by a product with the head's weight"):
            check(folder, graph)


def test_on_a_gpu_a_head_stays_whole(divided: Callable[..., Path]) -> None:
    graph = ir.load(divided("ort-cuda", precision="int4") / "model.onnx")
    head = graph.graph.outputs[0].producer()
    assert head is not None
    assert head.op_type == "MatMulNBits"


def test_a_small_head_stays_whole(export_artifact: Callable[..., Path]) -> None:
    model = ir.load(export_artifact(TINY, "ort-cpu", precision="int4") / "model.onnx")
    assert not DivideHead()(model).modified


def test_a_head_that_is_not_in_blocks_stays_whole(
    export_artifact: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a weight of whole channels, ``[in, out]``, are not ranges of its bytes."""
    monkeypatch.setattr(divide_head, "LARGE_BYTES", 1)
    for precision in ("int8", "float32"):
        model = ir.load(export_artifact(TINY, "ort-cpu", precision=precision) / "model.onnx")
        assert not DivideHead()(model).modified
