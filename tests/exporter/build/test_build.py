"""Engines: what is built, what is refused, and that nothing half-built is left. TensorRT-RTX builds without a GPU."""

from __future__ import annotations

import _thread
import ctypes
import json
import re
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import tensorrt_rtx
import torch

from exaone_export.artifact.reader import ENGINE_NAME, MODEL_NAME, Artifact
from exaone_export.artifact.writer import ArtifactWriter
from exaone_export.errors import (
    ArtifactError,
    ArtifactReplacedError,
    GraphContradictionError,
    MissingExtraError,
    TargetError,
    UnsupportedOptionError,
)
from exaone_export.exporter.build import engine as engine_module
from exaone_export.exporter.build import gpu, plugins
from exaone_export.exporter.build import plan as plan_module
from exaone_export.exporter.build.engine import build_engine, parse_and_check
from exaone_export.exporter.build.gpu import Gpu, current_gpu
from exaone_export.exporter.build.layer_report import LAYERS_NAME, layers_of_engine
from exaone_export.exporter.build.messages import make_logger
from exaone_export.exporter.build.monitor import make_monitor, run_monitored
from exaone_export.exporter.build.network.native_layers import NativeLayers, check_plugin_layers, read_native_layers
from exaone_export.exporter.build.network.wiring import NetworkLayer, Wiring
from exaone_export.exporter.build.options import BuildOptions
from exaone_export.exporter.build.plan import plan_build
from exaone_export.exporter.build.profiles import plan_profiles
from exaone_export.exporter.build.timing_cache import timing_cache
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.targets.cache_layout import CacheLayout, LayerCache
from exaone_export.targets.engine import Range
from exaone_export.targets.flavour import FLAVOURS
from exaone_export.targets.target import get_target
from tests.cli.test_cli import run
from tests.conftest import TINY, SaveModel

L, G = "sliding_attention", "full_attention"


@pytest.fixture(scope="module")
def artifact(export_artifact: Callable[..., Path], random_hybrid: Path) -> Path:
    """Window 8, three rotated local layers and a global one without positions; steps of up to 16 tokens."""
    return export_artifact(random_hybrid, "tensorrt-rtx")


