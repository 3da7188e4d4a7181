"""Which norms read float16 as it is."""

from __future__ import annotations

import onnx_ir as ir
import torch

from exaone_export.graphs.passes.half_norms import HalfNorms
from exaone_export.graphs.verify import verify
from exaone_export.targets.recipe import Recipe
from tests.graphs.test_group_query_attention_cuda import LAYOUT, SPEC, lowered


def casts(model: ir.Model) -> int:
    return sum(node.op_type == "Cast" for node in model.graph)


def test_norms_of_float16_read_it() -> None:
    model = lowered(torch.float16)
    before = casts(model)
    assert HalfNorms()(model).modified
    # Two norms in each of 4 layers; the last norm reads the residual stream.
    assert before - casts(model) == 8
    norms = [node for node in model.graph if node.op_type == "RMSNormalization"]
    assert [norm.inputs[0].dtype for norm in norms] == [ir.DataType.FLOAT16] * 8 + [ir.DataType.FLOAT]
    assert {norm.inputs[1].dtype for norm in norms} == {ir.DataType.FLOAT}
    readings = verify(model, SPEC, LAYOUT, Recipe.plan(SPEC, "float16", "float16"))
    assert all(reading.norms == "output" for reading in readings)
    assert not HalfNorms()(model).modified


def test_norms_of_bfloat16_keep_their_casts() -> None:
    """The provider has no kernel that reads bfloat16 and writes float32."""
    model = lowered(torch.bfloat16)
    before = casts(model)
    assert HalfNorms()(model).modified  # nodes that the lowering has left unused are removed
    assert casts(model) == before
    assert not HalfNorms()(model).modified


def value(name: str, dtype: ir.DataType) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(["rows", 8]))


def test_a_cast_with_another_reader_stays() -> None:
    x, weight, tape = value("x", ir.DataType.FLOAT16), value("weight", ir.DataType.FLOAT), ir.tape.Tape()
    cast = tape.op("Cast", [x], {"to": ir.DataType.FLOAT})
    norm = tape.op("RMSNormalization", [cast, weight], {"axis": -1})
    total = tape.op("Add", [cast, norm])
    graph = ir.Graph([x, weight], [total], nodes=tape.nodes, opset_imports={"": 24}, name="graph")
    assert not HalfNorms()(ir.Model(graph, ir_version=11)).modified
    assert norm.producer().inputs[0] is cast
