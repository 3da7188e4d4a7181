"""The suite for GPUs, as far as it goes without one: its checks themselves, on artifacts that run on the CPU."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.conftest import ROOT, TINY

Exporter = Callable[..., Path]


@pytest.fixture(scope="module")
def suite() -> Iterator[Callable[[str], ModuleType]]:
    """The suite's modules, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield lambda name: importlib.import_module(f"gpu_suite.{name}")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


def test_without_a_gpu_it_says_so() -> None:
    found = subprocess.run([sys.executable, ROOT / "benchmarks" / "gpu.py"], check=True, capture_output=True, text=True)
    assert json.loads(found.stdout)["gpu"] is None


def test_parity_passes_on_the_tiny_checkpoint_and_fails_beyond_its_limit(
    suite: Callable[[str], ModuleType], export_artifact: Exporter
) -> None:
    parity = suite("parity")
    folder = export_artifact(TINY, "ort-cpu", 1024)
    ids = parity.tokens_for(TINY)
    wanted = parity.reference_logits(TINY, ids, "cpu")
    found = parity.compare(folder, ids, wanted, 1e-8)
    assert "failed" not in found
    assert all(0 <= abs(value) <= 1e-8 for value in found.values())
    assert len(found) == 3
    assert parity.tasks(folder) == {"recall": 1.0, "arithmetic": 1.0}
    # The token before the last is another one: all but the last two positions are the same.
    ids[0, -2] = 3 if ids[0, -2] != 3 else 4
    assert parity.compare(folder, ids, wanted, 1e-8)["failed"] == "the answers depart from PyTorch's"


def test_other_families_are_held_to_transformers(
    suite: Callable[[str], ModuleType], export_artifact: Exporter, save_model: Callable[..., Path]
) -> None:
    parity = suite("parity")
    model = save_model()
    ids = parity.tokens_for(model)
    wanted = parity.family_logits(model, ids)
    torch.testing.assert_close(wanted, parity.reference_logits(model, ids, "cpu"))
    assert "failed" not in parity.compare(export_artifact(model, "ort-cpu"), ids, wanted, 1e-8)


