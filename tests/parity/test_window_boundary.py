"""Trap 5: W = 8, every prompt length 1..40 times every answer length 1..40, against transformers.

An answer of n tokens is the first n of the answer of 40, so 40 left-padded rows of one batch hold all 1,600 cases. The
other side is a plain forward of transformers over each whole sequence, without padding and without a cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Exaone4ForCausalLM

from exaone_export.exporter.export import plan_export, write_artifact
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.targets.cache_layout import CacheLayout
from tests.conftest import SaveModel

WINDOW, LONGEST, MAX_LENGTH = 8, 40, 96


@pytest.fixture(scope="module")
def model(save_model: SaveModel) -> Path:
    return save_model(sliding_window=WINDOW)


@pytest.mark.parametrize(
    ("target", "slack", "headroom"),
    [
        *(("onnx", 0, 0), ("ort-cpu", 0, 0), ("ort-cpu", 3, 0)),
        *(("tensorrt", 0, 1), ("tensorrt", 3, 7)),
    ],
)
def test_every_prompt_length_times_every_answer_length(
    target: str, slack: int, headroom: int, model: Path, tmp_path: Path, generator: torch.Generator
) -> None:
    plan = plan_export(model, target=target, precision="float32", max_length=MAX_LENGTH)
    layout = CacheLayout.plan(plan.checkpoint.spec.layers, MAX_LENGTH, slack, headroom)
    write_artifact(dataclasses.replace(plan, layout=layout), tmp_path / "artifact")

    prompts = [torch.randint(3, 97, (length,), generator=generator) for length in range(1, LONGEST + 1)]
    ids = torch.zeros(LONGEST, LONGEST, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, LONGEST - len(prompt) :] = prompt
        mask[row, LONGEST - len(prompt) :] = 1
    with ExaoneForCausalLM.from_pretrained(tmp_path / "artifact") as ours:
        output = ours.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=LONGEST,
            eos_token_id=97,
            return_dict_in_generate=True,
            output_logits=True,
        )
    got = torch.stack(output.logits, 1)
    assert got.shape[:2] == (LONGEST, LONGEST)

    theirs = Exaone4ForCausalLM.from_pretrained(model)
    cases = 0
    for row, prompt in enumerate(prompts):
        answer = output.sequences[row, LONGEST:]
        with torch.inference_mode():
            logits = theirs(torch.cat((prompt, answer))[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
        for new in range(1, LONGEST + 1):
            assert logits[new - 1].argmax() == answer[new - 1], f"prompt {len(prompt)}, answer {new}"
            difference = (got[row, new - 1] - logits[new - 1]).abs().max() / logits.std()
            assert difference <= 1e-4, f"prompt {len(prompt)}, answer {new}: {difference:.1e}"
            cases += 1
    assert cases == 1600


W, NEW, LAST = 4096, 3, 3 * 4096


@pytest.fixture(scope="module")
def real_window(save_model: SaveModel) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """A model of the 32B's window, tokens, and the logits that transformers has for them."""
    model = save_model(
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=W,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16384,
    )
    tokens = torch.randint(3, 97, (1, LAST + NEW), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model, tokens, Exaone4ForCausalLM.from_pretrained(model)(tokens, use_cache=False).logits[0]


@pytest.mark.parametrize(
    ("target", "lengths"),
    [
        ("ort-cpu", [*range(W - 2, W + 3), 2 * W - 1, 2 * W + 1, LAST]),
        # The tokens behind the shorter prompt stand at W - 1, W and W + 1.
        ("onnx", [W - 1, 2 * W + 1]),
        ("tensorrt-rtx", [W - 1, 2 * W + 1]),
    ],
    ids=["ort-cpu", "onnx", "tensorrt-rtx"],
)
def test_the_window_of_the_32b_at_its_edges(
    target: str,
    lengths: list[int],
    real_window: tuple[Path, torch.Tensor, torch.Tensor],
    export_artifact: Callable[..., Path],
) -> None:
    """The real window, 4,096: prompts of about one, two and three of it, then three tokens more, one by one."""
    model, tokens, wanted = real_window
    chunk = {"prefill_chunk": 512} if target == "tensorrt-rtx" else {}
    artifact = export_artifact(model, target, LAST + NEW, "float32", **chunk)
    with ExaoneForCausalLM.from_pretrained(artifact, threads=1) as ours:
        for length in lengths:
            step = ours(tokens[:, :length], logits_to_keep=1)
            got = [step.logits[0]]
            for at in range(length, length + NEW):
                step = ours(tokens[:, at : at + 1], past_key_values=step.past_key_values)
                got.append(step.logits[0])
            want = wanted[length - 1 : length + NEW]
            difference = (torch.cat(got) - want).abs().max() / want.std()
            assert difference <= 1e-4, f"prompt {length}: {difference:.1e}"
            assert torch.equal(torch.cat(got).argmax(-1), want.argmax(-1)), f"prompt {length}"
