"""The classes of the heads against transformers' of the same names, in float32, whatever the padding and the steps."""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import exaone_export
from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError, PromptError, UnsupportedOptionError
from exaone_export.model.heads import ARCHITECTURES, HIDDEN_STATES, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION
from exaone_export.runtime.mirror.heads import open_model
from tests.conftest import TINY, SaveModel

HEADS = [kind for kind in ARCHITECTURES if kind != "causal-lm"]
TARGETS = ["ort-cpu", "onnx", "tensorrt"]
ROWS, COLUMNS, PAD = 4, 40, 0
# Columns of padding of each row; the prompts are several windows of 8 long, and one row has a single token.
PADDING = [0, 3, 17, 39]
# Steps of a prompt: shorter than the window, and longer; the last one is cut where the target takes 16 tokens at most.
CHUNKS = [5, 11, 64]


def ours_of(kind: str) -> Any:
    return getattr(exaone_export, ARCHITECTURES[kind].replace("Exaone4", "Exaone"))


@pytest.fixture(scope="module")
def checkpoints(save_model: SaveModel) -> dict[str, Path]:
    return {kind: save_model(head=kind, num_labels=3) for kind in HEADS}


@pytest.fixture(scope="module")
def theirs(checkpoints: dict[str, Path]) -> dict[str, Any]:
    return {
        kind: getattr(transformers, ARCHITECTURES[kind]).from_pretrained(checkpoints[kind]).eval() for kind in HEADS
    }


@pytest.fixture(scope="module")
def artifacts(checkpoints: dict[str, Path], export_artifact: Callable[..., Path]) -> Callable[[str, str], Path]:
    def export(kind: str, target: str) -> Path:
        more = {"hidden_states": True} if kind == HIDDEN_STATES else {}
        return export_artifact(checkpoints[kind], target, 64, "float32", **more)

    return export


