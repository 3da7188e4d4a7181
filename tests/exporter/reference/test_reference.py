"""The reference model against transformers, before any graph is made of it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import Exaone4ForCausalLM

from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.reference import tracing
from exaone_export.exporter.reference.side import ReferenceSide
from exaone_export.exporter.reference.tracing import trace_whole
from exaone_export.exporter.reference.weights import load_reference
from exaone_export.targets.cache_layout import CacheLayout
from tests.conftest import SaveModel


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("bfloat16", 0.15), ("float16", 0.02)])
def test_logits_are_those_of_transformers_in_every_precision(dtype: str, limit: float, save_model: SaveModel) -> None:
    folder, precision = save_model(), getattr(torch, dtype)
    checkpoint = Checkpoint.open(folder)
    ids = torch.randint(3, 97, (60,), generator=torch.Generator().manual_seed(0))
    reference = load_reference(checkpoint, CacheLayout.plan(checkpoint.spec.layers, 64, 0), precision)
    theirs = Exaone4ForCausalLM.from_pretrained(folder, dtype=precision)
    with torch.inference_mode():
        got = ReferenceSide(reference).outputs(ids)["logits"]
        want = theirs(ids[None]).logits[0].float()
    assert got.isfinite().all()
    assert (got - want).abs().max() <= limit * want.std()


@pytest.mark.parametrize("slack", [0, 1, 8])
def test_greedy_tokens_through_the_cache_are_those_of_transformers(slack: int, save_model: SaveModel) -> None:
    folder = save_model()
    checkpoint = Checkpoint.open(folder)
    ids = torch.randint(3, 97, (5,), generator=torch.Generator().manual_seed(0))
    reference = load_reference(checkpoint, CacheLayout.plan(checkpoint.spec.layers, 128, slack))
    theirs = Exaone4ForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        got = ReferenceSide(reference).greedy(ids, 80)
    wanted = theirs.generate(ids[None], max_new_tokens=80, do_sample=False, eos_token_id=97)[0, 5:]
    assert got == wanted.tolist()


def test_of_two_threads_one_waits_while_the_other_traces(
    save_model: SaveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Checkpoint.open(save_model()).spec.with_layers([0])
    inside, most = list[None](), list[int]()

    def register() -> None:
        assert tracing._ALONE.locked(), "two threads would register an operator twice"

    def export(*_: object, **__: object) -> None:
        inside.append(None)
        time.sleep(0.02)
        most.append(len(inside))
        inside.clear()
        raise InterruptedError

    def trace(_: int) -> None:
        with pytest.raises(InterruptedError):
            trace_whole(spec, CacheLayout.plan(spec.layers, 64, 8), torch.float32)

    monkeypatch.setattr(torch.export, "export", export)
    monkeypatch.setattr(tracing, "register_schema", register)
    monkeypatch.setattr(tracing, "register_experts", register)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(trace, range(4)))
    assert most == [1, 1, 1, 1]
