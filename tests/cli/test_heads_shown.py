"""What commands say of a head that gives no next tokens, and what they propose and refuse for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from exaone_export.artifact.reader import Artifact
from exaone_export.cli.describe_head import describe_head, describe_outputs
from exaone_export.cli.written import next_of_artifact
from exaone_export.model.heads import HeadSpec
from exaone_export.model.published import PUBLISHED
from tests.cli.test_cli import run
from tests.conftest import SaveModel


@pytest.fixture(scope="module")
def tagger(save_model: SaveModel, export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(save_model(head="token-classification", num_labels=3), "ort-cpu", 64, "float32")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (HeadSpec("question-answering", bias=True), "question-answering"),
        (HeadSpec("hidden-states", hidden_states=True), "hidden-states"),
        (HeadSpec("sequence-classification", ("score",)), "sequence-classification, 1 label (score)"),
        (
            HeadSpec("sequence-classification", tuple("ABCD"), "multi_label_classification"),
            "sequence-classification, 4 labels (A, B, C, D), multi_label_classification",
        ),
        (
            HeadSpec("token-classification", (*"ABC", "x" * 30, *map(str, range(1200)))),
            f"token-classification, 1,204 labels (A, B, C, {'x' * 24}…, …)",
        ),
    ],
)
def test_a_head_in_words(head: HeadSpec, words: str) -> None:
    assert describe_head(head) == words


def test_what_a_graph_gives() -> None:
    def outputs(head: HeadSpec) -> str:
        return describe_outputs(dataclasses.replace(PUBLISHED["1.2b"], head=head))

    assert outputs(HeadSpec("question-answering", bias=True)) == "start_logits and end_logits for every token"
    assert outputs(HeadSpec("token-classification", ("A", "B"))) == "logits [2] for every token"
    assert outputs(HeadSpec("hidden-states", hidden_states=True)) == (
        "last_hidden_state [2048] and hidden_states.0 to hidden_states.29 [2048] for every token"
    )


def test_inspect_shows_the_head_and_its_outputs(tagger: Path) -> None:
    lines = run("inspect", tagger).stdout.splitlines()
    assert lines[1:3] == [
        "head        token-classification, 3 labels (LABEL_0, LABEL_1, LABEL_2)",
        "outputs     logits [3] for every token",
    ]


def test_the_doctor_says_what_runs_it(tagger: Path) -> None:
    result = run("doctor", tagger, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["verdict"].startswith(f"{tagger} runs here: ort-cpu")
    (found,) = [finding for finding in report["artifact"] if finding["name"] == "head"]
    assert found["detail"] == (
        "token-classification, 3 labels (LABEL_0, LABEL_1, LABEL_2), run by exaone-export predict"
    )
    assert (found["ok"], found["fix"]) == (None, None)


def test_generate_refuses_it(tagger: Path) -> None:
    result = run("generate", tagger, "-p", "Hello")
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: {tagger} holds an Exaone4ForTokenClassification, which generates no text; run: exaone-export predict "
        f"{tagger} --text TEXT.\n"
    )


def test_a_plot_of_decoding_is_refused(tagger: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("bench", tagger, "--prompt", "8", "--plot", tmp_path / "decode.png")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "error: a plot shows decoding, and Exaone4ForTokenClassification generates no tokens; leave --plot out."
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("Exaone4ForCausalLM", "generate {} -p Hello"),
        ("Exaone4Model", "predict {} --text Hello"),
        ("Exaone4ForSequenceClassification", "predict {} --text Hello"),
        ("Exaone4ForQuestionAnswering", "predict {} --input FILE.jsonl"),
    ],
)
def test_the_next_command_is_one_that_runs_the_head(
    architecture: str, words: str, tagger: Path, tmp_path: Path
) -> None:
    manifest = Artifact.open(tagger).manifest
    manifest.model["architectures"] = [architecture]
    (tmp_path / "tokenizer.json").touch()
    assert next_of_artifact(tmp_path, "MODEL", manifest) == f"exaone-export {words.format(tmp_path)}"
    assert next_of_artifact(tagger, "MODEL", manifest) == f"exaone-export parity {tagger} MODEL"  # without a tokenizer


@pytest.mark.parametrize(
    ("options", "head", "labels", "size"),
    [
        ((), "causal-lm", 0, 0),
        (("--head", "hidden-states"), "hidden-states", 0, 0),
        # The product and its bias stay in float32, whatever the layers are.
        (("--head", "token-classification"), "token-classification", 2, 4 * (2 * 2048 + 2)),
        (("--head", "sequence-classification"), "sequence-classification", 2, 4 * 2 * 2048),
        (("--head", "question-answering"), "question-answering", 0, 4 * (2 * 2048 + 2)),
    ],
)
def test_a_plan_is_of_the_head_that_is_chosen(options: tuple[str, ...], head: str, labels: int, size: int) -> None:
    arguments = ("plan", "1.2b", "--target", "tensorrt", "--max-length", "4096", *options)
    content = json.loads(run(*arguments, "--json").stdout)
    assert (content["model"]["head"], content["model"]["labels"]) == (head, labels)
    assert content["weights"]["head"] == size
    line = run(*arguments).stdout.splitlines()[0]
    assert line.endswith(" parameters") if head == "causal-lm" else f" parameters, {head}" in line
