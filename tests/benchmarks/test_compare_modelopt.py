"""The comparison with Model Optimizer, as far as it goes without it: what it judges, and the data both sides get."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from exaone_export.exporter.calibrate.run import Options
from exaone_export.targets.target import get_target
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def suite() -> ModuleType:
    path = ROOT / "benchmarks" / "compare_modelopt.py"
    spec = importlib.util.spec_from_file_location("compare_modelopt", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def result(kl: float, configuration: str = "") -> dict[str, Any]:
    total = {"kl": kl, "kl_99": 0.5, "answer_kl": 1e-6, "top1": 0.98, "accuracy": None, "baseline_accuracy": None}
    return {"configuration": configuration, "total": total}


def test_every_divergence_is_held_to_its_peers(suite: ModuleType) -> None:
    peers = {"int8": result(1e-3, "A"), "fp8": result(1e-3, "B"), "int4": result(4e-2, "C")}
    found = {"tensorrt-rtx int8": result(1e-3), "tensorrt-rtx fp8": result(1.1e-3), suite.INT4: result(1e-2)}
    held = {name.partition(":")[0]: holds for name, holds in suite.verdicts(peers, found).items()}
    assert held == {"tensorrt-rtx int8": True, "tensorrt-rtx fp8": False, suite.INT4: True}
    for rounded, holds in ((2e-2, True), (1.9e-2, False)):
        judged = suite.verdicts(peers, found | {suite.ROUNDED: result(rounded)})
        assert judged[f"{suite.INT4}: KL at most half of rounding to nearest"] is holds
        assert len(judged) == 4
    assert not all(suite.verdicts(peers, {"tensorrt-rtx int8": result(float("nan"))}).values())
    rows = suite.table(peers, found).splitlines()
    assert rows[-1] == f"| {suite.INT4} | 1.00e-02 | 5.00e-01 | 1.00e-06 | 98.00% | - |"
    assert len(rows) == 2 + 3 + 3


def test_the_systems_are_ones_that_there_are(suite: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import click

    from exaone_export.cli.calibrate import command
    from exaone_export.cli.main import cli

    # A command keeps the names of its help option from the first context that it is given.
    parent = click.Context(cli, **cli.context_settings)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import modelopt_peer

    for system in suite.SYSTEMS.values():
        assert system.precision in get_target(system.target).precisions
        assert system.peer is None or system.peer in modelopt_peer.PEER_CONFIGS
        if system.calibrate is not None:
            arguments = ["model", "out", "--data", "data", *system.calibrate]
            context = command.make_context("calibrate", arguments, parent=parent)
            names = Options.__dataclass_fields__.keys()
            Options(**{name: value for name, value in context.params.items() if name in names})


def test_both_sides_get_the_same_tokens(suite: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "calibration.jsonl").write_text(json.dumps({"text": "Hello " * 600}) + "\n")
    asked = {"messages": [{"role": "user", "content": "What is 27 + 45?"}], "answer": "72", "slice": "sums"}
    (tmp_path / "heldout.jsonl").write_text(json.dumps(asked) + "\n")
    lines = suite.tokens_of(tmp_path / "calibration.jsonl", tmp_path / "heldout.jsonl")
    assert [len(line) for line in lines["calibration"]] == [suite.SEQ_LENGTH]
    (line,) = lines["held_out"]
    assert line["slice"] == "sums"
    assert 0 < line["answer"] < len(line["tokens"])
    assert json.loads(json.dumps(lines)) == lines
