"""Calibration under other heads: the body's scales are those of the causal model, and no head is rounded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from exaone_export.errors import CalibrationError
from exaone_export.exporter.calibrate.run import Options, calibrate
from exaone_export.exporter.export import plan_export
from tests.cli.test_cli import run
from tests.conftest import SaveModel
from tests.exporter.calibrate.calibration_models import TEXTS, make_chatter, write_lines


def scales_of(model: Path, out: Path, data: Path, options: Options) -> Path:
    calibrate(model, out, data=data, options=options)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "data.jsonl", *TEXTS)


@pytest.fixture(scope="module")
def causal(save_model: SaveModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chatter(save_model, tmp_path_factory.mktemp("chatter") / "model")


@pytest.fixture(scope="module")
def classifier(save_model: SaveModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chatter(save_model, tmp_path_factory.mktemp("classifier") / "model", head="sequence-classification")


@pytest.fixture(scope="module")
def rounded(causal: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the causal model for int4, its vocabulary projection included."""
    return scales_of(causal, tmp_path_factory.mktemp("scales") / "causal", data, Options("int4"))


def test_scales_of_a_causal_model_serve_its_body(causal: Path, rounded: Path) -> None:
    options = {"precision": "int4", "calibration": rounded, "max_length": 64}
    plans = [plan_export(causal, **options), plan_export(causal, head="hidden-states", **options)]
    assert all(plan.scales is not None for plan in plans)
    assert [plan.checkpoint.spec.head.kind for plan in plans] == ["causal-lm", "hidden-states"]


def test_a_body_is_calibrated_as_its_causal_model_without_the_head(
    causal: Path, rounded: Path, data: Path, tmp_path: Path
) -> None:
    bare = scales_of(causal, tmp_path / "bare", data, Options("int4", head="hidden-states"))
    ours, theirs = load_file(bare), load_file(rounded)
    assert theirs.keys() - ours.keys() == {"head.values", "head.scale"}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    with pytest.raises(CalibrationError) as caught:
        plan_export(causal, precision="int4", calibration=bare, max_length=64)
    assert str(caught.value) == (
        f"{bare} lacks the values of the vocabulary projection; make it again with: exaone-export calibrate MODEL OUT "
        "--data FILE.jsonl."
    )


def test_no_head_of_a_classifier_is_rounded(classifier: Path, data: Path, tmp_path: Path) -> None:
    scales = scales_of(classifier, tmp_path / "scales", data, Options("int4"))
    with safe_open(scales, framework="pt") as file:
        assert not [name for name in file.keys() if name.startswith("head")]  # noqa: SIM118
    assert plan_export(classifier, precision="int4", calibration=scales, max_length=64).scales is not None


def test_a_sensitivity_by_next_tokens_needs_a_causal_model(classifier: Path, data: Path, tmp_path: Path) -> None:
    options = ("--precision", "int4", "--keep-layers", "30%", "--sensitivity", "kl")
    done = run("calibrate", classifier, tmp_path / "scales", "--data", data, *options)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == (
        "error: sensitivity kl compares next tokens, and Exaone4ForSequenceClassification gives none; pass "
        "--sensitivity error."
    )
    assert not list(tmp_path.iterdir())


def test_layers_of_a_classifier_are_kept_by_their_error(classifier: Path, data: Path, tmp_path: Path) -> None:
    options = Options("int4", weights="nearest", keep_layers="30%")
    scales = scales_of(classifier, tmp_path / "scales", data, options)
    plan = plan_export(classifier, precision="int4", calibration=scales, max_length=64)
    assert plan.recipe.kept
