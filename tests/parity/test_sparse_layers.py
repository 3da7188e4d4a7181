"""Sparse layers on every target against transformers, and quantized experts against the exact ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from exaone_export.runtime.parity.compare import LIMITS, compare, random_prompts
from exaone_export.runtime.parity.sides import TorchSide, artifact_side
from tests.sparse_models import PLAIN, save_sparse


@contextmanager
def transformers_side(folder: Path) -> Any:
    from transformers import ExaoneMoeForCausalLM

    model, loaded = ExaoneMoeForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(loaded.values())
    yield TorchSide(model, model.model.layers)


@pytest.mark.parametrize("changes", [{}, PLAIN], ids=["groups", "plain"])
def test_logits_and_greedy_tokens_are_those_of_transformers(
    changes: dict[str, Any], shared: Callable[..., Path], export_artifact: Callable[..., Path]
) -> None:
    model, limits = save_sparse(shared, **changes), LIMITS["float32"]
    sides = {"transformers": (lambda: transformers_side(model), limits)}
    for target in ("onnx", "ort-cpu", "tensorrt-rtx"):
        artifact = export_artifact(model, target, 256, "float32")
        sides[target] = (lambda artifact=artifact: artifact_side(artifact), limits)
    report = compare(sides, random_prompts(97, [40], seed=2), new_tokens=64)
    assert report.passed, report.rows
    assert all(row.new_tokens == 64 and row.first_difference is None for row in report.rows)


@pytest.mark.parametrize(("precision", "most"), [("int4", 0.2), ("int8", 0.01), ("int8-weights", 0.01)])
def test_quantized_experts_are_near_the_exact_ones(
    precision: str, most: float, shared: Callable[..., Path], export_artifact: Callable[..., Path]
) -> None:
    model = save_sparse(shared)
    artifact = export_artifact(model, "ort-cpu", 256, precision)
    limits = LIMITS[precision]
    sides = {
        "transformers": (lambda: transformers_side(model), limits),
        "ort-cpu": (lambda: artifact_side(artifact), limits),
    }
    report = compare(sides, random_prompts(97, [40], seed=2), new_tokens=0)
    assert 0 < report.rows[0].kl < most, report.rows
