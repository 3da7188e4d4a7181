"""What is run in one kernel on CUDA, and what stays as it is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from exaone_export.graphs.passes.cuda_kernels import FuseCudaKernels
from exaone_export.graphs.verify import verify
from exaone_export.precision import Recipe
from tests.graphs.test_group_query_attention_cuda import LAYOUT, SPEC, lowered


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_norms_of_float16_read_it_and_silu_is_one_node() -> None:
    model = lowered(torch.float16)
    before = operators(model)
    result = FuseCudaKernels()(model)
    after = operators(model)
    assert result.modified
    # Of 4 layers: two casts before norms each, and a SiLU. The last norm reads the residual stream.
    assert before.count("Cast") - after.count("Cast") == 8
    assert (before.count("Sigmoid"), after.count("Sigmoid"), after.count("QuickGelu")) == (4, 0, 4)
    norms = [node for node in model.graph if node.op_type == "RMSNormalization"]
    assert [norm.inputs[0].dtype for norm in norms] == [ir.DataType.FLOAT16] * 8 + [ir.DataType.FLOAT]
    assert all(norm.outputs[0].dtype in (ir.DataType.FLOAT, None) for norm in norms)
    readings = verify(model, SPEC, LAYOUT, Recipe.plan(SPEC, "float16", "float16"))
    assert all(reading.norms == "output" for reading in readings)
    assert not FuseCudaKernels()(model).modified


def test_norms_of_bfloat16_keep_their_casts() -> None:
    """The provider has no kernel that reads bfloat16 and writes float32."""
    model = lowered(torch.bfloat16)
    casts = operators(model).count("Cast")
    FuseCudaKernels()(model)
    assert operators(model).count("Cast") == casts
    assert operators(model).count("QuickGelu") == 4


def value(name: str, dtype: ir.DataType) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(["rows", 8]))


def test_a_cast_with_another_reader_stays() -> None:
    x, weight, tape = value("x", ir.DataType.FLOAT16), value("weight", ir.DataType.FLOAT), ir.tape.Tape()
    cast = tape.op("Cast", [x], {"to": ir.DataType.FLOAT})
    norm = tape.op("RMSNormalization", [cast, weight], {"axis": -1})
    total = tape.op("Add", [cast, norm])
    graph = ir.Graph([x, weight], [total], nodes=tape.nodes, opset_imports={"": 24}, name="graph")
    assert not FuseCudaKernels()(ir.Model(graph, ir_version=11)).modified
    assert norm.producer().inputs[0] is cast


@pytest.mark.parametrize("swapped", [False, True])
def test_a_product_with_another_s_sigmoid_stays(swapped: bool) -> None:
    x, y, tape = value("x", ir.DataType.FLOAT), value("y", ir.DataType.FLOAT), ir.tape.Tape()
    gate = tape.op("Sigmoid", [y if swapped else x])
    out = tape.op("Mul", [x, gate])
    out.type, out.shape, out.name = x.type, x.shape, "out"
    graph = ir.Graph([x, y], [out], nodes=tape.nodes, opset_imports={"": 24}, name="graph")
    model = ir.Model(graph, ir_version=11)
    assert FuseCudaKernels()(model).modified == (not swapped)
    if swapped:
        return
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    given = np.linspace(-6, 6, 16, dtype=np.float32).reshape(2, 8)
    (found,) = session.run(None, {"x": given, "y": given})
    np.testing.assert_allclose(found, given / (1 + np.exp(-given)), atol=1e-6)
