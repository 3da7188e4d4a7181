"""Random K-EXAONE models for tests: small, with every choice of the router that a config can make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from exaone_export.exporter.checkpoint.random_checkpoint import write_random_checkpoint
from exaone_export.model.config.reading import read_spec
from exaone_export.model.spec import ModelSpec
from tests.conftest import HYBRID

SPARSE: dict[str, Any] = HYBRID | {
    "model_type": "exaone_moe",
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "num_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
PLAIN = {"n_group": 1, "topk_group": 1, "norm_topk_prob": False, "num_shared_experts": 2, "num_experts": 5}


def sparse_spec(**changes: Any) -> ModelSpec:
    """The model of `SPARSE` with other keys."""
    return read_spec(SPARSE | changes)


def save_sparse(shared: Callable[..., Path], **changes: Any) -> Path:
    """A float32 checkpoint of `sparse_spec`, made once a run; nobody changes it."""
    spec = sparse_spec(**changes)
    return shared("sparse", changes, lambda out: write_random_checkpoint(out, spec, seed=3, dtype="float32"))
