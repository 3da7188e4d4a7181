"""The comparison with peers, as far as it goes without them."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from transformers import Qwen3ForCausalLM

from exaone_export.runtime.sessions.onnxruntime import OnnxRuntimeSession
from tests.conftest import ROOT, TINY


@pytest.fixture(scope="module")
def load() -> Any:
    """Import what lies in benchmarks/, as the scripts there do."""
    folders = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "peers")]
    sys.path[:0] = folders
    yield importlib.import_module
    for folder in folders:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def report(load: Any) -> ModuleType:
    return load("peers.report")


@pytest.fixture(scope="module")
def compare_peers(load: Any) -> ModuleType:
    return load("compare_peers")


def runs(*decode: float) -> list[dict[str, float]]:
    rest = {"prefill tok/s": 50.0, "peak bytes": 2e9, "anonymous bytes": 5e8, "load s": 3.0}
    return [{"decode tok/s": value, **rest} for value in decode]


@pytest.fixture
def result() -> dict[str, Any]:
    systems = {
        "ours-int4": {"title": "ours", "ours": True, "weight bytes": 1e9, "versions": {}, "runs": runs(10, 20, 30)},
        "peer": {"title": "theirs", "ours": False, "weight bytes": 2e9, "versions": {}, "runs": runs(10, 10, 60)},
    }
    return {
        "machine": "a machine",
        "prompt": 512,
        "new": 64,
        "rounds": 3,
        "bandwidth bytes/s": [40e9, 40e9, 120e9],
        "systems": systems,
        "not measured": {"other": {"title": "the third", "reason": "it cannot be installed"}},
        "exports": {"ours-int4": {"title": "ours", "runs": [{"s": 40.0, "peak bytes": 1.5e9}]}},
    }


def test_figures_are_medians_with_their_spread(report: ModuleType, result: dict[str, Any]) -> None:
    text = report.tables(result, "a.json")
    assert (
        "| ours | 50.0 (50.0 to 50.0) | 20.0 (10.0 to 30.0) | 2.00 | 0.50 | 3.00 (3.00 to 3.00) | 1.00 | 25% |" in text
    )
    assert "(../../benchmarks/results/a.json)" in text
    assert "| ours | 40.0 (40.0 to 40.0) | 1.50 (1.50 to 1.50) |" in text


def test_ratios_are_taken_within_a_round(report: ModuleType, result: dict[str, Any]) -> None:
    """1, 2 and 0.5 have the median 1; the medians' ratio is 2."""
    assert "| theirs | 1.00 (1.00 to 1.00) | 1.00 (0.50 to 2.00) |" in report.tables(result, "a.json")


def test_what_is_not_measured_is_said_with_its_reason(report: ModuleType, result: dict[str, Any]) -> None:
    assert "| the third | not measured: it cannot be installed |" in report.tables(result, "a.json")


def test_every_system_leads_in_turn(compare_peers: ModuleType) -> None:
    names = ["a", "b", "c"]
    assert [compare_peers.rotated(names, number)[0] for number in range(4)] == ["a", "b", "c", "a"]
    assert compare_peers.rotated([], 1) == []


