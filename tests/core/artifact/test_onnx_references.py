"""What a graph refers to is found wherever it stands, and what is no graph is not read as one."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import onnx
import pytest
from onnx import helper

from exaone_export.artifact.onnx_references import ExternalTensor, MalformedGraphError, read_references
from exaone_export.files.names import is_plain_name

pytestmark = pytest.mark.hostile

ELSEWHERE = [ExternalTensor("/etc/passwd", 8, 4)]


def external(location: str = "/etc/passwd") -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="x", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "8", "length": "4"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def model(*nodes: onnx.NodeProto, **graph: object) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(list(nodes), "g", [], [], **graph))


def constant() -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["y"], value=external())


def _in_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    made = model()
    made.functions.append(helper.make_function("d", "f", [], ["y"], [constant()], []))
    return made


def _sparse(tensor: onnx.TensorProto) -> onnx.ModelProto:
    made = model()
    made.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor, dims=[1]))
    return made


def _training(tensor: onnx.TensorProto) -> onnx.ModelProto:
    made = model()
    made.training_info.append(onnx.TrainingInfoProto(algorithm=helper.make_graph([constant()], "t", [], [])))
    return made


@pytest.mark.parametrize(
    "make",
    [
        lambda tensor: model(initializer=[tensor]),
        lambda _: model(constant()),
        lambda tensor: model(helper.make_node("X", [], ["y"], many=[tensor])),
        lambda _: model(helper.make_node("If", ["c"], ["y"], then_branch=helper.make_graph([constant()], "b", [], []))),
        _in_function,
        _sparse,
        _training,
    ],
    ids=["initializer", "attribute", "attributes", "branch", "function", "sparse", "training"],
)
def test_a_tensor_is_found_wherever_it_stands(make: Callable[[onnx.TensorProto], onnx.ModelProto]) -> None:
    assert read_references(make(external()).SerializeToString()).tensors == ELSEWHERE


def test_a_second_graph_does_not_hide_behind_the_first() -> None:
    """Protobuf merges a field that is given twice."""
    data = model().SerializeToString() + model(initializer=[external()]).SerializeToString()
    assert onnx.load_model_from_string(data).graph.initializer[0].external_data
    assert read_references(data).tensors == ELSEWHERE


def test_a_second_location_does_not_hide_behind_the_first() -> None:
    tensor = external("model.onnx.data")
    tensor.external_data.add(key="location", value="/etc/passwd")
    found = read_references(model(initializer=[tensor]).SerializeToString()).tensors
    assert {tensor.location for tensor in found} == {"model.onnx.data", "/etc/passwd"}


@pytest.mark.parametrize("name", [b"model.\xff.data", b"model.\xed\xb2\x80.data", b"\xc0\xaf"])
def test_a_location_that_is_not_utf8_is_the_name_that_is_opened_and_no_other(name: bytes) -> None:
    data = model(initializer=[external("y" * len(name))]).SerializeToString().replace(b"y" * len(name), name)
    [tensor] = read_references(data).tensors
    assert os.fsencode(tensor.location) == name
    assert not is_plain_name(tensor.location)


@pytest.mark.parametrize("value", ["-1", "1e3", "", "٣", "9" * 30])
def test_an_offset_that_is_no_number(value: str) -> None:
    tensor = external()
    tensor.external_data[1].value = value
    assert read_references(model(initializer=[tensor]).SerializeToString()).tensors[0].offset is None


def test_operators_of_every_level() -> None:
    inner = helper.make_graph([helper.make_node("Evil", [], ["z"], domain="d")], "b", [], [])
    made = model(helper.make_node("If", ["c"], ["y"], then_branch=inner))
    assert read_references(made.SerializeToString()).operators == {("", "If"), ("d", "Evil")}


@pytest.mark.parametrize(
    "data",
    [b"\x3a", b"\x3a\x05a", b"\x00\x01", b"\x0b", b"\xff" * 20, b"\x39\x00", b"\x3d\x00"],
    ids=["cut tag", "cut field", "no number", "group", "endless number", "cut fixed64", "cut fixed32"],
)
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(MalformedGraphError):
        read_references(data)


def test_graphs_within_graphs_without_end() -> None:
    graph = helper.make_graph([], "g", [], [])
    for _ in range(30):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=graph)], "g", [], [])
    with pytest.raises(MalformedGraphError, match="deeper"):
        read_references(helper.make_model(graph).SerializeToString())


def test_what_protobuf_reads_is_read_and_what_it_refuses_does_no_harm() -> None:
    """Damage of any kind ends in an answer or in `MalformedGraphError`."""
    chance = random.Random(3)
    original = model(constant(), initializer=[external("a"), external("b")]).SerializeToString()
    for _ in range(500):
        data = bytearray(original)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            locations = {tensor.location for tensor in read_references(bytes(data)).tensors}
        except MalformedGraphError:
            locations = None
        try:
            parsed = onnx.load_model_from_string(bytes(data))
        except Exception:  # noqa: BLE001 - protobuf's own
            continue
        values = [e.value for t in parsed.graph.initializer for e in t.external_data if e.key == "location"]
        theirs = {os.fsdecode(value) if isinstance(value, bytes) else value for value in values}
        assert locations is None or theirs <= locations


def test_keys_of_the_metadata_are_found() -> None:
    made = model()
    helper.set_model_props(made, {"ort_config": "{}", "b": ""})
    assert read_references(made.SerializeToString()).metadata == {"ort_config", "b"}
