"""The least that a decode step has to read: the weights once, and of the cache what a query sees.

What is written, and what moves between the layers, is small beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from exaone_export.model.expert_tensors import holds_experts
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import get_target

if TYPE_CHECKING:
    from exaone_export.artifact.reader import Artifact

    from ..core.buffers import CacheGeometry

# Inputs of which a step reads the rows that it looks up, and no others: operator and index of the input.
_TABLES = frozenset(
    {
        ("Gather", 0),
        *(("GatherBlockQuantized", index) for index in (0, 2, 3)),
        *(("GroupQueryAttention", index) for index in (7, 8)),
        *(("HybridAttention", index) for index in (3, 4)),
        *(("RotaryEmbedding", index) for index in (1, 2)),
    }
)
_SAME_ROWS = frozenset({"Cast", "Identity", "Reshape"})


@dataclass(frozen=True)
class WeightTraffic:
    """Bytes of weights that one step reads.

    Attributes:
        shared: Read once, whatever the batch.
        row: Looked up for every row of the batch: of the embedding, and of the rotary tables.
    """

    shared: int
    row: int

    def bytes(self, batch: int) -> int:
        """Of a step of one token a row."""
        return self.shared + batch * self.row


def weight_traffic(artifact: Artifact) -> WeightTraffic:
    """Read from the artifact what a step reads of it.

    Every stored tensor of a graph counts with the bytes that it has in the file. One that nodes only look rows up in
    counts with one row; an embedding that is the head too is multiplied by, and counts whole. Of experts, those of one
    token count where the target does not compute all: rows may choose the same. An engine does not tell what it holds:
    its file counts, less the embedding where that is not the head.
    """
    spec = artifact.spec
    if artifact.engine is None:
        sparse = spec.sparse_mlp
        chosen = 1.0
        if sparse is not None and get_target(artifact.manifest.target).experts != "all":
            chosen = sparse.num_experts_per_tok / sparse.num_experts
        return graph_traffic(ir.load(artifact.graph_path), chosen)
    row = spec.hidden_size * Recipe.from_dict(artifact.manifest.recipe).compute_item_bytes
    embedding = 0 if spec.shares_embedding else spec.vocab_size * row
    return WeightTraffic(max(artifact.model_path.stat().st_size - embedding, 0), row)


def graph_traffic(model: ir.Model, chosen: float = 1.0) -> WeightTraffic:
    """Sum the stored tensors of a graph, by how its nodes use them; of experts, the share ``chosen`` counts."""
    shared = row = 0
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None
        if holds_experts(name):
            shared += math.ceil(chosen * tensor.nbytes)
            continue
        uses = set(_uses(value))
        if not uses <= _TABLES:
            shared += tensor.nbytes
        elif uses:
            row += math.ceil(tensor.nbytes / max(tensor.shape.numpy()[0], 1))
    return WeightTraffic(shared, row)


def _uses(value: ir.Value) -> Iterator[tuple[str, int]]:
    for node, index in value.uses():
        if node.op_type in _SAME_ROWS and index == 0:
            yield from _uses(node.outputs[0])
        else:
            yield node.op_type, index


def cache_bytes(geometry: CacheGeometry, tokens: int, batch: int) -> int:
    """Bytes of keys and values that a query sees which is the last of ``tokens``, for a batch of them."""
    rows = sum(min(tokens, layer.window or tokens) for layer in geometry.layout.layers)
    return 2 * batch * rows * geometry.num_key_value_heads * geometry.head_dim * geometry.item_bytes


def step_bytes(weights: WeightTraffic, geometry: CacheGeometry, batch: int, first: int, last: int) -> float:
    """Bytes of a decode step, the mean of those whose token is the ``first`` to the ``last`` of its row."""
    caches = [cache_bytes(geometry, tokens, batch) for tokens in range(first, last + 1)]
    return weights.bytes(batch) + sum(caches) / len(caches)