@pytest.fixture(scope="module", params=HEADS)
def pair(
    request: pytest.FixtureRequest, artifacts: Callable[[str, str], Path], theirs: dict[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """A head, and its model here and in transformers."""
    with ours_of(request.param).from_pretrained(artifacts(request.param, "ort-cpu"), threads=1) as model:
        yield request.param, model, theirs[request.param]


@pytest.fixture(scope="module")
def classifier(artifacts: Callable[[str, str], Path]) -> Iterator[Any]:
    path = artifacts(SEQUENCE_CLASSIFICATION, "ort-cpu")
    with exaone_export.ExaoneForSequenceClassification.from_pretrained(path, threads=1) as model:
        yield model


def tokens(rows: int = ROWS, columns: int = COLUMNS, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 97, (rows, columns), generator=torch.Generator().manual_seed(seed))


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, rows padded on the left, on the right, in turn on either, or not."""
    ids = tokens()
    mask = torch.ones_like(ids)
    for row, pad in enumerate(PADDING if side != "no" else [0] * ROWS):
        if side == "left" or (side == "either" and row % 2):
            mask[row, :pad] = 0
        elif pad:
            mask[row, -pad:] = 0
    return ids.masked_fill(mask == 0, PAD), mask


def run(model: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    with torch.no_grad():
        return {
            name: value for name, value in model(*args, **kwargs).items() if name not in ("cache", "past_key_values")
        }


def compare(kind: str, found: dict[str, Any], wanted: dict[str, Any], mask: torch.Tensor) -> None:
    """Within 1e-4 of the standard deviation wherever there is a token, and zero elsewhere."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        pairs = zip(value, found[name], strict=True) if isinstance(value, tuple) else [(value, found[name])]
        for want, got in pairs:
            assert want.shape == got.shape and got.dtype == torch.float32
            if kind != SEQUENCE_CLASSIFICATION:
                assert not got[mask == 0].any()
                want, got = want[mask == 1], got[mask == 1]
            assert (got - want).abs().max() <= 1e-4 * want.std()


@pytest.fixture(scope="module", params=[(kind, target) for kind in HEADS for target in TARGETS], ids="-".join)
def opened(request: pytest.FixtureRequest, artifacts: Callable[[str, str], Path]) -> Iterator[tuple[str, Any]]:
    """A head, and its model of a target."""
    kind, target = request.param
    with ours_of(kind).from_pretrained(artifacts(kind, target), threads=1) as model:
        yield kind, model


@pytest.fixture(scope="module")
def wanted_of(theirs: dict[str, Any]) -> Callable[[str, str], dict[str, Any]]:
    """What transformers gives for a head and a side of padding."""

    @functools.cache
    def wanted(kind: str, side: str) -> dict[str, Any]:
        ids, mask = padded(side)
        inner = {"output_hidden_states": True} if kind == HIDDEN_STATES else {}
        return run(theirs[kind], ids, attention_mask=mask, **inner)

    return wanted


@pytest.mark.parametrize("side", ["left", "right", "either"])  # a row of each has none
def test_a_padded_batch_in_steps(
    side: str, opened: tuple[str, Any], wanted_of: Callable[[str, str], dict[str, Any]]
) -> None:
    kind, model = opened
    ids, mask = padded(side)
    for chunk in CHUNKS:
        model.prefill_chunk_size = chunk
        compare(kind, run(model, ids, attention_mask=mask), wanted_of(kind, side), mask)


def test_a_shared_beginning_is_run_once(pair: tuple[str, Any, Any]) -> None:
    """As a reranker does: one query, many documents."""

    def behind(value: Any) -> Any:
        return tuple(map(behind, value)) if isinstance(value, tuple) else value[:, 20:]

    kind, model, other = pair
    query, documents = tokens(1, 20), tokens(3, 9, seed=1)
    prefix = model.new_cache()
    model(query, cache=prefix)
    for document in documents.split(1):
        found = run(model, document, cache=copy.deepcopy(prefix))
        inner = {"output_hidden_states": True} if kind == HIDDEN_STATES else {}
        whole = run(other, torch.cat((query, document), 1), **inner)
        if kind != SEQUENCE_CLASSIFICATION:
            whole = {name: behind(value) for name, value in whole.items()}
        compare(kind, found, whole, torch.ones(1, 9))


def test_a_tuple(pair: tuple[str, Any, Any]) -> None:
    kind, model, _ = pair
    whole = model(tokens(2, 5), use_cache=False)
    parts = model(tokens(2, 5), use_cache=False, return_dict=False)
    assert len(parts) == len(whole.to_tuple()) == {HIDDEN_STATES: 2, QUESTION_ANSWERING: 2}.get(kind, 1)
    assert torch.equal(parts[0], whole[0])


def test_positions_and_types_of_tokens(pair: tuple[str, Any, Any]) -> None:
    """What a tokenizer or transformers may hand over beside the mask changes nothing."""
    _, model, _ = pair
    ids, mask = padded("right")
    plain = model(ids, attention_mask=mask)[0]
    positions = torch.arange(COLUMNS)[None]
    assert torch.equal(model(ids, attention_mask=mask, position_ids=positions)[0], plain)
    assert torch.equal(model(ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids))[0], plain)
    with pytest.raises(UnsupportedOptionError, match="position_ids must count a row's tokens one by one"):
        model(ids, attention_mask=mask, position_ids=positions * 2)


@pytest.mark.parametrize("name", ["inputs_embeds", "output_attentions", "something"])
def test_refused_by_name(name: str, pair: tuple[str, Any, Any]) -> None:
    with pytest.raises(UnsupportedOptionError, match=rf"^{name} is not "):
        pair[1](tokens(1, 3), **{name: torch.ones(1)})


def test_a_loss_is_refused(pair: tuple[str, Any, Any]) -> None:
    kind, model, _ = pair
    name = {QUESTION_ANSWERING: "start_positions", HIDDEN_STATES: "labels"}.get(kind, "labels")
    with pytest.raises(UnsupportedOptionError, match=rf"^{name} is not "):
        model(tokens(1, 3), **{name: torch.ones(1)})


def test_padding_that_no_row_has(pair: tuple[str, Any, Any]) -> None:
    model, ids, mask = pair[1], tokens(2, 6), torch.ones(2, 6, dtype=torch.int64)
    mask[1, 2] = 0
    with pytest.raises(PromptError, match="has a 0 behind a 1"):
        model(ids, attention_mask=mask)
    mask[1] = 0
    with pytest.raises(PromptError, match=r"row 1 of the batch (holds no token|is padded)"):
        model(ids, attention_mask=mask)
    with pytest.raises(PromptError, match="come to 65 tokens, and the artifact holds 64"):
        model(tokens(1, 65))


def test_hidden_states_are_given_as_the_artifact_and_the_call_say(
    checkpoints: dict[str, Path], artifacts: Callable[[str, str], Path], export_artifact: Callable[..., Path]
) -> None:
    ids = tokens(1, 5)
    with exaone_export.ExaoneModel.from_pretrained(artifacts(HIDDEN_STATES, "ort-cpu"), threads=1) as model:
        assert model(ids, output_hidden_states=False).hidden_states is None
        # transformers' last entry is the normed output of the last layer.
        assert torch.equal(model(ids).hidden_states[-1], model(ids).last_hidden_state)
    last_alone = export_artifact(checkpoints[HIDDEN_STATES], "ort-cpu", 64, "float32")
    with exaone_export.ExaoneModel.from_pretrained(last_alone, threads=1) as model:
        assert model(ids).hidden_states is None
        with pytest.raises(UnsupportedOptionError, match="export the model with --hidden-states"):
            model(ids, output_hidden_states=True)


# The token that decides a classification


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "unmasked"])
@pytest.mark.parametrize("ends", [[], [PAD], [PAD, PAD, PAD]], ids=len)
def test_the_last_token_that_is_not_the_padding_decides(
    masked: bool, ends: list[int], classifier: Any, theirs: dict[str, Any]
) -> None:
    """Also where the padding token ends a text, as an eos token may, and where a mask counts it."""
    ids = torch.cat((tokens(1, 12), torch.tensor([ends], dtype=torch.int64)), 1)
    mask = torch.ones_like(ids) if masked else None
    wanted = run(theirs[SEQUENCE_CLASSIFICATION], ids, attention_mask=mask)
    compare(SEQUENCE_CLASSIFICATION, run(classifier, ids, attention_mask=mask), wanted, torch.ones_like(ids))
    alone = run(theirs[SEQUENCE_CLASSIFICATION], ids[:, :12])
    compare(SEQUENCE_CLASSIFICATION, alone, wanted, torch.ones_like(ids))


