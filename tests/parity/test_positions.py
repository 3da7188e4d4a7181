"""Traps 7 and 8: positions that run far past the window, and rows that begin behind padding."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import Exaone4Config, Exaone4ForCausalLM
from transformers.models.exaone4.modeling_exaone4 import Exaone4RotaryEmbedding

from exaone_export.exporter.reference.rope import rope_tables
from exaone_export.model.config.reading import read_spec
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from tests.conftest import HYBRID, LLAMA3, TINY, SaveModel

PUBLISHED_ROPE = LLAMA3 | {"rope_theta": 1_000_000.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    "rope",
    [
        PUBLISHED_ROPE,
        {"rope_type": "default", "rope_theta": 1e6},
        {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0},
        {"rope_type": "yarn", "rope_theta": 1e6, "factor": 8.0, "original_max_position_embeddings": 8192},
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_angles_are_those_of_transformers_at_8k_16k_and_64k(rope: dict[str, float]) -> None:
    config = HYBRID | {"head_dim": 64, "rope_parameters": rope, "max_position_embeddings": 65536}
    cos, sin = rope_tables(read_spec(config | {"model_type": "exaone4"}), 65536)
    positions = torch.tensor([[0, 1, 8191, 8192, 16384, 65535]])
    theirs = Exaone4RotaryEmbedding(Exaone4Config(**config))(torch.zeros(1, dtype=torch.float32), positions)
    for ours, their in zip((cos, sin), theirs, strict=True):
        torch.testing.assert_close(ours[positions[0]], their[0, :, :32], atol=1e-6, rtol=0)


def test_no_two_threads_take_a_cosine_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer of an export asks for both tables from two threads, and the first cosines of a process may clash."""
    spec, cos, inside, most = read_spec(HYBRID | {"model_type": "exaone4"}), torch.Tensor.cos, [], []

    def slow(angles: torch.Tensor) -> torch.Tensor:
        inside.append(angles)
        time.sleep(0.05)
        most.append(len(inside))
        inside.pop()
        return cos(angles)

    monkeypatch.setattr(torch.Tensor, "cos", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: rope_tables(spec, 8), range(4)))
    assert most == [1] * 4


@pytest.mark.parametrize("target", ["onnx", "ort-cpu", "tensorrt-rtx"])
def test_decoding_to_ten_windows(target: str, export_artifact: Callable[..., Path]) -> None:
    """The trained checkpoint, window 32, one token at a time from 4 to 330."""
    artifact = export_artifact(TINY, target, 400, "float32")
    prompt = torch.tensor([[1, 40, 50, 60]])
    with ExaoneForCausalLM.from_pretrained(artifact) as ours:
        output = ours.generate(
            prompt,
            max_new_tokens=326,
            do_sample=False,
            eos_token_id=10_000,
            return_dict_in_generate=True,
            output_logits=True,
        )
    theirs = Exaone4ForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    with torch.inference_mode():
        logits = theirs(output.sequences[:, :-1], use_cache=False).logits[0, 3:]
    difference = (torch.cat(output.logits) - logits).abs().max() / logits.std()
    assert difference <= 1e-4
    assert output.sequences[0, 4:].tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("target", ["onnx", "ort-cpu", "tensorrt-rtx"])
def test_left_padding_changes_nothing(
    target: str, save_model: SaveModel, export_artifact: Callable[..., Path], generator: torch.Generator
) -> None:
    """Trap 8: pads 0..W+3 in one batch, each row against the same row alone."""
    window, length = 8, 14
    artifact = export_artifact(save_model(), target, precision="float32")
    pads = torch.arange(window + 4)
    tokens = torch.randint(3, 97, (len(pads), length), generator=generator)
    ids = torch.zeros(len(pads), length + window + 3, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    width = ids.shape[1]
    rows = [tokens[row, : width - pad] for row, pad in enumerate(pads.tolist())]
    for row, sequence in enumerate(rows):
        ids[row, width - len(sequence) :] = sequence
        mask[row, width - len(sequence) :] = 1
    settings = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": 97, "return_dict_in_generate": True}
    with ExaoneForCausalLM.from_pretrained(artifact) as model:
        together = model.generate(ids, attention_mask=mask, output_logits=True, **settings)
        for row, sequence in enumerate(rows):
            alone = model.generate(sequence[None], output_logits=True, **settings)
            assert together.sequences[row, width:].tolist() == alone.sequences[0, len(sequence) :].tolist()
            for one, other in zip(together.logits, alone.logits, strict=True):
                torch.testing.assert_close(one[row], other[0], atol=1e-5, rtol=1e-5)
