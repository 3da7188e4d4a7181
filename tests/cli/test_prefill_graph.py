"""What the commands say of an artifact with a graph of its own for prompts, and let one choose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exaone_export.artifact.manifest import read_manifest
from exaone_export.artifact.prefill import PREFILL_NAME
from exaone_export.cli.main import cli
from exaone_export.exporter.publish.card import CardFields, model_card
from tests.conftest import TINY

QUESTION = ("-p", "What is 38 + 47?")


@pytest.fixture(scope="module")
def folder(export_artifact: Callable[..., Path]) -> str:
    return str(export_artifact(TINY, "ort-cpu", precision="int4", prefill_precision="int8"))


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == status, result.output
    return result


def test_the_plan_says_what_the_second_graph_takes() -> None:
    both = ("--precision", "int4", "--prefill-precision", "int8", "--max-length", "4096")
    found = json.loads(run("plan", "1.2b", *both, "--json").stdout)
    alone = json.loads(run("plan", "1.2b", *both[:2], *both[4:], "--json").stdout)
    assert found["prefill"] == {
        "precision": "int8",
        "weights_held_without": alone["weights_held"],
        "peak_run_without": alone["peak"]["run"],
    }
    # 30 layers in a byte a weight, and the vocabulary projection for a second time
    assert 1.0 < (found["weights_held"] - alone["weights_held"]) / 2**30 < 1.2
    assert found["disk"]["artifact"] - alone["disk"]["artifact"] < found["weights_held"] - alone["weights_held"]
    text = run("plan", "1.2b", *both).stdout
    assert "int4 and int8 for prompts, computed in float32" in text
    assert "754.5 MiB with --no-prefill-graph" in text


def test_inspect_doctor_and_verify_know_it(folder: str, tmp_path: Path) -> None:
    assert "prompts     int8 for steps of 16 tokens or more, int8 weights" in run("inspect", folder).stdout
    assert "the int8 graph for prompts included" in run("doctor", folder).stdout
    assert "9 files match their hashes" in run("verify", folder).stdout
    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    data = bytearray((damaged / PREFILL_NAME).read_bytes())
    data[100] ^= 1
    (damaged / PREFILL_NAME).write_bytes(data)
    assert f"{PREFILL_NAME} is not the file that was exported" in run("verify", str(damaged), status=1).stderr
    card = model_card(read_manifest(Path(folder)), "org/name", CardFields())
    assert "precision `int4` and `int8` for prompts, at most" in card


def test_inspect_reads_both_graphs(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from exaone_export.graphs import verify

    recipes, real = list[str](), verify.verify
    monkeypatch.setattr(
        verify,
        "verify",
        lambda model, spec, layout, recipe: (recipes.append(recipe.precision.name), real(model, spec, layout, recipe)),
    )
    run("inspect", folder)
    assert recipes == ["int4", "int8"]


def test_parity_judges_each_graph(folder: str, tmp_path: Path) -> None:
    copied = str(shutil.copytree(folder, tmp_path / "copied"))
    report = run("parity", copied, str(TINY), "--length", "40", "--tokens", "6", "--json", "--record").stdout
    found = {row["side"]: row for row in json.loads(report)["rows"]}
    assert [*found] == ["reference", "ort-cpu", "ort-cpu-prompts"]
    assert 0 < found["ort-cpu-prompts"]["kl"] < found["ort-cpu"]["kl"], "eight bits are nearer than four"
    recorded = read_manifest(Path(copied))
    assert recorded.parity is not None and recorded.parity["passed"]
    assert recorded.parity["prompts"]["kl"] == found["ort-cpu-prompts"]["kl"]
    assert recorded.prefill == read_manifest(Path(folder)).prefill


def test_eval_reads_prompts_as_prompts(folder: str, tmp_path: Path, export_artifact: Callable[..., Path]) -> None:
    data = tmp_path / "data.jsonl"
    line = {"messages": [{"role": "user", "content": "What is 38 + 47? " * 4}], "answer": "85"}
    data.write_text(json.dumps(line) + "\n")
    folders = (folder, str(export_artifact(TINY, "ort-cpu", precision="int4")))
    found = [run("eval", each, str(TINY), "--data", str(data), "--json").stdout for each in folders]
    scores = [json.loads(text)["total"] for text in found]
    assert scores[0]["kl"] < scores[1]["kl"]
    assert scores[0]["accuracy"] == scores[0]["baseline_accuracy"]


def test_bench_names_both_precisions(folder: str) -> None:
    sizes = ("--prompt", "32", "--new", "2", "--depth", "0", "--batch", "1", "--repetitions", "1", "--json")
    assert json.loads(run("bench", folder, *sizes).stdout)["precision"] == "int8/int4"
    assert json.loads(run("bench", folder, *sizes, "--no-prefill-graph").stdout)["precision"] == "int4"


@pytest.mark.parametrize("options", [(), ("--no-prefill-graph",), ("--prefill-threshold", "2"), ("--num-beams", "2")])
def test_generate_says_the_same_with_either(folder: str, options: tuple[str, ...]) -> None:
    assert run("generate", folder, *QUESTION, *options).stdout.strip() == "85"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", *QUESTION, "--no-prefill-graph", "--prefill-threshold", "9"), "that --prefill-threshold is for"),
        (("chat", "--prefill-threshold", "1"), "1 is not in the range x>=2"),
        (("serve", "--no-prefill-graph", "--batch-graph"), "that --batch-graph is for; give one of them"),
        (("serve", "--prompt-lookup", "0"), "'0' is neither a number of tokens of at least 1 nor auto nor off"),
        (("chat", "--prompt-lookup", "sometimes"), "'sometimes' is neither a number of tokens"),
    ],
)
def test_options_that_contradict_each_other(folder: str, arguments: tuple[str, ...], message: str) -> None:
    command, *options = arguments
    assert message in run(command, folder, *options, status=2).stderr


def test_there_is_nothing_to_choose_in_one_graph(export_artifact: Callable[..., Path]) -> None:
    alone = str(export_artifact(TINY, "ort-cpu", precision="int4"))
    assert run("generate", alone, *QUESTION, "--no-prefill-graph").stdout.strip() == "85"
    refused: Any = run("generate", alone, *QUESTION, "--prefill-threshold", "9", status=2)
    assert "has no graph of its own for prompts" in refused.stderr
    assert "--prefill-precision int8, or leave the threshold out" in refused.stderr
