"""A second graph for prompts: what an export with ``--prefill-precision`` writes beside the graph for answers."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from exaone_export.artifact.manifest import MANIFEST_NAME, read_manifest
from exaone_export.artifact.prefill import PREFILL_NAME
from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ConfigError, ExaoneExportError, TargetError
from exaone_export.exporter.calibrate.run import Options, calibrate
from exaone_export.exporter.export import export
from exaone_export.exporter.plan.deployment import read_deployment
from exaone_export.exporter.write import data_file
from exaone_export.planning.memory_plan import MemoryPlan
from exaone_export.planning.stored_tensors import INLINE_BYTES, data_file_bytes
from exaone_export.runtime.core.buffers import CacheBuffers
from exaone_export.runtime.core.steps import Step
from exaone_export.runtime.sessions.opening import open_session
from tests.conftest import TINY, SaveModel
from tests.exporter.calibrate.calibration_models import LINES, make_chatter, write_lines

BOTH: dict[str, Any] = {"precision": "int4", "prefill_precision": "int8"}
LAYERS = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}


@pytest.fixture(scope="module")
def folders(export_artifact: Callable[..., Path]) -> dict[str, Path]:
    made = {name: export_artifact(TINY, "ort-cpu", precision=name) for name in ("int4", "int8")}
    return made | {"both": export_artifact(TINY, "ort-cpu", **BOTH)}


def places(folder: Path, name: str) -> dict[str, tuple[int, int]]:
    found = {}
    for tensor in onnx.load(folder / name, load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            assert entries["location"] == "model.onnx.data"
            found[tensor.name] = (int(entries.get("offset", 0)), int(entries["length"]))
    return found


def caches(folder: Path, widths: tuple[int, ...]) -> list[np.ndarray]:
    """What the caches hold behind steps of these widths."""
    with open_session(Artifact.open(folder), threads=1) as session:
        buffers, held = CacheBuffers(session.geometry, 1), 0
        for tensor in buffers.tensors:
            tensor[:] = 0
        tokens = np.random.default_rng(0).integers(3, session.vocab_size, (1, sum(widths)))
        for width in widths:
            session.step(Step(tokens[:, held : held + width], [held], [width]), buffers)
            held += width
        return [tensor.copy() for tensor in buffers.tensors]


def test_the_graph_for_answers_is_the_one_that_stands_alone(folders: dict[str, Path]) -> None:
    alone, both = folders["int4"], folders["both"]
    for path in alone.iterdir():
        if path.name not in (MANIFEST_NAME, "model.onnx.data"):
            assert path.read_bytes() == (both / path.name).read_bytes(), path.name
    data = (alone / "model.onnx.data").read_bytes()
    assert (both / "model.onnx.data").read_bytes()[: len(data)] == data
    assert b'"prefill"' not in (alone / MANIFEST_NAME).read_bytes()
    own, shared = (read_manifest(folder) for folder in (alone, both))
    for field in ("precision", "recipe", "layers", "cache", "inputs", "outputs", "model"):
        assert getattr(own, field) == getattr(shared, field)


def test_every_weight_is_stored_once_and_as_planned(folders: dict[str, Path]) -> None:
    own, other = (places(folders["both"], name) for name in ("model.onnx", PREFILL_NAME))
    shared = {name for name in own.keys() & other.keys() if own[name] == other[name]}
    assert {"body.embedding.quantized", "head.weight.quantized", "head.weight.scale"} <= shared
    assert not any(".quantized" in name and name.startswith("layers.") for name in shared)
    taken = sorted({*own.values(), *other.values()})
    assert all(start + length <= after for (start, length), (after, _) in itertools.pairwise(taken))
    deployment = read_deployment(TINY, max_length=256, **BOTH)
    planned = [tensor.num_bytes for tensor in deployment.tensors if tensor.num_bytes > INLINE_BYTES]
    assert sorted(length for _, length in taken) == sorted(planned)
    size = (folders["both"] / "model.onnx.data").stat().st_size
    assert sum(planned) <= size <= data_file_bytes(iter(deployment.tensors))
    plan, without = MemoryPlan.of(deployment), MemoryPlan.of(read_deployment(TINY, max_length=256, precision="int4"))
    assert plan.without_prefill() == without
    assert plan.run_peak > without.run_peak and plan.to_dict()["prefill"]["peak_run_without"] == without.run_peak
    assert "prefill" not in without.to_dict()


def test_prompts_leave_what_the_precision_leaves_alone(folders: dict[str, Path]) -> None:
    """Bit for bit, past the windows; a step below the threshold is the other graph's."""
    wanted, found = (caches(folders[name], (40, 17, 16)) for name in ("int8", "both"))
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(one, other)
    wanted, found = (caches(folders[name], (15, 1)) for name in ("int4", "both"))
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_smoothing_and_layers_that_are_kept_are_both_graphs(save_model: SaveModel, tmp_path: Path) -> None:
    """Smoothing changes the values that are cached, so a prompt's must be as an answer expects them."""
    model = make_chatter(save_model, tmp_path / "model")
    data = write_lines(tmp_path / "data.jsonl", *LINES)
    calibrate(model, tmp_path / "scales", data=data, options=Options("int4", weights="awq", keep_layers="25%"))
    export(model, tmp_path / "out", max_length=128, calibration=tmp_path / "scales", **BOTH)
    manifest = read_manifest(tmp_path / "out")
    assert manifest.recipe["smoothed"] and manifest.prefill is not None
    assert manifest.prefill["recipe"]["smoothed"] == manifest.recipe["smoothed"]
    floats = {layer for layer, kept in manifest.recipe["kept"].items() if kept == "float"}
    assert {*manifest.prefill["recipe"]["kept"]} == floats
    prompts, answers = caches(tmp_path / "out", (40,)), caches(tmp_path / "out", (20, 20))
    for one, other in zip(prompts, answers, strict=True):
        # The same up to rounding; values that were divided by other factors would be far off.
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_file, "_SYNC_BYTES", 1)
    monkeypatch.setattr(data_file, "export_workers", lambda: 1)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("slowly")
