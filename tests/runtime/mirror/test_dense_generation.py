"""The runtime on attention that takes no ragged rows, which is what target `ort-cuda` has, shown without a GPU.

The artifact is made as `ort-cuda` makes it, and the norms of queries and keys are taken out of the operator again, so
that the CPU kernel runs it: cache of the window's size, packed product, no ``query_seqlens``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Exaone4ForCausalLM

from exaone_export.exporter import export as pipeline
from exaone_export.graphs.pipelines import lower
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.runtime.parity import compare as parity
from exaone_export.runtime.parity import sides
from exaone_export.runtime.sessions import opening
from exaone_export.runtime.sessions.cuda_graphs import CudaGraphSession
from exaone_export.targets import target as targets
from exaone_export.targets.provider import CPU_PROVIDER
from tests.conftest import HYBRID, TINY
from tests.graphs.test_group_query_attention_cuda import unfused
from tests.runtime.parity.checkpoint_side import transformers_side

VOCAB_SIZE = HYBRID["vocab_size"]


def export_for_cpu(model: Path, out: Path, precision: str, patch: pytest.MonkeyPatch) -> Path:
    """Export to `ort-cuda`, with the norms of queries and keys outside the operator, to be loaded on the CPU."""
    target = dataclasses.replace(targets.get_target("ort-cuda"), precisions=(precision,), provider=CPU_PROVIDER)
    patch.setitem(targets.TARGETS, "ort-cuda", target)
    patch.setattr(opening, "OnnxRuntimeSession", CudaGraphSession)
    patch.setattr(pipeline, "lower", lambda *arguments, **options: unfused(lower(*arguments, **options)))
    pipeline.export(model, out, target="ort-cuda", max_length=256)
    return out


@pytest.fixture(scope="module")
def models(random_hybrid: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ours and transformers', window 8, float32."""
    with pytest.MonkeyPatch.context() as patch:
        out = export_for_cpu(random_hybrid, tmp_path_factory.mktemp("dense") / "artifact", "float32", patch)
        theirs = Exaone4ForCausalLM.from_pretrained(random_hybrid, dtype=torch.float32).eval()
        with ExaoneForCausalLM.from_pretrained(out, prefill_chunk_size=5) as ours:
            assert not ours.session.ragged_steps
            assert [layer.capacity for layer in ours.session.geometry.layout.layers] == [8, 8, 8, 256]
            yield ours, theirs


def generate(model: Any, **arguments: Any) -> Any:
    settings = {"do_sample": False, "eos_token_id": VOCAB_SIZE, "pad_token_id": 0, "return_dict_in_generate": True}
    return model.generate(**settings, **arguments)


def padded(generator: torch.Generator, lengths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    width = max(lengths)
    ids = torch.randint(3, VOCAB_SIZE, (len(lengths), width), generator=generator)
    mask = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
    return {"input_ids": ids * mask, "attention_mask": mask.to(torch.int64)}


@pytest.mark.parametrize("lengths", [(23, 23, 23), (23, 4, 12), (30, 1)], ids=str)
def test_a_batch_is_prefilled_in_chunks_and_decoded(
    lengths: tuple[int, ...], models: Any, generator: torch.Generator
) -> None:
    """Trap 8, over windows: 40 new tokens behind chunks of 5, padded rows beside whole ones."""
    prompt = padded(generator, lengths)
    ours, theirs = (generate(model, max_new_tokens=40, output_logits=True, **prompt).logits for model in models)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_a_batch_goes_on_with_more_than_one_token(models: Any, generator: torch.Generator) -> None:
    ours, _ = models
    prompt = padded(generator, (23, 4, 12))
    first = generate(ours, max_new_tokens=3, **prompt)
    more = torch.randint(3, VOCAB_SIZE, (3, 9), generator=generator)
    ids = torch.cat((first.sequences, more), 1)
    mask = torch.cat((prompt["attention_mask"], torch.ones(3, 12, dtype=torch.int64)), 1)
    again = generate(ours, input_ids=ids, attention_mask=mask, past_key_values=first.past_key_values, max_new_tokens=9)
    for row, pad in enumerate((0, 19, 11)):
        alone = generate(ours, input_ids=ids[row : row + 1, pad:], max_new_tokens=9)
        assert again.sequences[row, pad:].tolist() == alone.sequences[0].tolist()


def test_beams_and_every_position_s_logits(models: Any, generator: torch.Generator) -> None:
    prompt = padded(generator, (17, 6))
    ours, theirs = (generate(model, max_new_tokens=12, num_beams=3, **prompt).sequences for model in models)
    assert ours.tolist() == theirs.tolist()
    ours, theirs = (model(**prompt).logits for model in models)
    kept = prompt["attention_mask"].bool()
    torch.testing.assert_close(ours[kept], theirs[kept], atol=1e-4, rtol=0)


def test_rounding_norms_and_tables_keeps_the_distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float16 the operator's norm weights and rotary tables are float16 too."""
    out = export_for_cpu(TINY, tmp_path / "artifact", "float16", monkeypatch)
    compared = {
        "transformers": (lambda: transformers_side(TINY), parity.LIMITS["float32"]),
        "ort-cuda": (lambda: sides.artifact_side(out), parity.LIMITS["float16"]),
    }
    report = parity.compare(compared, parity.random_prompts(843, (34, 200), seed=0), new_tokens=0)
    assert report.passed, report.rows
