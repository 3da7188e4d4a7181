"""``exaone-export parity`` of heads that give no next tokens: what is compared, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from polygraphy.comparator import RunResults

from exaone_export.artifact.reader import Artifact
from exaone_export.cli.main import cli
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.reference import side as sides_of_checkpoints
from exaone_export.exporter.reference.side import transformers_side
from exaone_export.model.heads import ARCHITECTURES, HeadSpec
from exaone_export.runtime.parity.compare import LIMITS, Collected, judge
from tests.conftest import SaveModel

OUTPUTS = {
    "hidden-states": ["last_hidden_state", *(f"hidden_states.{i}" for i in range(4))],
    "sequence-classification": ["logits"],
    "token-classification": ["logits"],
    "question-answering": ["start_logits", "end_logits"],
}
LAYERS = [f"layers.{i}.output" for i in range(4)]
WITH_DISTRIBUTION = ("sequence-classification", "token-classification")

ExportArtifact = Callable[..., Path]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["parity", *map(str, arguments)])


@pytest.fixture
def made(save_model: SaveModel, export_artifact: ExportArtifact) -> Callable[[str], tuple[Path, Path]]:
    """``made(head)``: an artifact, of the bare model with the hidden states of all layers, and its checkpoint."""

    def make(head: str) -> tuple[Path, Path]:
        model = save_model(head=head, num_labels=3)
        inner = {"hidden_states": True} if head == "hidden-states" else {}
        return export_artifact(model, "ort-cpu", 64, "float32", **inner), model

    return make


@pytest.mark.parametrize("head", OUTPUTS)
def test_every_head_passes_at_every_position(
    head: str, made: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    artifact, model = made(head)
    artifact = shutil.copytree(artifact, tmp_path / "artifact")
    folder, lengths = tmp_path / "polygraphy", (1, 30)  # longer than three windows
    given = [word for length in lengths for word in ("--length", str(length))]
    result = run(artifact, model, *given, "--locate", "--record", "--polygraphy", folder, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert [(row["side"], row["prompt_tokens"]) for row in content["rows"]] == [
        (side, length) for side in ("reference", "ort-cpu") for length in lengths
    ]
    for row in content["rows"]:
        assert row["logits"] <= 1e-4
        assert (row["kl"] is not None, row["top1"] is not None) == (head in WITH_DISTRIBUTION,) * 2
        assert (row["new_tokens"], row["first_difference"], row["first_layer"]) == (0, None, None)
    record = Artifact.open(artifact).manifest.parity
    assert record is not None
    assert (record["passed"], record["new_tokens"], record["kl"] is None) == (True, 0, head not in WITH_DISTRIBUTION)
    for side in ("transformers", "reference", "ort-cpu"):
        iterations = RunResults.load(str(folder / f"{side}.json"))[side]
        assert [list(results) for results in iterations] == [[*OUTPUTS[head], *LAYERS]] * 2


@pytest.mark.parametrize("head", OUTPUTS)
def test_the_baseline_is_what_transformers_makes_of_the_files(
    head: str, made: Callable[[str], tuple[Path, Path]]
) -> None:
    import transformers

    _, model = made(head)
    theirs = getattr(transformers, ARCHITECTURES[head]).from_pretrained(model)
    ids = torch.randint(97, (20,), generator=torch.Generator().manual_seed(1))
    ids[[3, -1]] = 0  # the padding token, which is a token like any other here
    inner = head == "hidden-states"
    checkpoint = Checkpoint.open(model, hidden_states=inner)
    with torch.inference_mode(), transformers_side(checkpoint) as side:
        found, layers = side.outputs(ids), side.layers(ids)
        body = theirs.base_model(ids[None], output_hidden_states=True)
        last = body.last_hidden_state[0]
        wanted = {"logits": theirs.score(last)} if head in WITH_DISTRIBUTION else {}
        if head == "question-answering":
            wanted = dict(zip(OUTPUTS[head], theirs.qa_outputs(last).unbind(-1), strict=True))
        elif inner:
            wanted = dict(zip(OUTPUTS[head], (last, *(state[0] for state in body.hidden_states[:-1])), strict=True))
    assert list(found) == OUTPUTS[head]
    for name, output in wanted.items():
        torch.testing.assert_close(found[name], output, rtol=0, atol=0)
    assert [layer.shape for layer in layers] == [(20, 32)] * 4


def test_a_tensor_that_transformers_does_not_take_is_loud(
    made: Callable[[str], tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint.open(made("question-answering")[1])
    expected = sides_of_checkpoints.expected_tensors(checkpoint.spec)
    expected.pop("qa_outputs.bias")
    monkeypatch.setattr(sides_of_checkpoints, "expected_tensors", lambda _: expected)
    with pytest.raises(AssertionError, match=r"Exaone4ForQuestionAnswering has other tensors.*qa_outputs\.bias"):
        transformers_side(checkpoint).__enter__()


@pytest.mark.parametrize(
    ("head", "weight"),
    [
        ("sequence-classification", "score.weight"),
        ("token-classification", "score.bias"),
        ("question-answering", "qa_outputs.bias"),
        ("hidden-states", "norm.weight"),
    ],
)
def test_a_head_that_differs_fails_behind_layers_that_do_not(
    head: str, weight: str, made: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    """Of question answering the end alone differs, which comes second."""
    from safetensors.torch import load_file, save_file

    artifact, model = made(head)
    changed = shutil.copytree(model, tmp_path / "changed")
    state = load_file(changed / "model.safetensors")
    state[weight].view(-1)[-1] += 0.1
    save_file(state, changed / "model.safetensors", {"format": "pt"})
    result = run(artifact, changed, "--length", "9", "--locate", "--json")
    assert result.exit_code == 1
    reference, ours = json.loads(result.stdout)["rows"]
    assert reference["passed"]
    assert (ours["passed"], ours["first_layer"]) == (False, None)
    assert ours["logits"] > 1e-3


def test_what_a_layer_takes_in_is_compared(made: Callable[[str], tuple[Path, Path]]) -> None:
    checkpoint = Checkpoint.open(made("hidden-states")[1], hidden_states=True)
    with torch.inference_mode(), transformers_side(checkpoint) as side:
        baseline = Collected([side.outputs(torch.arange(5))], [[]])
    changed = {name: output.clone() for name, output in baseline.outputs[0].items()}
    changed["hidden_states.0"][2, 7] += 1
    (row,) = judge(
        {"one": baseline, "other": Collected([changed], [[]])}, {"other": LIMITS["float32"]}, checkpoint.spec.head
    ).rows
    assert not row.passed
    assert row.logits == pytest.approx(1 / baseline.outputs[0]["hidden_states.0"].std().item(), rel=1e-4)


def judged(head: HeadSpec, want: torch.Tensor, got: torch.Tensor) -> Any:
    sides = {"one": Collected([{"logits": want}], [[]]), "other": Collected([{"logits": got}], [[]])}
    (row,) = judge(sides, {"other": LIMITS["float16"]}, head).rows
    return row


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (HeadSpec("token-classification", ("A", "B")), True),
        (HeadSpec("sequence-classification", ("A", "B"), "single_label_classification"), True),
        (HeadSpec("sequence-classification", ("A", "B"), "multi_label_classification"), False),
        (HeadSpec("sequence-classification", ("A", "B"), "regression"), False),
    ],
)
def test_a_divergence_is_of_a_distribution(head: HeadSpec, told: bool) -> None:
    want = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    row = judged(head, want, want.flip(1))
    assert not row.passed
    # The difference is 2 and 1 at the two tokens: sigmoid(2) - sigmoid(-2) of 2, and the same of 1.
    divergence = (2 * torch.tensor(1.0).tanh() + 1 * torch.tensor(0.5).tanh()).item() / 2
    assert (row.kl, row.top1) == (pytest.approx(divergence) if told else None, 0.0 if told else None)


def test_one_label_of_one_token_is_a_share_of_itself() -> None:
    """One number has no standard deviation, and a softmax of one label would pass whatever it is."""
    head = HeadSpec("sequence-classification", ("score",))
    row = judged(head, torch.tensor([[-4.0]]), torch.tensor([[-4.1]]))
    assert (row.logits, row.kl, row.passed) == (pytest.approx(0.025), None, True)
    assert not judged(head, torch.tensor([[-4.0]]), torch.tensor([[-4.3]])).passed
    assert not judged(head, torch.tensor([[-4.0]]), torch.tensor([[torch.nan]])).passed


def test_nan_in_a_second_output_fails() -> None:
    start, end = torch.randn(2, 5)
    collected = {
        "one": Collected([{"start_logits": start, "end_logits": end}], [[]]),
        "other": Collected([{"start_logits": start, "end_logits": end * torch.nan}], [[]]),
    }
    assert not judge(collected, {"other": LIMITS["int4"]}, HeadSpec("question-answering", bias=True)).passed


def test_the_table_says_what_is_compared(made: Callable[[str], tuple[Path, Path]]) -> None:
    """Without --tokens nothing is generated, and the prompt may fill the cache."""
    artifact, model = made("hidden-states")
    result = run(artifact, model, "--length", "64")
    assert result.exit_code == 0, result.output
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines()]
    assert ["side", "prompt", "states", "KL", "top-1", "greedy", "layer", "verdict"] in lines
    assert lines[-3][:2] + lines[-3][3:] == ["ort-cpu", "64", "-", "-", "-", "-", "passed"]
    assert result.stdout.splitlines()[-1].startswith("prompt: tokens; states: largest difference")


def test_what_cannot_be_compared_is_one_sentence(
    made: Callable[[str], tuple[Path, Path]], save_model: SaveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exaone_export.runtime.parity.compare.collect", lambda *_, **__: pytest.fail("work was done"))
    artifact, model = made("token-classification")
    words = {
        (model, "--tokens", "8"): (
            "--tokens is 8, and Exaone4ForTokenClassification generates no tokens; leave --tokens out."
        ),
        (model, "--length", "65"): (
            "a prompt of 65 tokens does not fit the 64 tokens that the artifact holds; pass a smaller --length, or a "
            "shorter --prompt."
        ),
        (save_model(),): (
            f"{save_model().name} is a checkpoint of Exaone4ForCausalLM, and the artifact is of "
            f"Exaone4ForTokenClassification; give the checkpoint that the artifact was exported from."
        ),
        (save_model(head="token-classification", num_labels=4),): (
            f"{save_model(head='token-classification', num_labels=4).name} has num_labels 4, and the artifact has 3; "
            f"give the checkpoint that the artifact was exported from."
        ),
    }
    for arguments, sentence in words.items():
        result = run(artifact, *arguments)
        assert result.stderr == f"error: {sentence}\n"
        assert result.exit_code in (1, 2)