def test_a_row_of_padding_alone(classifier: Any, theirs: dict[str, Any]) -> None:
    ids = torch.full((1, 4), PAD)
    wanted = run(theirs[SEQUENCE_CLASSIFICATION], ids)
    compare(SEQUENCE_CLASSIFICATION, run(classifier, ids), wanted, torch.ones_like(ids))


def test_padding_with_another_token(classifier: Any) -> None:
    ids, mask = tokens(2, 6), torch.ones(2, 6, dtype=torch.int64)
    mask[1, 4:] = 0
    with pytest.raises(
        PromptError, match=r"row 1 of the batch is padded with other tokens than 0, the model's pad_tok"
    ):
        classifier(ids, attention_mask=mask)


def test_a_row_of_padding_beside_others(classifier: Any) -> None:
    ids, mask = tokens(2, 6), torch.ones(2, 6, dtype=torch.int64)
    ids[1], mask[1, :4] = PAD, 0
    with pytest.raises(PromptError, match="row 1 of the batch holds only padding tokens; give every row another"):
        classifier(ids, attention_mask=mask)


def test_no_padding_token(classifier: Any, theirs: dict[str, Any]) -> None:
    other, ids = theirs[SEQUENCE_CLASSIFICATION], tokens(2, 6)
    try:
        classifier.config.pad_token_id = other.config.pad_token_id = None
        compare(SEQUENCE_CLASSIFICATION, run(classifier, ids[:1]), run(other, ids[:1]), torch.ones(1, 6))
        with pytest.raises(PromptError, match=r"the batch has 2 rows, and the model has no pad_token_id"):
            classifier(ids)
    finally:
        classifier.config.pad_token_id = other.config.pad_token_id = PAD


# Opening


def test_the_class_of_another_head_is_refused(
    artifacts: Callable[[str, str], Path], random_hybrid: Path, export_artifact: Callable[..., Path]
) -> None:
    with pytest.raises(
        ArtifactError, match=r"holds an Exaone4Model, and ExaoneForCausalLM runs an Exaone4ForCausalLM; "
    ):
        exaone_export.ExaoneForCausalLM.from_pretrained(artifacts(HIDDEN_STATES, "ort-cpu"))
    with pytest.raises(
        ArtifactError, match=r"runs an Exaone4Model; open it with ExaoneForCausalLM, or run: exaone-exp"
    ):
        exaone_export.ExaoneModel.from_pretrained(export_artifact(random_hybrid, "ort-cpu"))


@pytest.mark.parametrize("kind", HEADS)
def test_the_class_is_found_by_the_artifact(kind: str, artifacts: Callable[[str, str], Path]) -> None:
    with open_model(Artifact.open(artifacts(kind, "ort-cpu")), threads=1) as model:
        assert type(model) is ours_of(kind) and not model.can_generate()


# Pipelines


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """A checkpoint of a head with the tiny checkpoint's words, and its tokenizer."""

    def save(kind: str) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp("texts")
        torch.manual_seed(0)
        config = transformers.Exaone4Config.from_pretrained(TINY, num_labels=3)
        getattr(transformers, ARCHITECTURES[kind])(config).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(TINY / name, folder)
        return folder, transformers.AutoTokenizer.from_pretrained(folder)

    return save


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("sequence-classification", "text-classification"),
        ("token-classification", "token-classification"),
        ("hidden-states", "feature-extraction"),
    ],
)
def test_pipelines(
    kind: str,
    task: str,
    texts: Callable[[str], tuple[Path, Any]],
    export_artifact: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, tokenizer = texts(kind)
    words = ["Where is Mina?", "What is the weather in Seoul? It is 21 degrees in Seoul.", "Hi!"]
    other = getattr(transformers, ARCHITECTURES[kind]).from_pretrained(folder).eval()
    # transformers' own handling of padding in a batch of features leaves it in; one text at a time has none.
    batch = 1 if kind == "hidden-states" else 3
    with ours_of(kind).from_pretrained(export_artifact(folder, "ort-cpu", 64), threads=1) as model:
        wanted, found = (
            transformers.pipeline(task, model=each, tokenizer=tokenizer)(words, batch_size=batch)
            for each in (other, model)
        )
    _equal(found, wanted)
    assert "is not supported for" not in capsys.readouterr().err


def _equal(found: Any, wanted: Any) -> None:
    if isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            _equal(one, other)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            _equal(found[name], value)
    else:
        assert found == (pytest.approx(wanted, abs=1e-4) if isinstance(wanted, float | np.floating) else wanted)
