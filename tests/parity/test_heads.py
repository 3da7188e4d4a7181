"""Every head against transformers' class, at every position: the reference model, and the graphs of each CPU target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.reference.model import Reference
from exaone_export.exporter.reference.weights import load_reference
from exaone_export.model.heads import ARCHITECTURES
from exaone_export.targets.cache_layout import CacheLayout
from tests.conftest import SaveModel
from tests.parity.test_random_configurations import CONFIGURATIONS, describe

# Window 1, untied; window 16, tied; window 3, heads of 128; window 50, tied; no window.
CASES = [
    ("token-classification", {"num_labels": 5}, CONFIGURATIONS[0]),
    ("sequence-classification", {"num_labels": 1}, CONFIGURATIONS[6]),
    ("question-answering", {}, CONFIGURATIONS[9]),
    ("hidden-states", {}, CONFIGURATIONS[13]),
    ("token-classification", {"num_labels": 3, "token_classification_bias": False}, CONFIGURATIONS[18]),
]
LENGTHS, FIRST, TOTAL = (60, 45), 37, 60
LIMIT = 1e-4

Outputs = dict[str, torch.Tensor]


def _tokens(length: int) -> torch.Tensor:
    return torch.randint(3, 97, (length,), generator=torch.Generator().manual_seed(length))


def _wanted(folder: Path, kind: str, ids: torch.Tensor) -> Outputs:
    """What transformers gives at every position, ``[S, …]`` by the names of the graph's outputs."""
    model = getattr(transformers, ARCHITECTURES[kind]).from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        body = model if kind == "hidden-states" else model.base_model
        found = body(ids[None], output_hidden_states=True)
        last = found.last_hidden_state[0]
        if kind == "hidden-states":
            inner = {f"hidden_states.{i}": states[0] for i, states in enumerate(found.hidden_states[:-1])}
            return {"last_hidden_state": last, **inner}
        whole = model(ids[None])
        if kind == "question-answering":
            return {"start_logits": whole.start_logits[0], "end_logits": whole.end_logits[0]}
        logits = model.score(last)
        assert torch.equal(whole.logits[0], logits[-1] if kind == "sequence-classification" else logits)
        return {"logits": logits}


def _steps() -> Iterator[dict[str, torch.Tensor]]:
    """Two chunks of a prompt of 60 tokens and, padded behind, one of 45; every position of each is asked for."""
    for start, end in ((0, FIRST), (FIRST, TOTAL)):
        ids, positions = torch.zeros(2, end - start, dtype=torch.int64), torch.full((2, end - start), -1)
        mask = torch.zeros(2, end, dtype=torch.int64)
        for row, length in enumerate(LENGTHS):
            stop = min(end, length)
            ids[row, : stop - start] = _tokens(length)[start:stop]
            positions[row, : stop - start] = torch.arange(start, stop)
            mask[row, :stop] = 1
        keep = torch.arange(end - start - 1, -1, -1)
        yield {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "logits_to_keep": keep}


def _by_row(names: list[str], steps: list[list[Any]]) -> list[Outputs]:
    """The outputs of both steps, ``[B, K, …]`` each, as those of each row's own positions."""
    rows = []
    for row, length in enumerate(LENGTHS):
        found = {}
        for index, name in enumerate(names):
            first, second = (torch.as_tensor(step[index])[row] for step in steps)
            # Positions are counted back from a row's last token: those of the shorter row stand at the end.
            found[name] = torch.cat([first, second[FIRST - length :]])
        rows.append(found)
    return rows


def _check(found: Outputs, wanted: Outputs) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        assert (found[name] - value).abs().max() <= LIMIT * value.std(), name


def _model(case: tuple[str, dict[str, Any], dict[str, Any]], save_model: SaveModel) -> Path:
    kind, more, config = case
    return save_model(seed=1, head=kind, **more, **config)


def describe_case(case: tuple[str, dict[str, Any], dict[str, Any]]) -> str:
    return f"{case[0]}-{describe(case[2])}"


@pytest.mark.parametrize("case", CASES, ids=describe_case)
def test_the_reference_model_gives_what_transformers_gives(case: Any, save_model: SaveModel) -> None:
    folder = _model(case, save_model)
    checkpoint = Checkpoint.open(folder)
    model = load_reference(checkpoint, CacheLayout.plan(checkpoint.spec.layers, 64, 0))
    cache, steps = model.empty_cache(2), []
    with torch.inference_mode():
        for inputs in _steps():
            outputs, cache = model(*inputs.values(), cache)
            steps.append(outputs)
    for found, length in zip(_by_row(list(checkpoint.spec.head.outputs), steps), LENGTHS, strict=True):
        wanted = _wanted(folder, case[0], _tokens(length))
        _check(found, {name: wanted[name] for name in found})


@pytest.mark.parametrize("case", CASES, ids=describe_case)
def test_the_head_is_in_float32_under_half_precision(case: Any, save_model: SaveModel) -> None:
    spec = Checkpoint.open(_model(case, save_model)).spec
    model = Reference(spec, CacheLayout.plan(spec.layers, 64, 0), torch.float16)
    assert {parameter.dtype for name, parameter in model.named_parameters() if name.startswith("head.")} <= {
        torch.float32
    }
    outputs, cache = model(*next(_steps()).values(), model.empty_cache(2))
    assert {output.dtype for output in outputs} == {torch.float32}
    assert {tensor.dtype for pair in cache for tensor in pair} == {torch.float16}


@pytest.mark.parametrize("target", ["onnx", "ort-cpu", "tensorrt-rtx"])
@pytest.mark.parametrize("case", CASES, ids=describe_case)
def test_the_graph_gives_what_transformers_gives(
    case: Any, target: str, save_model: SaveModel, export_artifact: Callable[..., Path]
) -> None:
    folder = _model(case, save_model)
    options: dict[str, Any] = {"hidden_states": True} if case[0] == "hidden-states" else {}
    # Room for the longest prompt, so that nobody has to evict between the two steps.
    options |= {"prefill_chunk": 64} if target == "tensorrt-rtx" else {}
    artifact = export_artifact(folder, target, 64, "float32", **options)
    session = onnxruntime.InferenceSession(artifact / "model.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    heads = [name for name in names if not name.startswith("present.")]
    caches = {
        value.name: np.zeros((2, *value.shape[1:]), np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past_key_values.")
    }
    steps = []
    for inputs in _steps():
        result = dict(zip(names, session.run(names, {k: v.numpy() for k, v in inputs.items()} | caches), strict=True))
        steps.append([result[name] for name in heads])
        caches = {name: result[name.replace("past_key_values.", "present.")] for name in caches}
    for found, length in zip(_by_row(heads, steps), LENGTHS, strict=True):
        _check(found, _wanted(folder, case[0], _tokens(length)))