@pytest.fixture(scope="module")
def engine(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("engine") / "out"
    build_engine(artifact, out, max_batch=2)
    return out


def copy(artifact: Path, out: Path, change: Callable[[ir.Graph], None] | None = None, **manifest: Any) -> Path:
    """An artifact whose graph or manifest is another, and whose hashes hold."""
    opened = Artifact.open(artifact)
    with ArtifactWriter(out) as staging:
        for name in opened.manifest.files:
            if change is None or not name.startswith(MODEL_NAME):
                shutil.copyfile(artifact / name, staging.path / name)
        if change is not None:
            model = ir.load(artifact / MODEL_NAME)
            change(model.graph)
            ir.save(model, staging.path / MODEL_NAME, external_data="model.onnx.data", size_threshold_bytes=1024)
        staging.commit(msgspec.structs.replace(opened.manifest, **manifest))
    return out


def nodes_of(graph: ir.Graph, operator: str) -> list[ir.Node]:
    return [node for node in graph if node.op_type == operator]


# What is built


def test_the_tiny_checkpoint_becomes_an_engine(export_artifact: Callable[..., Path], tmp_path: Path) -> None:
    source = export_artifact(TINY, "tensorrt-rtx", 512)
    options = ("--max-batch", "4", "--prefill-chunk", "8", "--compute-capability", "12.0")
    result = run("build", source, tmp_path / "out", *options, "--compute-capability", "8.9")
    assert result.exit_code == 0, result.output
    steps = [line for line in result.stderr.splitlines() if not line.startswith("build: ")]
    assert steps == ["open", "parse", "write", "commit"]
    assert "build: computing profile costs 0/10 steps" in result.stderr
    assert f"engine      TensorRT-RTX {tensorrt_rtx.__version__}, compute capability 8.9, 12.0\n" in result.stdout
    assert "prefill     up to 8 tokens per step, up to 4 rows\n" in result.stdout
    assert "decode      one token per step, up to 4 rows\n" in result.stdout
    table, _, end = result.stdout.partition("\n\n")
    assert run("inspect", tmp_path / "out").stdout == f"{table}\n"
    assert f"next   exaone-export generate {tmp_path / 'out'} -p Hello\n" in end

    built, before = Artifact.open(tmp_path / "out"), Artifact.open(source)
    info = built.engine
    assert info is not None
    assert info.flavour == "tensorrt_rtx"
    assert info.onnx == {name: before.manifest.files[name]["sha256"] for name in (MODEL_NAME, "model.onnx.data")}
    sidecars = before.manifest.files.keys() - info.onnx.keys()
    assert built.manifest.files.keys() == sidecars | {ENGINE_NAME, LAYERS_NAME}
    assert all((tmp_path / "out" / name).read_bytes() == (source / name).read_bytes() for name in sidecars)
    assert built.manifest.tool_versions["tensorrt-rtx"] == tensorrt_rtx.__version__
    changed = ("files", "tool_versions", "engine")
    assert all(
        getattr(built.manifest, name) == getattr(before.manifest, name)
        for name in before.manifest.__struct_fields__
        if name not in changed
    )


def test_an_engine_is_opened_only_with_its_own_bytes(engine: Path, tmp_path: Path) -> None:
    shutil.copytree(engine, tmp_path / "out")
    data = bytearray((engine / ENGINE_NAME).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "out" / ENGINE_NAME).write_bytes(data)
    with pytest.raises(ArtifactError, match=r"model\.engine is not the file"):
        Artifact.open(tmp_path / "out")


def test_a_source_that_is_replaced_during_the_build_is_that_which_was_parsed(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = copy(artifact, tmp_path / "source")
    before = Artifact.open(source).manifest
    monkeypatch.setattr(engine_module, "_build", lambda *_: shutil.rmtree(source) or b"an engine")
    build_engine(source, tmp_path / "out")
    built = Artifact.open(tmp_path / "out").manifest.files
    assert {name: built.get(name) for name in before.files if not name.startswith(MODEL_NAME)} == {
        name: record for name, record in before.files.items() if not name.startswith(MODEL_NAME)
    }


def test_a_source_that_is_replaced_before_it_is_parsed_is_refused(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = copy(artifact, tmp_path / "source")

    def replace(plan: Any, _: Any) -> None:
        plan.source.folder.rename(tmp_path / "old")
        copy(tmp_path / "old", source)

    monkeypatch.setattr(engine_module, "parse_and_check", replace)
    with pytest.raises(ArtifactReplacedError, match="source was replaced while it was open; open it again"):
        build_engine(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "source"]


def test_a_verdict_on_the_graph_is_none_on_the_engine(artifact: Path, tmp_path: Path) -> None:
    judged = copy(artifact, tmp_path / "judged", parity={"passed": True})
    assert plan_build(judged).manifest.parity is None


def test_the_layer_report_says_what_it_was_read_from(engine: Path) -> None:
    report = json.loads((engine / LAYERS_NAME).read_text())
    assert report["source"] == "network"
    kinds = Counter(layer["type"] for layer in report["layers"])
    assert (kinds["KV_CACHE_UPDATE"], kinds["ATTENTION_OUTPUT"], kinds["ROTARY_EMBEDDING"]) == (8, 4, 6)
    attention = next(layer for layer in report["layers"] if layer["type"] == "ATTENTION_OUTPUT")
    assert attention["node"].startswith("node_Attention")
    assert [(output["type"], output["shape"]) for output in attention["outputs"]] == [("HALF", [-1, 4, -1, 16])]


def test_an_engine_that_cannot_be_loaded_here_is_reported_from_its_network(
    artifact: Path, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(engine_module, "_build", lambda *_: (engine / ENGINE_NAME).read_bytes())
    monkeypatch.setattr(engine_module, "current_gpu", lambda: Gpu("9.0", "13.0", "NVIDIA H100", 80 << 30))
    build_engine(artifact, tmp_path / "out", warn=warnings.append)
    assert json.loads((tmp_path / "out" / LAYERS_NAME).read_text())["source"] == "network"
    assert warnings[-1].startswith("the engine cannot be loaded here, so layers.json lists the network: ")


def test_the_file_is_the_engine_and_the_report_its_inspectors(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[bytes] = []
    monkeypatch.setattr(engine_module, "_build", lambda *_: b"an engine")

    def inspect(_trt: Any, _logger: Any, engine: Any) -> list[dict[str, str]]:
        built.append(bytes(engine))
        return [{"Name": "fused"}]

    monkeypatch.setattr(engine_module, "current_gpu", lambda: Gpu("9.0", "13.0", "NVIDIA H100", 80 << 30))
    monkeypatch.setattr(engine_module, "layers_of_engine", inspect)
    build_engine(artifact, tmp_path / "out")
    assert [(tmp_path / "out" / ENGINE_NAME).read_bytes()] == built == [b"an engine"]
    report = json.loads((tmp_path / "out" / LAYERS_NAME).read_text())
    assert report == {"source": "engine", "layers": [{"Name": "fused"}]}


def test_an_engine_that_loads_is_reported_by_its_inspector() -> None:
    text = json.dumps({"Layers": [{"Name": "fused"}], "I/O Tensors": []})
    loaded = SimpleNamespace(create_engine_inspector=lambda: SimpleNamespace(get_engine_information=lambda _: text))
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda engine: loaded if engine == b"engine" else None)
    trt = SimpleNamespace(Runtime=lambda _: runtime, LayerInformationFormat=SimpleNamespace(JSON=1))
    assert layers_of_engine(trt, None, b"engine") == [{"Name": "fused"}]
    assert layers_of_engine(trt, None, b"") is None


def test_every_layer_becomes_native(
    save_model: SaveModel, export_artifact: Callable[..., Path], tmp_path: Path
) -> None:
    """Other types, another pattern, a window of one and words that are shared."""
    pattern = {"sliding_window_pattern": 2, "layer_types": [L, G, L, G], "sliding_window": 1}
    source = export_artifact(save_model(**pattern, tie_word_embeddings=True), "tensorrt-rtx", precision="bfloat16")
    plan = plan_build(source)
    parsed = parse_and_check(plan)
    wanted = [NativeLayers(1, 1, 1, (layer.rotary, layer.rotary)) for layer in plan.source.spec.layers]
    assert [reading.rotated for reading in wanted] == [(True, True), (False, False)] * 2
    assert read_native_layers(parsed.wiring, 4) == wanted
    build_engine(source, tmp_path / "out", exact_decode=True)


# What is refused


def test_a_dry_run_parses_and_writes_nothing(artifact: Path, tmp_path: Path) -> None:
    result = run("build", artifact, tmp_path / "out", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["manifest"]["engine"]["compute_capabilities"] is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--compute-capability", "8.x"],
            "cannot build for compute capability '8.x'; choose --compute-capability from: 7.5",
        ),
        (
            ["--compute-capability", "9.0"],
            "TensorRT-RTX does not run on GPUs of compute capability 9.0, only on 7.5, 8.0, 8.6, 8.9, 12.x; run: "
            "exaone-export export MODEL OUT --target tensorrt, or --target ort-cuda.",
        ),
        (["--prefill-chunk", "17"], "prefill chunk is 17, and the artifact's caches take steps of 16 tokens"),
        (["--timing-cache", "times"], "TensorRT-RTX has no timing cache; leave --timing-cache out."),
        (
            ["--plugin", "mine"],
            "--plugin mine is for target tensorrt-plugin, and the artifact's target is tensorrt-rtx",
        ),
        (["--max-batch", "0"], "0 is not in the range x>=1"),
        (["--workspace", "0"], "0.0 is not in the range 0<x<=1048576"),
    ],
)
def test_options_that_cannot_be(artifact: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = run("build", artifact, tmp_path / "out", *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "given",
    [
        {"max_batch": "2"},
        {"max_batch": 0},
        {"prefill_chunk": 0},
        {"prefill_chunk": 2.5},
        {"workspace": -1},
        {"workspace": float("nan")},
        {"workspace": "x"},
        {"compute_capabilities": "8.9"},
        {"compute_capabilities": [8.9]},
        {"compute_capabilities": 8.9},
        {"max_batch": True},
        {"workspace": True},
    ],
)
def test_values_of_another_type_or_range(given: dict[str, Any]) -> None:
    (name, value), pattern = *given.items(), r"; (pass (an int|a float|a list of str)|it must be .*[1B])\.$"
    with pytest.raises(UnsupportedOptionError, match=f"^{name} is {re.escape(repr(value))}.*{pattern}"):
        BuildOptions(**given)


def test_values_that_stand_for_one_of_the_type_are_converted() -> None:
    given = BuildOptions(np.int64(2), compute_capabilities={"8.9"}, workspace=np.float32(0.5), timing_cache=Pathlike())
    assert given == BuildOptions(2, compute_capabilities=("8.9",), workspace=0.5, timing_cache=Path("cache"))
    assert [type(each) for each in (given.max_batch, given.workspace)] == [int, float]


class Pathlike:
    def __fspath__(self) -> str:
        return "cache"


def test_an_engine_does_not_replace_its_graph(artifact: Path, tmp_path: Path) -> None:
    folder = copy(artifact, tmp_path / "graph")
    before = {path.name for path in folder.iterdir()}
    same = "is the artifact that the engine is built from, and the next build needs its graph; choose another dest"
    for out in (folder, tmp_path / "." / "graph" / ".." / "graph"):
        for overwrite in (False, True):  # with advice to replace it, the next try would be refused
            with pytest.raises(ArtifactError, match=same):
                build_engine(folder, out, overwrite=overwrite)
    for options, status in (((), 1), (("--overwrite",), 1), (("--overwrite", "--dry-run"), 0)):
        result = run("build", folder, folder, *options)
        assert result.exit_code == status
        assert f"{folder} {same}" in result.stderr and "pass --overwrite" not in result.stderr
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="the engine would be loaded")
def test_without_a_gpu_an_engine_is_refused_before_other_work(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "open", None)
    for words in (["bench"], ["parity", TINY], ["eval", TINY, "--data", tmp_path / "none"]):
        result = run(words[0], engine, *words[1:])
        assert result.exit_code == 2
        assert "is for an NVIDIA GPU (tensorrt-rtx), and PyTorch sees none here; run it on a machine" in result.stderr


def test_what_is_no_source_of_an_engine(artifact: Path, engine: Path, tmp_path: Path) -> None:
    for target in ("onnx", "ort-cpu"):
        with pytest.raises(TargetError, match="run: exaone-export export MODEL ARTIFACT --target tensorrt or"):
            plan_build(copy(artifact, tmp_path / target, target=target))
    with pytest.raises(TargetError, match="is already an engine; give the artifact that it was built from"):
        plan_build(engine)


def test_libraries_that_are_not_installed(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for flavour in FLAVOURS.values():
        monkeypatch.setitem(sys.modules, flavour.name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'exaone-export\[rtx\]'"):
        plan_build(artifact)
    with pytest.raises(MissingExtraError, match=r"pip install 'exaone-export\[tensorrt\]'"):
        plan_build(copy(artifact, tmp_path / "out", target="tensorrt"))


def unknown_operator(graph: ir.Graph) -> None:
    node = nodes_of(graph, "Sigmoid")[2]
    node.op_type, node.domain = "Frobnicate", "exaone"


def ignored_lengths(graph: ir.Graph) -> None:
    """The attention of layer 1 takes its lengths from an input that the parser drops, and has no mask."""
    node, lengths = nodes_of(graph, "Attention")[1], nodes_of(graph, "ReduceSum")[0].outputs[0]
    attributes = {"scale": node.attributes["scale"].as_float(), "is_causal": 1}
    other = ir.node("Attention", [*node.inputs[:3], None, None, None, lengths], attributes, name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [other], node.outputs, other.outputs)


def unread_input(graph: ir.Graph) -> None:
    graph.inputs.append(ir.val("nobody", ir.DataType.INT64, ["batch"]))


def lost_update(graph: ir.Graph) -> None:
    node = nodes_of(graph, "TensorScatter")[4]  # layer 2's keys
    other = ir.node("Identity", [node.inputs[0]], name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [other], node.outputs, other.outputs)


def lost_attention(graph: ir.Graph) -> None:
    node = nodes_of(graph, "Attention")[2]
    other = ir.node("Identity", [node.inputs[0]], name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [other], node.outputs, other.outputs)


def crossed_caches(graph: ir.Graph) -> None:
    first, second = nodes_of(graph, "Attention")[:2]
    second.replace_input_with(2, first.inputs[2])


def second_attention(graph: ir.Graph) -> None:
    node = nodes_of(graph, "Attention")[3]
    other = ir.node("Attention", node.inputs, {"scale": node.attributes["scale"].as_float()}, name="again")
    total = ir.node("Add", [node.outputs[0], other.outputs[0]], name="total")
    graph.insert_after(node, [other, total])
    user = next(use for use in node.outputs[0].consumers() if use is not total)
    user.replace_input_with(0, total.outputs[0])


def rotated_nope(graph: ir.Graph) -> None:
    like, node = nodes_of(graph, "RotaryEmbedding")[0], nodes_of(graph, "RMSNormalization")[-5]
    turned = ir.node("RotaryEmbedding", [node.outputs[0], *like.inputs[1:]], name="turned")
    graph.insert_after(node, [turned])
    user = next(use for use in node.outputs[0].consumers() if use is not turned)
    user.replace_input_with(0, turned.outputs[0])


def unrotated_queries(graph: ir.Graph) -> None:
    node = nodes_of(graph, "RotaryEmbedding")[0]
    next(iter(node.outputs[0].consumers())).replace_input_with(0, node.inputs[0])


def shared_names(graph: ir.Graph) -> None:
    for node in nodes_of(graph, "Sigmoid")[:2]:
        node.name = "both"


def unknown_dimension(graph: ir.Graph) -> None:
    graph.inputs[1].shape = ir.Shape(["batch", "columns"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            unknown_operator,
            TargetError,
            r"does not take .*: layer 2, node \S+ \(Frobnicate\): creator && .Plugin not found",
        ),
        (
            ignored_lengths,
            GraphContradictionError,
            r"^layer 1, node \S+ \(Attention\) does not use its input \S+ in the network",
        ),
        (unread_input, GraphContradictionError, "^input nobody of the graph is read by no layer of the network"),
        (lost_update, GraphContradictionError, "^layer 2 of the network has 0 native updates of its key cache, 1 of"),
        (lost_attention, GraphContradictionError, "^layer 2 of the network has .* 0 native attention layers"),
        (crossed_caches, GraphContradictionError, "^layer 1 of the network has .* 0 native attention layers"),
        (second_attention, GraphContradictionError, "^layer 3 of the network has .* 2 native attention layers"),
        (
            rotated_nope,
            GraphContradictionError,
            "^layer 3 of the network has .* RoPE on .*, and the model's .* nothing",
        ),
        (unrotated_queries, GraphContradictionError, "^layer 0 of the network has .* RoPE on keys, and"),
        (shared_names, GraphContradictionError, "^2 nodes of the graph are named 'both'"),
        (
            unknown_dimension,
            GraphContradictionError,
            "^input attention_mask has a dimension 'columns', which no profile",
        ),
    ],
)
def test_graphs_that_are_refused(
    artifact: Path, tmp_path: Path, change: Callable[[ir.Graph], None], error: type[Exception], message: str
) -> None:
    changed = copy(artifact, tmp_path / "changed", change)
    with pytest.raises(error, match=message):
        build_engine(changed, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["changed"]


def test_a_build_that_fails_gives_the_reason_and_leaves_nothing(artifact: Path, tmp_path: Path) -> None:
    result = run("build", artifact, tmp_path / "out", "--workspace", "1e-6")
    assert result.exit_code == 2
    assert "could not build the engine: " in result.stderr
    assert "within workspace limit" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_profile_that_tensorrt_does_not_take_is_not_left_out(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_profile = engine_module.add_profile

    def add_second(builder: Any, config: Any, network: Any, profile: Any) -> bool:
        return profile.name == "decode" and add_profile(builder, config, network, profile)

    monkeypatch.setattr(engine_module, "add_profile", add_second)
    with pytest.raises(TargetError, match="could not build the engine"):
        build_engine(artifact, tmp_path / "out")


@pytest.mark.parametrize("how", ["Ctrl-C", "in the report"])
def test_an_interrupted_build_leaves_nothing(artifact: Path, tmp_path: Path, how: str) -> None:
    steps: list[str] = []

    def report(step: str, _done: int, _total: int) -> None:
        steps.append(step)
        if step.startswith("build: optimizing"):
            if how == "in the report":
                raise KeyboardInterrupt
            assert threading.current_thread() is not threading.main_thread()
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        build_engine(artifact, tmp_path / "out", progress=report)
    assert "write" not in steps
    assert not list(tmp_path.iterdir())


def test_an_engine_replaces_another_only_when_told_and_only_whole(artifact: Path, engine: Path, tmp_path: Path) -> None:
    shutil.copytree(engine, tmp_path / "out")
    with pytest.raises(ArtifactError, match="is an artifact already; pass --overwrite to replace it"):
        build_engine(artifact, tmp_path / "out")
    with pytest.raises(TargetError, match="could not build"):
        build_engine(artifact, tmp_path / "out", workspace=1e-6, overwrite=True)
    assert Artifact.open(tmp_path / "out").manifest == Artifact.open(engine).manifest


# TensorRT proper: its options, on the module that has its API


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with TensorRT and an H200, as far as a build asks."""
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_rtx)
    monkeypatch.setattr(plan_module, "current_gpu", lambda: Gpu("9.0", "13.0", "NVIDIA H100", 80 << 30))


def test_tensorrt_rtx_is_not_built_for_a_gpu_that_it_does_not_run_on(on_gpu: None, artifact: Path) -> None:
    with pytest.raises(TargetError, match=r"does not run on GPUs of compute capability 9\.0.*, or name the GPU that"):
        plan_build(artifact)
    assert plan_build(artifact, compute_capabilities=["8.9"]).info.compute_capabilities == ("8.9",)


def test_tensorrt_builds_for_the_gpu_at_hand(
    on_gpu: None, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = copy(artifact, tmp_path / "source", target="tensorrt")
    plan = plan_build(source)
    assert (plan.info.flavour, plan.info.compute_capabilities, plan.info.driver) == ("tensorrt", ("9.0",), "13.0")
    plan.info.check_fits(flavour="tensorrt", version=plan.info.version, compute_capability="9.0")
    with pytest.raises(
        TargetError, match="TensorRT builds for the GPU that it runs on; leave --compute-capability out"
    ):
        plan_build(source, compute_capabilities=["9.0"])
    monkeypatch.setattr(plan_module, "current_gpu", lambda: None)
    with pytest.raises(TargetError, match="TensorRT builds on the GPU that runs the engine, and this machine has none"):
        plan_build(source)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_timing_cache_is_written_when_the_build_is_done(tmp_path: Path) -> None:
    config = tensorrt_rtx.Builder(make_logger(tensorrt_rtx)).create_builder_config()
    file = tmp_path / "times"
    with pytest.raises(KeyboardInterrupt), timing_cache(config, file):
        raise KeyboardInterrupt
    assert not file.exists()
    with timing_cache(config, file):
        assert not file.exists()
        assert config.get_timing_cache() is not None
    assert file.read_bytes()
    with timing_cache(config, file):  # what was written is read
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["times"]
    with pytest.raises(TargetError, match="cannot be used"), timing_cache(config, tmp_path / "no" / "folder"):
        pass
    (tmp_path / "endless").symlink_to("/dev/zero")
    with pytest.raises(TargetError, match="is not a regular file"), timing_cache(config, tmp_path / "endless"):
        pass


def test_the_driver_is_asked_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def store(value: int) -> Callable[..., int]:
        def call(pointer: Any, *_: Any) -> int:
            pointer._obj.value = value
            return 0

        return call

    def attribute(pointer: Any, which: int, _device: Any) -> int:
        pointer._obj.value = {75: 8, 76: 9}[which]
        return 0

    def name(buffer: Any, length: int, _device: Any) -> int:
        assert length == len(buffer)
        buffer.value = b"NVIDIA L4"
        return 0

    driver = SimpleNamespace(
        cuInit=lambda _: 0,
        cuDriverGetVersion=store(13010),
        cuDeviceGetCount=store(2),
        cuDeviceGet=store(0),
        cuDeviceGetName=name,
        cuDeviceTotalMem_v2=store(24 << 30),
        cuDeviceGetAttribute=attribute,
    )
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)
    assert current_gpu() == Gpu("8.9", "13.1", "NVIDIA L4", 24 << 30)
    assert gpu.list_gpus() == (current_gpu(),) * 2
    driver.cuDeviceGetCount = store(0)
    assert gpu.list_gpus() == () and current_gpu() is None
    driver.cuInit = lambda _: 100  # CUDA_ERROR_NO_DEVICE
    assert current_gpu() is None
    monkeypatch.setattr(gpu, "_DRIVER", "libno-such-driver.so.1")
    monkeypatch.undo()
    monkeypatch.setattr(gpu, "_DRIVER", "libno-such-driver.so.1")
    assert current_gpu() is None


# The door for plugins

CREATOR = """
import tensorrt_rtx as trt

class Creator(trt.IPluginCreatorV3One):
    def __init__(self):
        trt.IPluginCreatorV3One.__init__(self)
        self.name, self.plugin_version, self.plugin_namespace = "HybridAttention", "1", {namespace!r}
        self.field_names = trt.PluginFieldCollection([])

trt.get_plugin_registry().register_creator(Creator(), {namespace!r})
"""


@pytest.fixture
def plugin_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Write a module that a command line may name; what it registers is taken back."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def make(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        names.append(name)
        return name

    yield make
    registry = tensorrt_rtx.get_plugin_registry()
    for namespace in ("exaone", "other"):
        if creator := registry.get_creator("HybridAttention", "1", namespace):
            registry.deregister_creator(creator)
    for name in names:
        sys.modules.pop(name, None)


def test_a_graph_for_a_plugin_needs_one(artifact: Path, tmp_path: Path) -> None:
    result = run("build", copy(artifact, tmp_path / "source", target="tensorrt-plugin"), tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr == (
        "open\nerror: target tensorrt-plugin leaves exaone::HybridAttention to a plugin, and none is given; pass "
        "--plugin MODULE, a Python module that registers one with TensorRT.\n"
    )


def test_a_module_is_taken_when_it_registers_the_plugin(plugin_module: Callable[[str, str], str]) -> None:
    flavour = FLAVOURS["tensorrt"]
    plugins.load_plugin(tensorrt_rtx, flavour, plugin_module("right_plugin", CREATOR.format(namespace="exaone")))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (CREATOR.format(namespace="other"), "registers no plugin HybridAttention of version 1 in namespace 'exaone'"),
        ("", "registers no plugin HybridAttention of version 1 in namespace 'exaone'"),
        ("import no_such_module", r"cannot be imported \(ModuleNotFoundError: No module named 'no_such_module'\)"),
        ("1 / 0", r"cannot be imported \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_modules_that_bring_no_plugin(plugin_module: Callable[[str, str], str], source: str, message: str) -> None:
    with pytest.raises(TargetError, match=f"--plugin wrong_plugin {message}"):
        plugins.load_plugin(tensorrt_rtx, FLAVOURS["tensorrt"], plugin_module("wrong_plugin", source))


def test_tensorrt_rtx_takes_no_plugins(plugin_module: Callable[[str, str], str]) -> None:
    module = plugin_module("unread_plugin", "raise AssertionError")
    with pytest.raises(TargetError, match="TensorRT-RTX takes no plugins"):
        plugins.load_plugin(tensorrt_rtx, FLAVOURS["tensorrt_rtx"], module)


def test_every_layer_must_be_a_plugin(artifact: Path) -> None:
    spec = Artifact.open(artifact).spec
    layers = [
        NetworkLayer(str(index), "PLUGIN_V3", ("qkv", f"past_key_values.{index}.key", None), (f"out{index}",))
        for index in range(4)
    ]
    check_plugin_layers(Wiring(layers), spec)
    with pytest.raises(GraphContradictionError, match="layer 3 of the network has 0 plugins on its key cache"):
        check_plugin_layers(Wiring(layers[:3]), spec)
    assert get_target("tensorrt-plugin").needs_plugin


# The parts


@pytest.mark.parametrize(
    ("caches", "options", "sequences", "totals"),
    [
        # No window: any step, 512 tokens by default.
        ([LayerCache(8192, 0)], (1, None), (512, 2), (2048, 8192)),
        ([LayerCache(100, 0)], (1, None), (100, 2), (100, 100)),
        ([LayerCache(8192, 0)], (1, 4096), (4096, 2), (4096, 8192)),
        # A window's headroom is the longest step.
        ([LayerCache(24, 8, 16), LayerCache(512, 0)], (1, None), (16, 2), (512, 512)),
        ([LayerCache(24, 8, 16), LayerCache(512, 0)], (1, 3), (3, 2), (512, 512)),
        ([LayerCache(512, 0)], (4, 64), (64, 2), (512, 512)),
        ([LayerCache(512, 0)], (4, 64, True), (64, 1), (512, 512)),
        ([LayerCache(512, 8, 1)], (1, None), (1, 1), (512, 512)),
    ],
)
def test_profiles(caches: list[LayerCache], options: Any, sequences: tuple[int, int], totals: tuple[int, int]) -> None:
    prefill, decode = plan_profiles(CacheLayout(max(cache.capacity for cache in caches), tuple(caches)), *options)
    assert (prefill.sequence, decode.sequence.optimum) == (Range(1, sequences[0], sequences[0]), 1)
    assert decode.sequence.maximum == sequences[1]
    assert prefill.kept == Range(1, 1, sequences[0])
    assert decode.kept == Range(1, 1, 1)
    assert prefill.total_sequence == decode.total_sequence == Range(1, *totals)
    assert prefill.batch == decode.batch == Range(1, options[0], options[0])


def test_messages_name_the_node_that_is_parsed() -> None:
    logger, severity = make_logger(tensorrt_rtx), tensorrt_rtx.ILogger
    logger.log(severity.VERBOSE, "Parsing node: node_matmul [MatMul]")
    logger.log(severity.VERBOSE, "Searching for input: x")
    logger.log(severity.INFO, "nothing of weight")
    logger.log(severity.WARNING, "ModelImporter.cpp:1071: Make sure input input_ids has Int64 binding.")
    logger.log(
        severity.WARNING, "WARNING The logger passed into createInferBuilder differs from one already registered."
    )
    logger.log(severity.WARNING, "a weight was cut down to int32\n")
    logger.at_node = None
    logger.log(severity.ERROR, "no memory")
    (warning,) = logger.take_warnings()
    assert (warning.text, warning.node, warning.operator) == ("a weight was cut down to int32", "node_matmul", "MatMul")
    assert logger.take_warnings() == []
    (error,) = logger.messages
    assert (error.is_error, error.node, logger.errors()) == (True, "", "no memory")


def test_warnings_reach_the_user_with_their_node(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the error that they may explain, and where there is none."""

    def warn_of_the_first_product(trt: Any) -> Any:
        logger = make_logger(trt)
        log = type(logger).log

        def log_more(self: Any, severity: Any, text: str) -> None:
            log(self, severity, text)
            if "Parsing node: node_Attention" in text:
                log(self, trt.ILogger.WARNING, "no mask for you")

        monkeypatch.setattr(type(logger), "log", log_more)
        return logger

    monkeypatch.setattr(engine_module, "make_logger", warn_of_the_first_product)
    result = run("build", artifact, tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.output
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 4
    assert re.fullmatch(r"warning: layer 0, node node_Attention_\d+ \(Attention\): no mask for you", warnings[0])
    changed = copy(artifact, tmp_path / "changed", unknown_operator)
    result = run("build", changed, tmp_path / "out", "--dry-run")
    assert result.exit_code == 2
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["parse", *["warning"] * 3, "error"]


def test_phases_are_reported_and_their_parts_are_not() -> None:
    seen: list[tuple[str, int, int]] = []
    monitor = make_monitor(tensorrt_rtx, lambda *step: seen.append(step))
    monitor.phase_start("all", None, 2)
    monitor.phase_start("first", "all", 2)
    monitor.phase_start("part", "first", 2)
    monitor.phase_start("part of a part", "part", 2)
    assert monitor.step_complete("part of a part", 0)
    assert monitor.step_complete("part", 0)
    assert monitor.step_complete("first", 0)
    monitor.phase_finish("first")
    monitor.phase_start("single", "all", 1)
    assert monitor.step_complete("single", 0)
    assert seen == [("first", 0, 2), ("part", 0, 2), ("part", 1, 2), ("first", 1, 2)]
    monitor.cancel()
    assert not monitor.step_complete("all", 0)
    assert run_monitored(lambda: "built", make_monitor(tensorrt_rtx, lambda *_: None)) == "built"