def test_an_interrupted_export_goes_on(save_model: SaveModel, tmp_path: Path) -> None:
    """From anywhere, and from nothing where the second graph was damaged meanwhile."""
    model = save_model(**LAYERS, hidden_size=64, intermediate_size=64)
    out, options = tmp_path / "out", {"max_length": 64, **BOTH}
    export(model, tmp_path / "undisturbed", **options)
    undisturbed = content(tmp_path / "undisturbed")
    written: list[int] = []
    for stop in (2, 8, 14):
        for damaged in (False, True):
            reports = iter(range(100))

            def told(name: str, *_: int, stop: int = stop, reports: Iterator[int] = reports) -> None:
                if name == "write" and next(reports) == stop:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                export(model, out, progress=told, **options)
            staging = next(tmp_path.glob(".*.staging"))
            if damaged:
                data = bytearray((staging / PREFILL_NAME).read_bytes())
                data[-1] ^= 1
                (staging / PREFILL_NAME).write_bytes(data)
            notices: list[str] = []
            export(model, out, notice=notices.append, **options)
            assert content(out) == undisturbed
            assert any("discarded" in notice for notice in notices) == damaged
            written += [int(n.split()[2]) for n in notices if n.startswith("continuing")]
            shutil.rmtree(out)
    assert written == sorted(written) and len({*written}) == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precision": "int8"}, TargetError, "gains nothing by a graph for prompts in int8; leave"),
        ({"precision": "float32"}, TargetError, "choose --precision from: int4, int8-weights"),
        ({"target": "ort-cuda"}, TargetError, "has no graph of its own for prompts; leave --prefill-precision out, or"),
        ({"prefill_precision": "fp8"}, TargetError, "choose --prefill-precision from: int8"),
        ({"prefill_precision": None, "prefill_threshold": 9}, ConfigError, "pass --prefill-precision int8 too"),
        ({"prefill_threshold": 1}, ConfigError, "it must be at least 2 tokens"),
        ({"head": "hidden-states"}, ConfigError, "Exaone4Model gives none; leave --prefill-precision out"),
    ],
)
def test_what_has_no_second_graph_is_refused(
    options: dict[str, Any], error: type[ExaoneExportError], message: str, tmp_path: Path
) -> None:
    for ask in (
        lambda **asked: export(TINY, tmp_path / "out", **asked),
        lambda **asked: read_deployment(TINY, **asked),
    ):
        with pytest.raises(error) as raised:
            ask(**{**BOTH, **options})
        assert message in str(raised.value)
    assert not (tmp_path / "out").exists()
