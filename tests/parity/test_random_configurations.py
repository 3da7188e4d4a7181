"""Twenty configurations on every CPU target: logits everywhere and 256 greedy tokens against transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from exaone_export.runtime.parity.compare import LIMITS, Row, collect, compare, judge, random_prompts
from exaone_export.runtime.parity.sides import artifact_side
from tests.conftest import LLAMA3, SaveModel
from tests.runtime.parity.checkpoint_side import transformers_side

L, G = "sliding_attention", "full_attention"
PLAIN = {"rope_type": "default", "rope_theta": 10_000.0}


def config(
    pattern: str | int | None,
    window: int | None,
    heads: int,
    kv_heads: int,
    head_dim: int,
    tied: bool,
    rope: dict[str, Any],
) -> dict[str, Any]:
    """A small model; ``pattern`` is spelled as checkpoints spell it, or as L and G for every layer."""
    layers = {"LLLG": 4, "LG": 2, "LLG": 3, 4: 4, None: 2}[pattern]
    types = [G] * layers if pattern is None else [G if (i + 1) % len_of(pattern) == 0 else L for i in range(layers)]
    return {
        "num_hidden_layers": layers,
        "layer_types": types,
        "sliding_window": window,
        "sliding_window_pattern": pattern,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "tie_word_embeddings": tied,
        "rope_parameters": rope,
    }


def len_of(pattern: str | int) -> int:
    return pattern if isinstance(pattern, int) else len(pattern)


CONFIGURATIONS = [
    config("LLLG", 1, 4, 2, 32, False, LLAMA3),
    config("LLLG", 2, 4, 4, 32, True, LLAMA3),
    config("LLLG", 7, 8, 1, 32, False, PLAIN),
    config("LLLG", 8, 4, 2, 64, False, LLAMA3),
    config("LLLG", 64, 6, 3, 32, True, LLAMA3),
    config(4, 5, 4, 2, 32, False, LLAMA3),
    config(4, 16, 4, 1, 48, True, PLAIN),
    config(4, 33, 8, 2, 32, False, LLAMA3),
    config("LG", 1, 2, 1, 64, True, LLAMA3),
    config("LG", 3, 4, 2, 128, False, LLAMA3),
    config("LG", 4, 8, 1, 32, False, PLAIN),
    config("LG", 12, 7, 7, 32, True, LLAMA3),
    config("LG", 31, 4, 2, 80, False, LLAMA3),
    config("LG", 50, 8, 4, 32, True, LLAMA3),
    config("LG", 64, 16, 2, 32, False, PLAIN),
    config("LLG", 9, 4, 2, 32, True, LLAMA3),
    config(None, None, 4, 2, 32, True, LLAMA3),
    config(None, None, 8, 1, 64, False, LLAMA3),
    config(None, None, 5, 5, 32, False, PLAIN),
    config(None, None, 4, 1, 128, True, LLAMA3),
]


def describe(case: dict[str, Any]) -> str:
    groups = case["num_attention_heads"] // case["num_key_value_heads"]
    tied = "tied" if case["tie_word_embeddings"] else "untied"
    pattern, window = case["sliding_window_pattern"], case["sliding_window"]
    return f"{pattern}-w{window}-g{groups}-d{case['head_dim']}-{tied}-{case['rope_parameters']['rope_type']}"


@pytest.mark.parametrize(("number", "case"), enumerate(CONFIGURATIONS), ids=map(describe, CONFIGURATIONS))
def test_logits_and_greedy_tokens_are_those_of_transformers(
    number: int, case: dict[str, Any], save_model: SaveModel, export_artifact: Callable[..., Path]
) -> None:
    """One target in turn says them; they are the greedy ones where they are the best of the logits before them."""
    model = save_model(seed=1, **case)
    (prompt,) = random_prompts(97, [100], seed=2)
    targets = ("onnx", "ort-cpu", "tensorrt-rtx")
    sides = {target: partial(artifact_side, export_artifact(model, target, 400, "float32")) for target in targets}
    with sides[targets[number % 3]]() as side:
        answer = side.greedy(prompt, 256)
    sides = {"transformers": lambda: transformers_side(model), **sides}
    collected = collect(sides, [torch.cat((prompt, torch.tensor(answer)))], new_tokens=0)
    for name, found in collected.items():
        assert found.outputs[0]["logits"].argmax(-1)[len(prompt) - 1 : -1].tolist() == answer, name
    assert len(answer) == 256
    report = judge(collected, dict.fromkeys(sides, LIMITS["float32"]))
    assert [row.side for row in report.rows] == ["onnx", "ort-cpu", "tensorrt-rtx"]
    assert report.passed, report.rows


def test_a_departure_is_reported_with_its_layer(save_model: SaveModel, export_artifact: Callable[..., Path]) -> None:
    """The comparison itself can fail: another model's artifact does, at the layer where the two models part."""
    model, other = save_model(), save_model(seed=7)
    artifact = export_artifact(other, "ort-cpu")
    limits = LIMITS["float32"]
    sides = {
        "transformers": (lambda: transformers_side(model), limits),
        "ort-cpu": (lambda: artifact_side(artifact), limits),
    }
    report = compare(sides, random_prompts(97, [12], seed=0), new_tokens=8, locate=True)
    (row,) = report.rows
    assert isinstance(row, Row)
    assert not report.passed
    assert row.logits > 0.1
    assert row.first_layer == 0
    assert row.first_difference is not None


def test_the_layer_where_one_weight_differs_is_found(
    save_model: SaveModel, export_artifact: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import Exaone4ForCausalLM

    model = save_model()
    changed = Exaone4ForCausalLM.from_pretrained(model)
    with torch.no_grad():
        changed.model.layers[2].mlp.up_proj.weight[0] += 0.5
    changed.save_pretrained(tmp_path / "changed")
    for target in ("onnx", "ort-cpu", "tensorrt-rtx"):
        artifact = export_artifact(tmp_path / "changed", target, precision="float32")
        sides = {
            "transformers": (lambda: transformers_side(model), LIMITS["float32"]),
            target: (lambda artifact=artifact: artifact_side(artifact), LIMITS["float32"]),
        }
        report = compare(sides, random_prompts(97, [40], seed=0), new_tokens=0, locate=True)
        assert report.rows[0].first_layer == 2