def test_the_server_is_measured_over_http(
    suite: Callable[[str], ModuleType], export_artifact: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = suite("serving")
    for name, value in (("CLIENTS", (1, 2)), ("REQUESTS", 3), ("PROMPT", 64), ("NEW", 8)):
        monkeypatch.setattr(serving, name, value)
    found = serving.throughput(export_artifact(TINY, "ort-cpu", 1024))
    assert list(found) == ["1 clients", "2 clients"]
    assert all(level["tok/s"] > 0 and level["ms to the first token"]["p95"] > 0 for level in found.values()), found


@pytest.mark.parametrize("name", ["window 1, heads of 32, one group", "window 5, heads of 64, groups of 2"])
def test_the_hybrids_are_models_whose_parity_can_be_told(
    name: str, suite: Callable[[str], ModuleType], export_artifact: Exporter, tmp_path: Path
) -> None:
    artifacts, parity = suite("artifacts"), suite("parity")
    model = artifacts.save_hybrid(name, tmp_path / "model")
    ids = parity.tokens_for(model)
    wanted = parity.reference_logits(model, ids, "cpu")
    found = parity.compare(export_artifact(model, "ort-cpu"), ids, wanted, 1e-8)
    assert "failed" not in found, found


@pytest.mark.parametrize("head", ["hidden-states", "question-answering"])
def test_the_heads_are_held_to_transformers(
    head: str, suite: Callable[[str], ModuleType], export_artifact: Exporter, tmp_path: Path
) -> None:
    artifacts, parity = suite("artifacts"), suite("parity")
    model = artifacts.save_hybrid(artifacts.HEADED, tmp_path / "model", head)
    folder = export_artifact(model, "ort-cpu")
    found = parity.compare_head(model, folder, 1e-4)
    assert len(found) == (2 if head == "hidden-states" else 4), found
    assert all(0 <= value <= 1e-4 for value in found.values())
    assert parity.compare_head(model, folder, 0.0)["failed"] == "the answers depart from PyTorch's"


def test_the_engine_is_held_to_the_mirror(
    suite: Callable[[str], ModuleType],
    export_artifact: Exporter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = suite("engine")
    model = suite("artifacts").save_hybrid("window 1, heads of 32, one group", tmp_path / "model")
    folder = export_artifact(model, "ort-cpu")
    found = engine.compare(folder, "float32")
    assert "failed" not in found and found["tokens of generate()"] == 1 and found["tokens"] > 200, found
    assert found["reused in ten turns"] > 200
    ask = engine.ask
    monkeypatch.setattr(engine, "ask", lambda *given, **more: ([5] * len(ask(*given, **more)[0]), ask(*given)[1]))
    monkeypatch.setattr(engine, "_turns", lambda *_: (0, ["turn 1 did not go on from the cache"]))
    broken = engine.compare(folder, "float32")["failed"]
    assert "turn 1 did not go on" in broken and "the engine's tokens depart from the mirror's" in broken


def test_the_engine_s_conversation_and_speed(suite: Callable[[str], ModuleType], export_artifact: Exporter) -> None:
    engine, folder = suite("engine"), export_artifact(TINY, "ort-cpu", 1024)
    found = engine.chat(folder)
    assert "failed" not in found and len(found["reused"]) == 10 and not found["reused"][0], found
    times = engine.speed(folder, 1e-6)
    assert times["prefill tok/s"] > 0 and len(times["engine ms a token"]) == 3


def test_there_are_five_hybrids_of_different_windows_heads_and_groups(suite: Callable[[str], ModuleType]) -> None:
    made = suite("artifacts").HYBRIDS.values()
    assert {window for _, window, *_ in made} == {1, 5, 11, 37, None}
    assert {head_dim for *_, head_dim, _ in made} == {32, 64, 128}
    assert {heads // kv_heads for _, _, heads, kv_heads, *_ in made} == {1, 2, 3, 4, 5}


def test_a_part_gives_what_it_found_or_why_it_did_not(suite: Callable[[str], ModuleType], no_gpu: None) -> None:
    parts = suite("parts")

    def broken() -> dict[str, Any]:
        raise RuntimeError("no kernel")

    def elsewhere() -> dict[str, Any]:
        raise parts.NotRunError("this GPU has none.")

    run = parts.Suite(60).run
    assert run(broken)["failed"] == "RuntimeError: no kernel"
    assert run(elsewhere)["not run"] == "this GPU has none."
    assert run(lambda: {"ms": 1.0}).keys() == {"ms", "seconds"}
    assert parts.Suite(-1).run(broken).keys() == {"not run"}
    assert parts.any_failed({"speed": {"a": {"ms": 1.0}, "b": run(broken)}})
    assert not parts.any_failed({"speed": {"a": {"ms": 1.0}, "b": run(elsewhere)}})


def test_an_export_that_fails_says_so_where_it_is_used(suite: Callable[[str], ModuleType], tmp_path: Path) -> None:
    exports = suite("artifacts").Exports(tmp_path)
    out = exports.begin(TINY, "ort-cuda", "float32", 256)
    exports.wait_for_all()
    with pytest.raises(RuntimeError, match="does not run precision 'float32'"):
        exports.wait(out)


def test_speeds_are_compared_by_their_medians(suite: Callable[[str], ModuleType]) -> None:
    theirs = {"generate() ms a token": [3.8, 4.0, 4.4]}
    ours = {"generate() ms a token": [3.0, 3.2, 3.3], "decode loop ms a token": [1.9, 2.0, 2.1]}
    found = suite("speed").compared({"ours": ours, "theirs": theirs}, "theirs")
    assert found == {"ours: generate()": 1.25, "ours: decode loop": 2.0}
    assert suite("speed").compared({"ours": ours, "theirs": {"failed": "x"}}, "theirs").keys() == {"not run"}
