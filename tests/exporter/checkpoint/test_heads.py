"""Checkpoints of every head: what transformers saves is opened, and a wrong head is refused by what fixes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from exaone_export.errors import CheckpointError
from exaone_export.exporter.checkpoint.checkpoint import WEIGHTS_NAME, Checkpoint
from exaone_export.exporter.checkpoint.tensors import saved_name
from exaone_export.exporter.reference.weights import read_weight
from exaone_export.model.heads import ARCHITECTURES
from exaone_export.model.tensors import HEAD, HEAD_BIAS, expected_tensors, weight_table
from tests.conftest import SaveModel
from tests.exporter.checkpoint.test_prequantized import CASES, SPEC, build

KINDS = tuple(ARCHITECTURES)
Tensors = dict[str, torch.Tensor]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_opened_by_the_names_of_its_causal_model(kind: str, tied: bool, save_model: SaveModel) -> None:
    folder = save_model(head=kind, tie_word_embeddings=tied, num_labels=3)
    checkpoint = Checkpoint.open(folder)
    expected, saved = expected_tensors(checkpoint.spec), load_file(folder / WEIGHTS_NAME)
    assert checkpoint.spec.head.kind == kind
    assert checkpoint.tensors.keys() == expected.keys()
    assert saved.keys() == {saved_name(name, checkpoint.spec.head) for name in expected}
    for name in expected:
        assert torch.equal(checkpoint.read(name), saved[saved_name(name, checkpoint.spec.head)])
    head = [name for name in weight_table(checkpoint.spec) if name in (HEAD, HEAD_BIAS)]
    assert (
        head
        == {
            "causal-lm": [] if tied else [HEAD],
            "hidden-states": [],
            "sequence-classification": [HEAD],
            "token-classification": [HEAD, HEAD_BIAS],
            "question-answering": [HEAD, HEAD_BIAS],
        }[kind]
    )


@pytest.mark.parametrize("kind", ["hidden-states", "question-answering"])
def test_shards_may_have_another_prefix_too(kind: str, save_model: SaveModel, tmp_path: Path) -> None:
    folder = save_model(head=kind)
    getattr(transformers, ARCHITECTURES[kind]).from_pretrained(folder).save_pretrained(tmp_path, max_shard_size="40KB")
    whole, sharded = Checkpoint.open(folder), Checkpoint.open(tmp_path)
    assert len(sharded.shards) > 2
    for name in expected_tensors(whole.spec):
        assert torch.equal(sharded.read(name), whole.read(name))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "hidden-states"])
def test_the_body_of_any_checkpoint_is_a_bare_model(kind: str, tied: bool, save_model: SaveModel) -> None:
    folder = save_model(head=kind, tie_word_embeddings=tied)
    whole, bare = Checkpoint.open(folder), Checkpoint.open(folder, head="hidden-states", hidden_states=True)
    assert bare.tensors.keys() == {name for name in whole.tensors if name.startswith("model.")}
    assert bare.config["architectures"] == ["Exaone4Model"]
    assert bare.config["output_hidden_states"] is True
    assert bare.fingerprint() == whole.fingerprint()  # so that scales of one serve the other


def test_a_tied_bare_model_is_a_language_model_too(save_model: SaveModel) -> None:
    checkpoint = Checkpoint.open(save_model(head="hidden-states", tie_word_embeddings=True), head="causal-lm")
    assert checkpoint.spec.shares_embedding
    assert checkpoint.spec.output_shapes == {"logits": (97,)}


@pytest.mark.parametrize("kind", ["sequence-classification", "token-classification", "question-answering"])
def test_a_head_is_chosen_where_the_config_names_none(kind: str, save_model: SaveModel, tmp_path: Path) -> None:
    folder = copied(save_model(head=kind), tmp_path, lambda config: config.pop("architectures"))
    assert Checkpoint.open(folder, head=kind).spec == Checkpoint.open(save_model(head=kind)).spec


def copied(
    folder: Path,
    out: Path,
    config: Callable[[dict[str, Any]], Any] = lambda _: None,
    tensors: Callable[[Tensors], Any] = lambda _: None,
) -> Path:
    """A copy with another config or other tensors."""
    copy = shutil.copytree(folder, out / "copy")
    found = json.loads((copy / "config.json").read_text())
    config(found)
    (copy / "config.json").write_text(json.dumps(found))
    weights = load_file(copy / WEIGHTS_NAME)
    tensors(weights)
    save_file(weights, copy / WEIGHTS_NAME)
    return copy


def put(name: str, *shape: int) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


def drop(*names: str) -> Callable[[Tensors], Any]:
    return lambda tensors: [tensors.pop(name) for name in names]


def unchanged(_: Any) -> None:
    return None


def also(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: config.update(values)


LAST = "or pass --head hidden-states for the last hidden states."
OUT = "or pass --head hidden-states to leave the head out."
WRONG: dict[str, tuple[str, Callable[[Any], Any], Callable[[Tensors], Any], str | None, str]] = {
    "a classifier as a causal model": (
        "sequence-classification",
        also(architectures=["Exaone4ForCausalLM"]),
        unchanged,
        None,
        "{} has score.weight, the head of another model than Exaone4ForCausalLM; name the class that has it in "
        f"architectures of config.json (Exaone4ForSequenceClassification or Exaone4ForTokenClassification), {OUT}",
    ),
    "a causal model as a classifier": (
        "causal-lm",
        also(architectures=["Exaone4ForSequenceClassification"]),
        unchanged,
        None,
        "{} has lm_head.weight, the head of another model than Exaone4ForSequenceClassification; name the class that "
        f"has it in architectures of config.json (Exaone4ForCausalLM), {OUT}",
    ),
    "no head": (
        "sequence-classification",
        unchanged,
        drop("score.weight"),
        None,
        "{} lacks score.weight, which Exaone4ForSequenceClassification has; give the checkpoint of the whole model, "
        f"{LAST}",
    ),
    "a bare model under a head": (
        "hidden-states",
        unchanged,
        unchanged,
        "question-answering",
        "{} lacks qa_outputs.weight, qa_outputs.bias, which Exaone4ForQuestionAnswering has; give the checkpoint of "
        f"the whole model, {LAST}",
    ),
    "an untied bare model as a causal one": (
        "hidden-states",
        unchanged,
        unchanged,
        "causal-lm",
        "{} lacks lm_head.weight, which Exaone4ForCausalLM has; where the embedding is the vocabulary projection too, "
        f"set tie_word_embeddings to true in config.json, {LAST}",
    ),
    "two heads": (
        "sequence-classification",
        unchanged,
        put("lm_head.weight", 97, 32),
        None,
        "{} has lm_head.weight besides the head of Exaone4ForSequenceClassification; remove the one that is not wanted "
        "from the checkpoint, or pass --head hidden-states to leave both out.",
    ),
    "labels that are not the weight's": (
        "sequence-classification",
        unchanged,
        put("score.weight", 5, 32),
        None,
        "score.weight of {} is for 5 labels, and its config.json gives 2; give id2label of config.json one label for "
        "each output.",
    ),
    "a weight of another body": (
        "sequence-classification",
        unchanged,
        put("score.weight", 2, 31),
        None,
        "{} does not fit its config.json: score.weight [2, 31] in place of [2, 32]; choose the matching config.",
    ),
    "no bias": (
        "token-classification",
        unchanged,
        drop("score.bias"),
        None,
        "{} lacks score.bias, which Exaone4ForTokenClassification has; where it has no bias, set "
        f"token_classification_bias to false in config.json, {LAST}",
    ),
    "a bias of which the config says that there is none": (
        "token-classification",
        also(token_classification_bias=False),
        unchanged,
        None,
        "{} has score.bias, and its Exaone4ForTokenClassification has no bias; set token_classification_bias to true "
        f"in config.json, {OUT}",
    ),
    "a classifier of tokens as one of sequences": (
        "token-classification",
        also(architectures=["Exaone4ForSequenceClassification"]),
        unchanged,
        None,
        "{} has score.bias, and its Exaone4ForSequenceClassification has no bias; if it is a classifier of tokens, "
        f"name Exaone4ForTokenClassification in architectures of config.json, {OUT}",
    ),
    "no bias of answers": (
        "question-answering",
        unchanged,
        drop("qa_outputs.bias"),
        None,
        "{} lacks qa_outputs.bias, which Exaone4ForQuestionAnswering has; give the checkpoint of the whole model, "
        f"{LAST}",
    ),
    "two tensors of one name": (
        "question-answering",
        unchanged,
        put("model.norm.weight", 32),
        None,
        "{} has both model.norm.weight and transformer.norm.weight, which name the same weight; remove one of them.",
    ),
    "a bare model without a norm": (
        "hidden-states",
        unchanged,
        drop("norm.weight"),
        None,
        "{} lacks model.norm.weight, which its config.json calls for; download the checkpoint again, or choose "
        "the matching config.",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_head_is_refused_by_what_fixes_it(name: str, save_model: SaveModel, tmp_path: Path) -> None:
    kind, config, tensors, head, message = WRONG[name]
    folder = copied(save_model(head=kind), tmp_path, config, tensors)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder, head=head)
    assert str(caught.value) == message.format(folder)


@pytest.mark.parametrize("name", ["two heads", "no bias", "labels that are not the weight's"])
def test_the_body_behind_a_wrong_head_can_be_chosen(name: str, save_model: SaveModel, tmp_path: Path) -> None:
    kind, config, tensors, _, _ = WRONG[name]
    folder = copied(save_model(head=kind), tmp_path, config, tensors)
    assert Checkpoint.open(folder, head="hidden-states").spec.head.kind == "hidden-states"


@pytest.mark.parametrize("case", ["gptq", "awq", "fp8, dynamic", "method fp8", "int8 per tensor"])
@pytest.mark.parametrize("kind", ["hidden-states", "token-classification", "question-answering"])
def test_the_layers_may_be_quantized_under_any_head(kind: str, case: str, tmp_path: Path) -> None:
    """The head itself is in floating point, or quantized as the layers are."""
    spec = SPEC.to_config() | {"architectures": [ARCHITECTURES[kind]], "quantization_config": CASES[case].config}
    (tmp_path / "config.json").write_text(json.dumps(spec))
    quantized = tuple(name for name in expected_tensors(SPEC) if name.endswith("_proj.weight"))
    made, tensors = build(case, quantized, 0)
    tensors = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    module = {"token-classification": "score", "question-answering": "qa_outputs"}.get(kind)
    if module is not None:
        tensors |= {f"{module}.weight": torch.randn(2, 32), f"{module}.bias": torch.tensor([0.5, -0.25])}
    prefix = {"hidden-states": "", "question-answering": "transformer."}.get(kind, "model.")
    save_file(
        {name.replace("model.", prefix, 1) if name.startswith("model.") else name: t for name, t in tensors.items()},
        tmp_path / WEIGHTS_NAME,
    )
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.quantization is not None
    assert checkpoint.quantization.unquantized == ()
    for name in quantized:
        assert torch.equal(checkpoint.read_quantized([name]).dequantize(), made[name].value())
    table = weight_table(checkpoint.spec)
    assert (HEAD in table) == (module is not None)
    if module is not None:
        assert torch.equal(read_weight(checkpoint, table[HEAD], torch.float32), tensors[f"{module}.weight"].T)
        assert read_weight(checkpoint, table[HEAD_BIAS], torch.float32).tolist() == [0.5, -0.25]


def test_a_head_that_is_quantized_is_read_as_its_codes_say(tmp_path: Path) -> None:
    config = SPEC.to_config() | {"architectures": ["Exaone4ForSequenceClassification"], "num_labels": 8}
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": CASES["int8 per tensor"].config}))
    layers = tuple(name for name in expected_tensors(SPEC) if name.endswith("_proj.weight"))
    _, causal = build("int8 per tensor", layers, 0)
    tensors = {name: tensor for name, tensor in causal.items() if name != "lm_head.weight"}
    score = CASES["int8 per tensor"].make(8, 32, torch.Generator().manual_seed(1))
    save_file(tensors | {f"score.{name}": tensor for name, tensor in score.tensors.items()}, tmp_path / WEIGHTS_NAME)
    checkpoint = Checkpoint.open(tmp_path)
    assert torch.equal(checkpoint.read("score.weight"), score.value())
