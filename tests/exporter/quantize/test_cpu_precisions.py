"""What the CPU's quantized precisions keep of the tiny checkpoint: its distributions, and its answers."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Exaone4ForCausalLM

from exaone_export.calibration.weight_ranges import round_weight
from exaone_export.exporter.calibrate.run import Options, calibrate
from exaone_export.exporter.export import export
from exaone_export.exporter.quantize import quantized_weights
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from tests.conftest import TINY
from tests.exporter.quantize.test_quantized_export import calibration_lines

Made = Callable[[str], Path]

# Mean divergence from float32 PyTorch, in nats, on held-out lines: about twice what was measured.
KL = {"int8": 3e-3, "int8-weights": 2e-3, "int4": 7e-2, "int4 by gptq": 4e-2, "int4 by gptq, int8 cache": 4e-2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """``made("int4 by gptq")``: an artifact of the tiny checkpoint, made once."""
    folder = tmp_path_factory.mktemp("cpu")
    scales = folder / "int4.safetensors"

    def make(form: str) -> Path:
        out = folder / form
        if out.exists():
            return out
        options: dict[str, Any] = {"precision": form.split()[0]}
        if "gptq" in form:
            if not scales.exists():
                lines = calibration_lines(seed=1, samples=64)
                (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
                given = Options("int4", cache="int8", signed_scales=True)
                calibrate(TINY, scales, data=folder / "data.jsonl", options=given)
            options["calibration"] = scales
        if "cache" in form:
            options["cache_precision"] = "int8"
        with pytest.MonkeyPatch.context() as patch:
            if "to nearest" in form:
                plain = partial(round_weight, search=False, signed_scale=False)
                patch.setattr(quantized_weights, "round_weight", lambda *a, **k: plain(*a, **_without(k)))
            export(TINY, out, target="ort-cpu", max_length=1024, **options)
        return out

    return make


def _without(keywords: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in keywords.items() if name not in ("search", "signed_scale")}


@pytest.fixture(scope="module")
def divergence(made: Made) -> Callable[[str], float]:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    held_out = [
        tokenizer(line["text"], return_tensors="pt").input_ids for line in calibration_lines(seed=99, samples=8)
    ]
    theirs = Exaone4ForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = [theirs(ids).logits[0].log_softmax(-1) for ids in held_out]

    def measure(form: str) -> float:
        total, count = 0.0, 0
        with ExaoneForCausalLM.from_pretrained(made(form), threads=1) as model:
            for ids, want in zip(held_out, wanted, strict=True):
                got = model(ids).logits[0].log_softmax(-1)
                total += (want.exp() * (want - got)).sum().item()
                count += len(want)
        return total / count

    return measure


@pytest.mark.parametrize("form", KL)
def test_the_distributions_stay_near_float32(form: str, divergence: Callable[[str], float]) -> None:
    assert 0 < divergence(form) < KL[form]


def test_gptq_halves_what_rounding_to_nearest_loses(divergence: Callable[[str], float]) -> None:
    """The vocabulary projection included, at the same block size."""
    assert divergence("int4 by gptq") <= 0.5 * divergence("int4 to nearest")


@pytest.mark.parametrize("form", ["int8", "int4 by gptq, int8 cache"])
def test_the_replies_are_the_expected_ones(form: str, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy, in left-padded batches, recall across three windows and more among them."""
    monkeypatch.syspath_prepend(str(TINY / "training"))
    evaluation, tokenizer = importlib.import_module("evaluate"), AutoTokenizer.from_pretrained(TINY)
    with ExaoneForCausalLM.from_pretrained(made(form), threads=1) as model:
        accuracies = evaluation.evaluate(model, tokenizer, 8, ("recall", "far recall", "arithmetic", "tool call"))
    assert min(row["accuracy"] for row in accuracies.values()) >= (1.0 if form == "int8" else 0.97), accuracies


def test_a_quantized_cache_is_a_quarter_as_large(made: Made) -> None:
    with (
        ExaoneForCausalLM.from_pretrained(made("int4 by gptq")) as wide,
        ExaoneForCausalLM.from_pretrained(made("int4 by gptq, int8 cache")) as narrow,
    ):
        assert wide.dtype == torch.float32
        assert narrow.dtype == torch.int8
        # Beams and copies move rows of the cache, whatever they hold.
        ids = torch.arange(5, 60)[None]
        beams = narrow.generate(ids, num_beams=2, max_new_tokens=8, do_sample=False)
        assert beams.shape[1] <= 63
