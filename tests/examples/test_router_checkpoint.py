"""The router: its files, what its card says, and what it has learned."""

import json
import re
import sys
from itertools import islice
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from exaone_export import ExaoneForSequenceClassification
from tests.examples.scripts import EXAMPLES, imported

FOLDER = EXAMPLES / "exaone4-tiny-router"
CARD = (FOLDER / "README.md").read_text(encoding="utf-8")
CONFIG = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def evaluate():
    with imported(FOLDER / "training" / "evaluate.py") as script:
        yield script


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture
def model():
    return AutoModelForSequenceClassification.from_pretrained(FOLDER, dtype=torch.float32).eval()


def test_folder_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 4_000_000


def test_config_is_a_classifier_of_the_tiny_checkpoint(evaluate: ModuleType):
    tiny = json.loads((EXAMPLES / "exaone4-tiny" / "config.json").read_text(encoding="utf-8"))
    own = {"architectures", "dtype", "id2label", "label2id", "problem_type", "transformers_version"}
    assert {key: value for key, value in CONFIG.items() if key not in own} == {
        key: value for key, value in tiny.items() if key not in own
    }
    assert CONFIG["architectures"] == ["Exaone4ForSequenceClassification"]
    assert CONFIG["problem_type"] == "single_label_classification"
    assert CONFIG["dtype"] == "bfloat16"
    labels = list(sys.modules["routes"].LABELS)
    assert list(CONFIG["id2label"].values()) == labels
    assert CONFIG["label2id"] == {label: index for index, label in enumerate(labels)}


def test_card_lists_the_labels():
    table = CARD.partition("| the chat | label |")[2].partition("\n\n")[0]
    assert re.findall(r"`(\w+)`", table) == list(CONFIG["id2label"].values())


def test_card_shows_what_its_example_prints(monkeypatch, capsys):
    code, shown = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", CARD, re.S).groups()
    monkeypatch.chdir(EXAMPLES.parent)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == shown


def test_splits_do_not_meet(evaluate: ModuleType):
    tasks, routes = sys.modules["tasks"], sys.modules["routes"]
    known = [task for task in routes.TASKS if task != "greeting"]
    training = islice(tasks.stream(1, dict.fromkeys(known, 1.0), dict.fromkeys(known, 16), thinking=0.0), 2000)
    seen = {(example.task, example.identity) for example in training}
    asked = {(e.task, e.identity) for task in (*known, routes.FAR_RECALL) for e in routes.held_out(task, 100)}
    assert not seen & asked


def test_every_label_is_asked(evaluate: ModuleType):
    routes = sys.modules["routes"]
    asked = {routes.label(example) for task in routes.TASKS for example in routes.held_out(task, 200)}
    assert asked == set(CONFIG["label2id"])


def test_padding_on_either_side_changes_nothing(evaluate: ModuleType, model, tokenizer):
    routes = sys.modules["routes"]
    examples = [example for task in routes.TASKS for example in routes.held_out(task, 2)]
    with torch.inference_mode():
        alone = torch.cat([model(**routes.batch(tokenizer, [example], "left")).logits for example in examples])
        for side in evaluate.SIDES:
            padded = model(**routes.batch(tokenizer, examples, side)).logits
            torch.testing.assert_close(padded, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_accuracy_is_what_the_card_says(evaluate: ModuleType, model, tokenizer, side):
    routes = sys.modules["routes"]
    rows = re.findall(r"^\| [a-z ]+ \| ([\d.]+)% \| ([\d.]+)% \| \d+ \|$", CARD, re.M)
    assert len(rows) == 7
    floor = min(float(row[side == "right"]) for row in rows) / 100
    ragged = [example for task in routes.TASKS for example in routes.held_out(task, 5)]
    far = routes.held_out(routes.FAR_RECALL, 3)
    hits = [hit for examples in (ragged, far) for hit in evaluate.score(model, tokenizer, examples, side)]
    assert sum(hits) / len(hits) >= floor


@pytest.mark.parametrize(
    ("target", "precision"), [("ort-cpu", "float32"), ("ort-cpu", "int8"), ("tensorrt-rtx", "float32")], ids=str
)
def test_artifacts_answer_as_the_checkpoint_does(
    evaluate: ModuleType, tokenizer, export_artifact, target: str, precision: str
):
    """Over several windows, in steps of 16 tokens, with padding on either side."""
    routes = sys.modules["routes"]
    examples = [example for task in routes.TASKS for example in routes.held_out(task, 1)]
    examples += routes.held_out(routes.FAR_RECALL, 1)
    folder = export_artifact(FOLDER, target, 1024, precision)
    with ExaoneForSequenceClassification.from_pretrained(folder, threads=1, prefill_chunk_size=16) as model:
        for side in evaluate.SIDES:
            assert all(evaluate.score(model, tokenizer, examples, side))


@pytest.mark.parametrize(
    ("fault", "side", "task", "ceiling"),
    [
        ("window-on-every-layer", "left", "recall", 0.3),
        ("no-window", "left", "tool call", 0.8),
        ("half-window", "left", "tool result", 0.8),
        ("no-rotation", "left", "recall", 0.5),
        ("last-column", "right", "recall", 0.5),
        ("one-token-early", "left", "recall", 0.5),
        ("one-token-late", "right", "recall", 0.3),
    ],
)
def test_a_fault_loses_labels(evaluate: ModuleType, model, tokenizer, fault, side, task, ceiling):
    sys.modules["head_faults"].FAULTS[fault](model)
    hits = evaluate.score(model, tokenizer, sys.modules["routes"].held_out(task, 12), side)
    assert sum(hits) / len(hits) <= ceiling