def test_a_peer_that_fails_is_left_out_of_every_round(
    compare_peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its builder fails, or a later run does; the others are measured all the same."""

    def answer(command: list[Any], verb: str) -> Any:
        name = Path(command[command.index(verb) + 1]).name
        if verb == "measure" and name == "llamacpp-q4_0" and command[-1] == "2":
            raise compare_peers.processes.PeerError("killed")
        return runs(float(command[-1]))[0]

    def cost(command: list[Any]) -> dict[str, float]:
        if "int8-block-128" in command:
            raise compare_peers.processes.PeerError("out of memory")
        if Path(command[-1]).name == "export":
            raise compare_peers.processes.PeerError("disk full")
        Path(command[-1]).mkdir()
        return {"s": 1.0, "peak bytes": 1.0}

    (tmp_path / "1.2b").mkdir()
    monkeypatch.setattr(compare_peers, "prepare", lambda *_: Path("python"))
    monkeypatch.setattr(compare_peers, "write_stand_in", lambda *_: None)
    monkeypatch.setattr(compare_peers.processes, "cost", cost)
    monkeypatch.setattr(compare_peers.processes, "measure", lambda command: answer(command, "measure"))
    monkeypatch.setattr(
        compare_peers.processes,
        "ask",
        lambda command: [4e10] if len(command) == 2 else {"weight bytes": 1, "versions": {}},
    )
    found = compare_peers.compare(["ours-int4", "genai-int8", "llamacpp-q4_0"], 2, 1, tmp_path)
    assert list(found["systems"]) == ["ours-int4"]
    assert [run["decode tok/s"] for run in found["systems"]["ours-int4"]["runs"]] == [1, 2]
    assert {name: entry["reason"] for name, entry in found["not measured"].items()} == {
        "genai-int8": "out of memory",
        "llamacpp-q4_0": "killed",
    }
    assert found["exports"] == {"ours-int4": {"title": "exaone-export int4", "runs": [], "reason": "disk full"}}
    assert "| exaone-export int4 | not made: disk full |" in compare_peers.report.tables(found, "a.json")


def test_memory_without_a_file_is_seen_from_outside(load: Any) -> None:
    processes = load("peers.processes")
    code = (
        "import time; held = bytearray(1 << 26); held[::4096] = b'x' * (1 << 14); time.sleep(0.3); print('{\"a\": 1}')"
    )
    found = processes.measure([sys.executable, "-c", code])
    assert found["a"] == 1
    assert 1 << 26 <= found["anonymous bytes"] < 1 << 27


def test_a_process_that_fails_leaves_its_last_word(load: Any) -> None:
    processes = load("peers.processes")
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    for call in (processes.ask, processes.measure, processes.cost):
        with pytest.raises(processes.PeerError, match="no such model"):
            call(command)


def test_every_system_is_held_to_one_definition(load: Any) -> None:
    """A warm-up, then one prompt and its answer; rates of these alone."""
    figures, calls = load("figures"), []

    class System:
        def answer(self, tokens: list[int], new: int) -> tuple[float, float]:
            calls.append((tokens, new))
            return 2.0, 4.0

    found = figures.measure(lambda _: System(), Path(), 3)
    assert found["prefill tok/s"] == figures.PROMPT / 2
    assert found["decode tok/s"] == figures.NEW / 4
    assert [(len(tokens), new) for tokens, new in calls] == [(figures.WARM_UP, 2), (figures.PROMPT, figures.NEW)]
    assert calls[0][0][0] != calls[1][0][0]
    assert figures.prompt(1, 8) != figures.prompt(2, 8)


def test_decoding_runs_one_token_a_step(load: Any) -> None:
    lengths = []

    def model(ids: torch.Tensor, **kwargs: Any) -> SimpleNamespace:
        lengths.append(ids.shape[1])
        return SimpleNamespace(logits=torch.zeros(1, 1, 5), past_key_values=None)

    load("ours_mirror").answer(model, [1, 2, 3, 4], 3)
    assert lengths == [4, 1, 1, 1]


def test_the_engine_runs_one_token_a_step_too(load: Any, export_artifact: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    step = OnnxRuntimeSession.step

    def watched(self: Any, given: Any, *rest: Any) -> Any:
        widths.append(given.input_ids.shape[1])
        return step(self, given, *rest)

    monkeypatch.setattr(OnnxRuntimeSession, "step", watched)
    model = load("ours").Model(export_artifact(TINY, "ort-cpu"))
    assert all(seconds > 0 for seconds in model.answer(list(range(5, 25)), 3))
    assert sum(widths[:-3]) == 20 and widths[-3:] == [1, 1, 1]
    with pytest.raises(RuntimeError, match="4 of the prompt reused"):
        model.answer(list(range(5, 25)), 3)


def test_the_stand_in_is_a_whole_qwen3_model(load: Any, tmp_path: Path) -> None:
    load("peers.stand_in").write_stand_in(TINY, tmp_path / "stand-in")
    model, info = Qwen3ForCausalLM.from_pretrained(tmp_path / "stand-in", output_loading_info=True)
    assert not any(info.values())
    config = json.loads((TINY / "config.json").read_text())
    assert model.config.rope_parameters["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_weights_of_which_one_row_is_read_do_not_count(load: Any, tmp_path: Path) -> None:
    def tensor(name: str, dtype: int, *shape: int) -> onnx.TensorProto:
        found = TensorProto(name=name, data_type=dtype, dims=shape)
        found.data_location = TensorProto.EXTERNAL
        found.external_data.add(key="location", value="model.onnx.data")
        found.external_data.add(key="offset", value=name[-1])
        return found

    nodes = [
        helper.make_node("Gather", ["table0", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "weight1"], ["y"]),
        helper.make_node("MatMulNBits", ["y", "codes2"], ["z"], domain="com.microsoft"),
        helper.make_node("MatMul", ["z", "again1"], ["out"]),
    ]
    initializers = [
        tensor("table0", TensorProto.FLOAT, 1000, 4),
        tensor("weight1", TensorProto.FLOAT, 4, 4),
        tensor("codes2", TensorProto.INT4, 4, 4),
        tensor("again1", TensorProto.FLOAT, 4, 4),
    ]
    (tmp_path / "model.onnx").write_bytes(
        helper.make_model(helper.make_graph(nodes, "graph", [], [], initializers)).SerializeToString()
    )
    assert load("onnx_weights").read_per_token(tmp_path / "model.onnx") == 4 * 4 * 4 + 4 * 4 // 2
