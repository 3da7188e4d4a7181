"""What outputs become, for the settings of a head that the exported models do not have."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Exaone4Config

from exaone_export.errors import ArtifactError, UnsupportedOptionError
from exaone_export.model.config.reading import read_spec
from exaone_export.model.heads import HIDDEN_STATES, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from exaone_export.runtime.predict import batches as batching
from exaone_export.runtime.predict.batches import batches, padded
from exaone_export.runtime.predict.encoding import Encoded
from exaone_export.runtime.predict.options import Options, rows_at_once
from exaone_export.runtime.predict.results import result_of
from exaone_export.runtime.predict.spans import best_spans
from exaone_export.runtime.text.tokenizer import load_tokenizer
from tests.conftest import TINY

TEXT = Encoded("line 3 of data", 1, np.arange(3, dtype=np.int32))
LOGITS = [2.0, -1.0, 0.5]


def labels(problem_type: str | None, logits: list[float], **options: Any) -> dict[str, Any]:
    """The result for a row of logits, whose labels are a, b, c."""
    config = Exaone4Config(id2label=dict(enumerate("abc"[: len(logits)])), problem_type=problem_type)
    model = SimpleNamespace(config=config, device=torch.device("cpu"), can_generate=lambda: False)
    result = result_of(SEQUENCE_CLASSIFICATION, model, load_tokenizer(TINY), Options(**options))
    return result(TEXT, SimpleNamespace(logits=torch.tensor([[9.0] * len(logits), logits])), 1)


@pytest.mark.parametrize("problem_type", [None, "single_label_classification"])
def test_one_label_of_several(problem_type: str | None) -> None:
    found = labels(problem_type, LOGITS)
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum()
    assert found["label"] == "a" and found["score"] == pytest.approx(shares[0], abs=1e-6)
    assert [entry["label"] for entry in found["scores"]] == ["a", "c", "b"]
    assert [entry["score"] for entry in found["scores"]] == pytest.approx(sorted(shares)[::-1], abs=1e-6)
    assert "labels" not in found


def test_several_labels() -> None:
    found = labels("multi_label_classification", LOGITS)
    assert found["labels"] == ["a", "c"] and found["label"] == "a"
    assert [entry["score"] for entry in found["scores"]] == pytest.approx([0.880797, 0.622459, 0.268941], abs=1e-6)
    assert labels("multi_label_classification", [-1.0, -2.0])["labels"] == []
    assert labels("multi_label_classification", LOGITS, top_k=1)["labels"] == ["a", "c"]


def test_a_regression_and_a_single_label() -> None:
    assert labels("regression", [-3.25]) == {"label": "a", "score": -3.25, "scores": [{"label": "a", "score": -3.25}]}
    assert [entry["score"] for entry in labels("regression", LOGITS)["scores"]] == [2.0, 0.5, -1.0]
    # As transformers' pipeline: the logit of a reranker as a number between 0 and 1.
    assert labels(None, [2.0])["score"] == pytest.approx(0.880797, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        (HIDDEN_STATES, {"last_hidden_state": [[[0.0, 1.0], [0.0, float("inf")], [1.0, 2.0]]]}),
        (QUESTION_ANSWERING, {"start_logits": [[0.0, 1.0, 2.0]], "end_logits": [[0.0, float("nan"), 2.0]]}),
    ],
)
def test_numbers_that_are_not_finite(kind: str, output: dict[str, Any]) -> None:
    text = dataclasses.replace(TEXT, text="abc", offsets=np.array([[0, 1], [1, 2], [2, 3]]), inside=np.ones(3, bool))
    tensors = SimpleNamespace(**{name: torch.tensor(value) for name, value in output.items()})
    with pytest.raises(
        ArtifactError, match="gives numbers for line 3 of data that are not finite; export the model wit"
    ):
        result_of(kind, None, None, Options())(text, tensors, 0)


def test_answers_have_no_blanks_at_their_ends() -> None:
    text = dataclasses.replace(
        TEXT, text="a  b ", offsets=np.array([[0, 1], [1, 4], [4, 5]]), inside=np.array([True, True, True])
    )
    give = result_of(QUESTION_ANSWERING, None, None, Options())
    second = torch.tensor([[0.0, 9.0, 0.0]])
    found = give(text, SimpleNamespace(start_logits=second, end_logits=second), 0)
    assert (found["answer"], found["start"], found["end"]) == ("b", 3, 4)
    third = torch.tensor([[0.0, 0.0, 9.0]])
    found = give(text, SimpleNamespace(start_logits=third, end_logits=third), 0)
    assert (found["answer"], found["start"], found["end"]) == (" ", 4, 5)


def test_numbers_have_the_digits_of_float32() -> None:
    vector = torch.tensor([[[0.1, 1 / 3, 1e-7, -2.0]]])
    found = result_of(HIDDEN_STATES, None, None, Options())(
        dataclasses.replace(TEXT, tokens=TEXT.tokens[:1]), SimpleNamespace(last_hidden_state=vector), 0
    )
    assert json.dumps(found) == '{"vector": [0.1, 0.33333334, 1e-07, -2.0]}'
    assert torch.equal(torch.tensor(found["vector"]), vector[0, 0])


@pytest.mark.parametrize(("most", "count"), [(1, 3), (2, 5), (7, 4), (1024, 1000)])
def test_spans_by_score(most: int, count: int, generator: torch.Generator) -> None:
    start, end = torch.randn(2, 7, generator=generator)
    scores = torch.outer(start.softmax(0), end.softmax(0))
    expected = sorted(((float(scores[i, j]), i, j) for i in range(7) for j in range(i, min(i + most, 7))), reverse=True)
    found = best_spans(start, end, most_tokens=most, count=count)
    assert [(span.first, span.last) for span in found] == [(i, j) for _, i, j in expected[:count]]
    assert [span.score for span in found] == pytest.approx([score for score, _, _ in expected[:count]])


def test_batches_are_of_like_lengths_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [3, 9, 1, 9, 2]
    assert list(batches(lengths, 2)) == [[1, 3], [0, 4], [2]]
    assert list(batches(lengths, 8)) == [[1, 3, 0, 4, 2]]
    assert list(batches([], 8)) == []
    monkeypatch.setattr(batching, "_MOST_TOKENS", 12)
    assert list(batches(lengths, 8)) == [[1], [3], [0, 4, 2]]
    monkeypatch.setattr(batching, "_MOST_TOKENS", 1)
    assert list(batches(lengths, 8)) == [[1], [3], [0], [4], [2]]  # a text that is longer runs alone


def test_rows_are_padded_on_the_left() -> None:
    input_ids, mask = padded([np.array([5], np.int32), np.array([6, 7, 8], np.int32)], 0)
    assert input_ids.tolist() == [[0, 0, 5], [6, 7, 8]] and mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert input_ids.dtype == torch.int64


def opened(kind: str, batch: int | None = None, pad_token_id: int | None = 0) -> Any:
    """An artifact of a head, as an engine for batches up to a size."""
    spec = dataclasses.replace(read_spec(json.loads((TINY / "config.json").read_bytes())), pad_token_id=pad_token_id)
    profiles = [SimpleNamespace(batch=SimpleNamespace(maximum=most)) for most in (16, batch)]
    engine = None if batch is None else SimpleNamespace(profiles=profiles)
    return SimpleNamespace(engine=engine, spec=SimpleNamespace(**vars(spec) | {"head": SimpleNamespace(kind=kind)}))


def test_how_many_rows_at_once() -> None:
    assert rows_at_once(opened(HIDDEN_STATES), None) == 8
    assert rows_at_once(opened(HIDDEN_STATES), 300) == 300
    assert rows_at_once(opened(HIDDEN_STATES, batch=4), None) == 4
    assert rows_at_once(opened(HIDDEN_STATES, batch=12), None) == 8
    assert rows_at_once(opened(SEQUENCE_CLASSIFICATION, pad_token_id=None), None) == 1
    assert rows_at_once(opened(TOKEN_CLASSIFICATION, pad_token_id=None), None) == 8
    for artifact, sentence in (
        (
            opened(HIDDEN_STATES, batch=4),
            "--batch is 9, and 4 is the most that its engine was built for; build it again",
        ),
        (
            opened(SEQUENCE_CLASSIFICATION, pad_token_id=None),
            "--batch is 9, and 1 is the most that can be classified without a pad_token_id; add it to the checkpoint's",
        ),
    ):
        with pytest.raises(UnsupportedOptionError, match=sentence):
            rows_at_once(artifact, 9)
