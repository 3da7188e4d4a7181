"""The head that config.json describes or that is chosen: every spelling read alike, or refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers

from exaone_export.errors import ConfigError
from exaone_export.model.config.head import choose_head, read_head
from exaone_export.model.config.normalized import normalize
from exaone_export.model.config.reading import read_spec, read_spec_folder
from exaone_export.model.heads import ARCHITECTURES, CLASSIFICATIONS, MOST_LABELS, HeadSpec
from exaone_export.model.tensors import expected_tensors
from tests.conftest import HYBRID, SaveModel

SEQUENCE, TOKEN = (ARCHITECTURES[kind] for kind in CLASSIFICATIONS)
TWO = ("LABEL_0", "LABEL_1")

READ: dict[str, tuple[dict[str, Any], HeadSpec]] = {
    "no architectures": ({}, HeadSpec()),
    "architectures null": ({"architectures": None}, HeadSpec()),
    "architectures empty": ({"architectures": []}, HeadSpec()),
    "a causal model with labels, as transformers saves them": (
        {"architectures": ["Exaone4ForCausalLM"], "id2label": {"0": "LABEL_0"}},
        HeadSpec(),
    ),
    "several, one of them known": ({"architectures": ["Other", SEQUENCE]}, HeadSpec("sequence-classification", TWO)),
    "several known: the first": (
        {"architectures": [TOKEN, SEQUENCE]},
        HeadSpec("token-classification", TWO, bias=True),
    ),
    "bare": ({"architectures": ["Exaone4Model"]}, HeadSpec("hidden-states")),
    "bare with hidden states": (
        {"architectures": ["Exaone4Model"], "output_hidden_states": True},
        HeadSpec("hidden-states", hidden_states=True),
    ),
    "question answering": (
        {"architectures": ["Exaone4ForQuestionAnswering"], "num_labels": 7},
        HeadSpec("question-answering", bias=True),
    ),
    "no labels: two, as in transformers": ({"architectures": [SEQUENCE]}, HeadSpec("sequence-classification", TWO)),
    "a number of labels": (
        {"architectures": [SEQUENCE], "num_labels": 1},
        HeadSpec("sequence-classification", TWO[:1]),
    ),
    "names in any order": (
        {"architectures": [SEQUENCE], "id2label": {"1": "b", "0": "a"}, "num_labels": 2},
        HeadSpec("sequence-classification", ("a", "b")),
    ),
    "numbers for names": (
        {"architectures": [SEQUENCE], "id2label": {"0": 5, "1": 7}},
        HeadSpec("sequence-classification", ("5", "7")),
    ),
    "two labels of one name": (
        {"architectures": [SEQUENCE], "id2label": {"0": "a", "1": "a"}},
        HeadSpec("sequence-classification", ("a", "a")),
    ),
    "regression": (
        {"architectures": [SEQUENCE], "problem_type": "regression", "num_labels": 1},
        HeadSpec("sequence-classification", TWO[:1], "regression"),
    ),
    "tokens without a bias": (
        {"architectures": [TOKEN], "token_classification_bias": False},
        HeadSpec("token-classification", TWO),
    ),
    "tokens with a bias": (
        {"architectures": [TOKEN], "token_classification_bias": True},
        HeadSpec("token-classification", TWO, bias=True),
    ),
}

NAMES = ", ".join(ARCHITECTURES.values())
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another class": (
        {"architectures": ["Exaone4ForMultipleChoice"]},
        f"architectures is ['Exaone4ForMultipleChoice'], and only {NAMES} can be exported; choose a checkpoint of one "
        "of these.",
    ),
    "a gap": (
        {"architectures": [SEQUENCE], "id2label": {"0": "a", "2": "b"}},
        "id2label has 2 entries and no label for 1; number the labels of config.json from 0 on.",
    ),
    "a label that is none": (
        {"architectures": [SEQUENCE], "id2label": {"0": "a", "1": None}},
        "id2label has 2 entries and no label for 1; number the labels of config.json from 0 on.",
    ),
    "a list": (
        {"architectures": [TOKEN], "id2label": ["a", "b"]},
        """id2label is ['a', 'b'], not labels by number ({"0": "…", "1": "…"}); correct config.json.""",
    ),
    "none at all": (
        {"architectures": [TOKEN], "id2label": {}},
        """id2label is {}, not labels by number ({"0": "…", "1": "…"}); correct config.json.""",
    ),
    "another number": (
        {"architectures": [TOKEN], "id2label": {"0": "a", "1": "b"}, "num_labels": 3},
        "num_labels is 3 and id2label has 2 entries; correct config.json, or leave num_labels out.",
    ),
    "no number": (
        {"architectures": [TOKEN], "num_labels": "3"},
        f"num_labels is '3', not an integer from 1 to {MOST_LABELS}; correct config.json.",
    ),
    "a problem that is not known": (
        {"architectures": [SEQUENCE], "problem_type": "ranking"},
        "problem_type is 'ranking', and only regression, single_label_classification, multi_label_classification are "
        "known; correct config.json.",
    ),
    "a bias that is neither": (
        {"architectures": [TOKEN], "token_classification_bias": None},
        "token_classification_bias is None, not true or false; correct config.json.",
    ),
    "hidden states that are neither": (
        {"architectures": ["Exaone4Model"], "output_hidden_states": "yes"},
        "output_hidden_states is 'yes', not true or false; correct config.json.",
    ),
}


def config(changes: dict[str, Any]) -> dict[str, Any]:
    return {**HYBRID, "model_type": "exaone4", **changes}


@pytest.mark.parametrize("name", READ)
def test_a_head_is_read(name: str) -> None:
    changes, wanted = READ[name]
    assert read_head(changes) == wanted
    assert read_spec(config(changes)).head == wanted


@pytest.mark.parametrize("name", REFUSED)
def test_a_head_is_refused_by_what_is_wrong(name: str) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        read_spec(config(changes))
    assert str(caught.value) == message


@pytest.mark.parametrize("name", READ)
def test_what_is_written_is_read_back_and_is_the_same_to_transformers(name: str) -> None:
    found = config(READ[name][0])
    spec = read_spec(found)
    assert read_spec(spec.to_config()) == spec
    assert read_spec(normalize(found)) == spec
    theirs = transformers.Exaone4Config(**spec.to_config())
    assert theirs.architectures == [spec.architecture]
    if spec.head.labels:
        assert theirs.num_labels == len(spec.head.labels)
        assert [theirs.id2label[number] for number in range(theirs.num_labels)] == list(spec.head.labels)
        assert theirs.problem_type == spec.head.problem_type


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_what_transformers_saves_is_read(kind: str, dtype: str, save_model: SaveModel) -> None:
    labels = {"id2label": {0: "no", 1: "perhaps", 2: "yes"}, "problem_type": "multi_label_classification"}
    spec = read_spec_folder(save_model(head=kind, dtype=dtype, **labels))
    assert (spec.head.kind, spec.dtype) == (kind, dtype)
    assert spec.head.labels == (("no", "perhaps", "yes") if kind in CLASSIFICATIONS else ())
    assert spec.head.problem_type == (labels["problem_type"] if kind == "sequence-classification" else None)
    assert spec.head.bias == (kind in ("token-classification", "question-answering"))


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "causal-lm": {"logits": (97,)},
    "hidden-states": {"last_hidden_state": (32,)},
    "sequence-classification": {"logits": (3,)},
    "token-classification": {"logits": (3,)},
    "question-answering": {"start_logits": (), "end_logits": ()},
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_outputs_and_tensors_are_those_of_transformers_model(kind: str) -> None:
    found = choose_head(config({"num_labels": 3}), kind)
    spec = read_spec(found)
    assert spec.output_shapes == SHAPES[kind]
    with torch.device("meta"):
        model = getattr(transformers, ARCHITECTURES[kind])(transformers.Exaone4Config(**spec.to_config()))
    prefix = "" if kind == "hidden-states" else f"{model.base_model_prefix}."
    theirs = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    ours = expected_tensors(spec).items()
    assert {
        prefix + name.removeprefix("model.") if name.startswith("model.") else name: shape for name, shape in ours
    } == theirs
    assert spec.head_size == math.prod(theirs.get(f"{spec.head.module}.weight", (0,))[:1])


def test_hidden_states_are_named_by_the_layer_that_takes_them_in() -> None:
    spec = read_spec(choose_head(config({}), "hidden-states", hidden_states=True))
    assert list(spec.output_shapes) == ["last_hidden_state", *(f"hidden_states.{i}" for i in range(4))]
    assert set(spec.output_shapes.values()) == {(32,)}
    assert list(spec.with_layers([0, 3]).output_shapes)[-1] == "hidden_states.1"


def test_the_bare_model_can_be_chosen_of_every_checkpoint_and_a_head_where_none_is_named() -> None:
    for kind, architecture in ARCHITECTURES.items():
        assert read_head(choose_head({"architectures": [architecture]}, "hidden-states")).kind == "hidden-states"
        assert read_head(choose_head({"architectures": [architecture]})).kind == kind
        for unnamed in ({}, {"architectures": None}, {"architectures": ["Exaone4Model"]}):
            assert read_head(choose_head(unnamed, kind)).kind == kind
    assert read_head(choose_head({})) == HeadSpec()


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        (
            "Exaone4ForCausalLM",
            {"kind": "sequence-classification"},
            "the checkpoint is of Exaone4ForCausalLM, and not of Exaone4ForSequenceClassification; leave --head "
            "sequence-classification out for its own head, or pass --head hidden-states for the last hidden states.",
        ),
        (
            "Exaone4Model",
            {"kind": "rerank"},
            f"head is 'rerank', and only {', '.join(ARCHITECTURES)} are known; pass one of these.",
        ),
        (
            "Exaone4ForCausalLM",
            {"hidden_states": True},
            "the hidden states of all layers are given by the bare model alone; pass --head hidden-states, or leave "
            "--hidden-states out.",
        ),
        ("Exaone4Model", {"kind": "causal-lm", "hidden_states": True}, None),
    ],
)
def test_a_choice_that_does_not_fit_is_refused(architecture: str, options: Any, message: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_head({"architectures": [architecture]}, **options)
    assert message is None or str(caught.value) == message
