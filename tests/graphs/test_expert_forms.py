"""Every form of a sparse layer computes what the reference does: all experts, the chosen ones, and the operators."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from exaone_export.exporter.quantize.expert_weights import ExpertWeights
from exaone_export.exporter.reference.experts import routed_experts
from exaone_export.graphs.experts.kernels import LowerToExpertKernels
from exaone_export.graphs.experts.standard import LowerToStandard
from exaone_export.graphs.wanted import wanted
from exaone_export.model.tensors import weight_table
from exaone_export.targets.recipe import Recipe
from tests.sparse_models import sparse_spec

PREFIX = "body.layers.1.mlp."
SPEC = sparse_spec(
    num_hidden_layers=2, layer_types=["sliding_attention"] * 2, mlp_layer_types=["dense", "sparse"], hidden_size=64
)
ROUTERS = {
    "groups": {"chosen": 3, "groups": 4, "chosen_groups": 2, "normalized": True, "scale": 2.5},
    "plain": {"chosen": 2, "groups": 1, "chosen_groups": 1, "normalized": False, "scale": 0.7},
    "one": {"chosen": 1, "groups": 2, "chosen_groups": 1, "normalized": True, "scale": 1.0},
    "every": {"chosen": 8, "groups": 2, "chosen_groups": 2, "normalized": True, "scale": 2.5},
}
FORMS = ["all", "chosen", "float32", "int4", "int8", "int8-weights"]


class Tensors:
    """Weights of a layer, read as from a checkpoint."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tensors = {
            source.name: torch.randn(source.shape, generator=generator) * source.shape[-1] ** -0.5
            for name, weight in weight_table(SPEC).items()
            if name.startswith(PREFIX)
            for source in weight.sources
        }

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def read_rows(self, name: str, rows: int) -> Iterator[torch.Tensor]:
        yield from self.tensors[name].split(min(rows, 6))

    def stack(self, product: str) -> torch.Tensor:
        """``[experts, in, out]``."""
        each = weight_table(SPEC)[f"{PREFIX}experts.{product}"].each
        return torch.stack([torch.cat([self.tensors[name] for name in weight.names]).T for weight in each])


def traced(router: dict[str, Any], tensors: Tensors) -> ir.Model:
    """A graph of one node."""
    bias = tensors.tensors["model.layers.1.mlp.e_score_correction_bias"]
    weights = {
        f"{PREFIX}router.weight": tensors.tensors["model.layers.1.mlp.gate.weight"].T,
        f"{PREFIX}router.bias": bias,
        f"{PREFIX}experts.gate_up": tensors.stack("gate_up"),
        f"{PREFIX}experts.down": tensors.stack("down"),
    }
    values = [
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(tensor.shape))
        for name, tensor in weights.items()
    ]
    for value, tensor in zip(values, weights.values(), strict=True):
        value.const_value = ir.tensor(tensor.contiguous().numpy())
    hidden, output = (
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(("b", "s", 64)))
        for name in ("hidden", "output")
    )
    attributes = [ir.AttrFloat32("scale", router["scale"])]
    attributes += [ir.AttrInt64(name, int(value)) for name, value in router.items() if name != "scale"]
    node = ir.Node("exaone", "RoutedExperts", [hidden, *values], attributes, outputs=[output])
    graph = ir.Graph([hidden], [output], nodes=[node], initializers=values, opset_imports={"": 24}, name="layer")
    return ir.Model(graph, ir_version=11)


def dequantized(model: ir.Model) -> dict[str, torch.Tensor]:
    """``[experts, in, out]`` of both stacks as the operator has them, gate and up apart."""
    found = {}
    for product in ("gate_up", "down"):
        name = f"{PREFIX}experts.{product}"
        initializers = model.graph.initializers
        codes = initializers[f"{name}.quantized"].const_value.numpy()
        scale = torch.from_numpy(initializers[f"{name}.scale"].const_value.numpy())
        if codes.shape[2] < (64 if product == "gate_up" else 16):
            codes = np.stack((codes & 15, codes >> 4), -1).reshape(*codes.shape[:2], -1).astype(np.int16) - 8
        else:
            codes = codes.astype(np.int16) - 128
        values = torch.from_numpy(codes).float()
        scale = scale.reshape(*values.shape[:2], -1)
        exact = (values.unflatten(2, (scale.shape[2], -1)) * scale[..., None]).flatten(2)
        if product == "gate_up":
            exact = torch.cat((exact[:, 0::2], exact[:, 1::2]), 1)
        found[product] = exact.transpose(1, 2)
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("router", ROUTERS)
def test_a_form_computes_what_the_reference_does(router: str, form: str) -> None:
    tensors, given = Tensors(), ROUTERS[router]
    model = traced(given, tensors)
    stacks = {product: tensors.stack(product) for product in ("gate_up", "down")}
    if form in ("all", "chosen"):
        LowerToStandard(form)(model)
    else:
        LowerToExpertKernels(SPEC, Recipe.plan(SPEC, form, "float32", kernels=True))(model)
        readers: dict[Any, ExpertWeights] = {}
        for name, content in wanted(model).items():
            source = weight_table(SPEC)[content.weight.source]
            reader = readers.setdefault(
                content.weight,
                ExpertWeights(tensors, source, content.weight.storage),  # type: ignore[arg-type]
            )
            read = reader.values if content.field == "values" else reader.scale
            value = model.graph.initializers[name]
            data = torch.cat([part.flatten() for part in read(torch.float32)])
            value.const_value = ir.tensor(data.reshape(value.shape.numpy()).numpy())
        if form != "float32":
            exact, stacks = stacks, dequantized(model)
            step = 0.2 if form == "int4" else 0.02
            for product, values in stacks.items():
                assert 0 < (values - exact[product]).abs().max() < step * exact[product].abs().max()
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = SimpleNamespace(
        router=tensors.tensors["model.layers.1.mlp.gate.weight"].T,
        bias=tensors.tensors["model.layers.1.mlp.e_score_correction_bias"],
    )
    for batch, length in ((1, 1), (2, 1), (2, 9)):
        hidden = torch.randn(batch, length, 64, generator=torch.Generator().manual_seed(length))
        wanted_output = routed_experts(
            hidden, names.router, names.bias, stacks["gate_up"], stacks["down"], *given.values()
        )
        (found,) = session.run(None, {"hidden": hidden.numpy()})
        assert np.abs(found - wanted_output.numpy()).max() < 1e-5 * wanted_output.std().item()


@pytest.mark.parametrize("lower", [LowerToStandard("all"), LowerToStandard("chosen")])
def test_a_graph_without_sparse_layers_is_left_alone(lower: ir.passes.InPlacePass) -> None:
    model = traced(ROUTERS["plain"], Tensors())
    (node,) = model.graph
    node.outputs[0].replace_all_uses_with(node.inputs[0], replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    assert not lower(model).modified
