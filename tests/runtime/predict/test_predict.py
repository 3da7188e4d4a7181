"""Predictions of every head beside transformers' own pipelines, or beside what its models give computed by hand."""

from __future__ import annotations

import dataclasses
import io
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import PromptError, TargetError, UnsupportedOptionError
from exaone_export.model.heads import (
    CAUSAL_LM_HEAD,
    HIDDEN_STATES,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from exaone_export.runtime.mirror.text.chat import ChatFormat
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.runtime.predict import encoding
from exaone_export.runtime.predict.lines import Line, given_texts, read_lines
from exaone_export.runtime.predict.options import AGGREGATIONS, Options
from exaone_export.runtime.predict.run import predict
from tests.runtime.predict.head_models import TEXTS, load_head_model, save_head_model

QUESTIONS = [
    {"question": "Who lives in Seoul?", "context": "Mina lives in Seoul and Jisoo in Busan."},
    {"question": "What?", "context": "A fig."},
    {"question": "Which is the largest of them all?", "context": "One, two, three, four. " * 6},
]


class Head:
    """One head: the artifact, and the model that it was made of."""

    def __init__(self, model: Path, artifact: Path, kind: str) -> None:
        self.folder, self.artifact, self.kind = model, Artifact.open(artifact), kind
        self.torch = load_head_model(model, kind)
        self.tokenizer = load_tokenizer(model)

    def predict(self, lines: Sequence[Any], batch: int | None = None, **options: Any) -> list[dict[str, Any]]:
        """Of texts, or of values of JSON lines."""
        if all(isinstance(line, str) for line in lines):
            given = given_texts(lines, self.kind)
        else:
            data = "".join(json.dumps(line) + "\n" for line in lines).encode()
            given = read_lines(io.BytesIO(data), "lines", self.kind, "jsonl")
        return list(predict(self.artifact, given, Options(**options), batch=batch))

    def states(self, *texts: str, **options: Any) -> Any:
        """The model's output for one text, or a pair."""
        with torch.no_grad():
            return self.torch(**self.tokenizer(*texts, return_tensors="pt", **options))


@pytest.fixture(scope="module")
def head(shared: Callable[..., Path], export_artifact: Callable[..., Path]) -> Callable[[str], Head]:
    made: dict[str, Head] = {}

    def make(kind: str) -> Head:
        if kind not in made:
            model = save_head_model(shared, kind)
            made[kind] = Head(model, export_artifact(model, "ort-cpu", max_length=128), kind)
        return made[kind]

    return make


def close(found: Any, expected: Any) -> bool:
    """Equal, numbers within 1e-4."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, float):
        return abs(found - expected) <= 1e-4
    return bool(found == expected)


@pytest.mark.parametrize("kind", [SEQUENCE_CLASSIFICATION, HIDDEN_STATES, TOKEN_CLASSIFICATION, QUESTION_ANSWERING])
def test_batches_of_any_size_and_windows_give_the_same_in_the_order_of_the_lines(
    head: Callable[[str], Head], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[Any] = [*TEXTS, TEXTS[0]] if kind != QUESTION_ANSWERING else QUESTIONS
    alone = [{**head(kind).predict([line])[0], "id": number} for number, line in enumerate(lines, 1)]
    assert alone[0] != {**alone[1], "id": 1}
    for batch, window in ((2, 1), (3, 32), (None, 32)):
        monkeypatch.setattr("exaone_export.runtime.predict.run._WINDOW", window)
        assert close(head(kind).predict(lines, batch), alone)


def test_labels_are_those_of_the_text_classification_pipeline(head: Callable[[str], Head]) -> None:
    classifier = head(SEQUENCE_CLASSIFICATION)
    theirs = pipeline("text-classification", model=classifier.torch, tokenizer=classifier.tokenizer, device="cpu")
    expected = theirs(list(TEXTS), top_k=None)
    found = classifier.predict(TEXTS)
    assert close([result["scores"] for result in found], expected)
    assert close([{"label": result["label"], "score": result["score"]} for result in found], theirs(list(TEXTS)))
    assert {result["label"] for result in found} != {found[0]["label"]}
    assert all(list(result) == ["id", "label", "score", "scores"] for result in found)
    two = classifier.predict(TEXTS, top_k=2)
    assert [result["scores"] for result in two] == [result["scores"][:2] for result in found]


def test_pairs_and_chats(head: Callable[[str], Head]) -> None:
    classifier = head(SEQUENCE_CLASSIFICATION)
    theirs = pipeline("text-classification", model=classifier.torch, tokenizer=classifier.tokenizer, device="cpu")
    pair = {"text": "fruit", "text_pair": "A fig is a fruit."}
    chats = [
        {"messages": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A model."}]},
        {"messages": [{"role": "user", "content": "Who?"}], "tools": [{"name": "get_time"}], "enable_thinking": True},
    ]
    shown = []
    for chat, end in zip(chats, ("A model.[|endofturn|]\n", "[|assistant|]\n<think>\n"), strict=True):
        options: dict[str, Any] = {name: value for name, value in chat.items() if name != "messages"}
        messages: Any = chat["messages"]
        of_the_model = messages[-1]["role"] == "assistant"
        shown.append(
            ChatFormat(classifier.tokenizer).render(messages, add_generation_prompt=not of_the_model, **options)
        )
        assert shown[-1].endswith(end)
    expected = [theirs(pair, top_k=None), *theirs(shown, top_k=None, add_special_tokens=False)]
    found = classifier.predict([{"text_pair": pair["text_pair"], "text": pair["text"]}, *chats])
    assert close([result["scores"] for result in found], expected)


@pytest.mark.parametrize("aggregation", [None, *AGGREGATIONS])
def test_entities_are_those_of_the_token_classification_pipeline(
    head: Callable[[str], Head], aggregation: str | None
) -> None:
    tagger = head(TOKEN_CLASSIFICATION)
    theirs = pipeline("token-classification", model=tagger.torch, tokenizer=tagger.tokenizer, device="cpu")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tokenizer does not support real words")
        expected = theirs(list(TEXTS), aggregation_strategy=aggregation or "simple")
        warnings.filterwarnings("error", category=UserWarning)
        found = tagger.predict(TEXTS, batch=3, aggregation=aggregation)
    assert sum(map(len, expected)) > 5
    for text, result, entities in zip(TEXTS, found, expected, strict=True):
        wanted = [
            {
                "label": entity.get("entity_group", entity.get("entity")),
                "score": float(entity["score"]),
                "start": entity["start"],
                "end": entity["end"],
                "text": text[entity["start"] : entity["end"]],
            }
            for entity in entities
        ]
        assert close(result["entities"], wanted)


def test_answers_are_the_best_spans_of_the_context(head: Callable[[str], Head]) -> None:
    reader = head(QUESTION_ANSWERING)
    for most in (1, 3, 1024):
        found = reader.predict(QUESTIONS, max_answer_tokens=most, top_k=4)
        for line, result in zip(QUESTIONS, found, strict=True):
            expected = _spans(reader, line, most)[:4]
            assert close(result["answers"], expected)
            assert close({key: result[key] for key in expected[0]}, expected[0])
    assert reader.predict(QUESTIONS) == [
        {key: value for key, value in result.items() if key != "answers"}
        for result in reader.predict(QUESTIONS, max_answer_tokens=32, top_k=2)
    ]


def _spans(reader: Head, line: dict[str, str], most: int) -> list[dict[str, Any]]:
    """All spans of a context by score, one after the other."""
    output = reader.states(line["question"], line["context"])
    encoding = reader.tokenizer(line["question"], line["context"], return_offsets_mapping=True)
    first = len(reader.tokenizer(line["question"])["input_ids"])
    offsets = encoding["offset_mapping"][first:]
    starts = output.start_logits[0, first:].softmax(-1).tolist()
    ends = output.end_logits[0, first:].softmax(-1).tolist()
    found = []
    for begin, (start, _) in enumerate(offsets):
        for last in range(begin, min(begin + most, len(offsets))):
            answer, score = line["context"][start : offsets[last][1]], starts[begin] * ends[last]
            at = start + len(answer) - len(answer.lstrip())
            answer = answer.strip()
            found.append({"answer": answer, "score": score, "start": at, "end": at + len(answer)})
    return sorted(found, key=lambda answer: -answer["score"])


@pytest.mark.parametrize("normalize", [False, True])
def test_vectors_are_the_last_tokens_or_the_mean(head: Callable[[str], Head], normalize: bool) -> None:
    embedder = head(HIDDEN_STATES)
    states = [embedder.states(text).last_hidden_state[0] for text in TEXTS]
    for pooling, pool in ((None, lambda x: x[-1]), ("last", lambda x: x[-1]), ("mean", lambda x: x.mean(0))):
        expected = torch.stack([pool(state) for state in states])
        if normalize:
            expected = expected / expected.norm(dim=-1, keepdim=True)
        found = embedder.predict(TEXTS, pooling=pooling, normalize=normalize)
        assert torch.allclose(torch.tensor([result["vector"] for result in found]), expected, atol=1e-4)
        # As many digits as float32 has, and no more.
        assert max(len(str(value).strip("-0.").split("e")[0]) for value in found[0]["vector"]) <= 10


def test_ids_are_given_back(head: Callable[[str], Head]) -> None:
    ids = ["a", None, 0, 2.5, [1, {"k": "값"}], {"x": True}]
    found = head(SEQUENCE_CLASSIFICATION).predict([*({"id": value, "text": "A"} for value in ids), {"text": "B"}])
    assert [result["id"] for result in found] == [*ids, 7]


def test_a_line_that_cannot_be_run_stops_before_anything_is_loaded(
    head: Callable[[str], Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exaone_export.runtime.predict.run.open_model", None)
    classifier = head(SEQUENCE_CLASSIFICATION)
    message = (
        "line 2 of lines has 200 tokens, and the artifact holds 128; shorten it, or export the model with a larger "
        "--max-length."
    )
    with pytest.raises(PromptError) as error:
        classifier.predict([{"text": "A"}, {"text": "7" * 200}])
    assert str(error.value) == message
    monkeypatch.setattr(encoding, "MAX_TOKENS", 3)
    with pytest.raises(PromptError, match="the lines up to text 4 have more than 3 tokens; pass fewer at a time"):
        classifier.predict(["A"] * 5)
    with pytest.raises(PromptError, match="line 1 of lines cannot be encoded: the prompt holds half of a surrogate"):
        classifier.predict([{"text": "\ud83d"}])
    with pytest.raises(PromptError, match="text 2 has only padding tokens, and the last of the others is classified"):
        classifier.predict(["A", "[PAD][PAD]"])
    with pytest.raises(PromptError, match="line 1 of lines cannot be rendered by the chat template"):
        classifier.predict([{"messages": [{"role": "user", "content": "\ud83d"}]}])


def test_a_token_that_the_model_has_not(head: Callable[[str], Head], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(head(SEQUENCE_CLASSIFICATION).folder)
    tokenizer.add_tokens("<extra>")
    monkeypatch.setattr("exaone_export.runtime.predict.run.load_tokenizer", lambda _: tokenizer)
    with pytest.raises(PromptError, match=r"^text 2: the prompt holds '<extra>', token 843 of the tokenizer"):
        head(SEQUENCE_CLASSIFICATION).predict(["A", "an <extra>"])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (HIDDEN_STATES, {"top_k": 1}, "--top-k is for sequence-classification and question-answering, and the head of"),
        (QUESTION_ANSWERING, {"normalize": True}, "--normalize is for hidden-states, and the head of"),
        (SEQUENCE_CLASSIFICATION, {"pooling": "mean"}, "--pooling is for hidden-states, and"),
        (SEQUENCE_CLASSIFICATION, {"aggregation": "max"}, "--aggregation is for token-classification, and"),
        (TOKEN_CLASSIFICATION, {"max_answer_tokens": 3}, "--max-answer-tokens is for question-answering, and"),
        (TOKEN_CLASSIFICATION, {"aggregation": "median"}, "aggregation is 'median', and only none, simple, first"),
        (HIDDEN_STATES, {"pooling": "cls"}, "pooling is 'cls', and only last, mean are known"),
        (SEQUENCE_CLASSIFICATION, {"top_k": 0}, "top_k is 0; it must be at least 1, or omitted"),
        (SEQUENCE_CLASSIFICATION, {"batch": 0}, "--batch is 0, and a batch has at least one text"),
    ],
)
def test_options_of_another_head(
    head: Callable[[str], Head], kind: str, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exaone_export.runtime.predict.run.open_model", None)
    with pytest.raises(UnsupportedOptionError, match=message):
        head(kind).predict(["A"], **options)


def test_a_causal_language_model(head: Callable[[str], Head], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exaone_export.runtime.predict.run.open_model", None)
    artifact = head(SEQUENCE_CLASSIFICATION).artifact
    artifact = dataclasses.replace(artifact, spec=dataclasses.replace(artifact.spec, head=CAUSAL_LM_HEAD))
    with pytest.raises(
        TargetError, match=r"run: exaone-export generate .*, or for vectors of texts export .* --head hid"
    ):
        list(predict(artifact, [Line("text 1", 1, {"text": "A"})]))
