"""``exaone-export plan``, and what `export` and `build` refuse because of it."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exaone_export.cli.main import cli
from exaone_export.errors import CapacityError, TargetError
from exaone_export.exporter.checkpoint.checkpoint import WEIGHTS_NAME
from exaone_export.exporter.export import export
from exaone_export.exporter.plan import deployment as planning
from exaone_export.exporter.plan.preflight import build_shortfall, export_shortfall, refuse
from exaone_export.planning import machine
from exaone_export.planning.memory_plan import MemoryPlan
from exaone_export.planning.sizes import format_size
from exaone_export.targets.target import CACHE_PRECISIONS, TARGETS
from tests.conftest import TINY, without_package
from tests.exporter.checkpoint.test_prequantized import LAYER_TENSORS
from tests.exporter.checkpoint.test_prequantized import write as write_prequantized

GIB, MIB = 2**30, 2**20


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def config_only(tmp_path: Path) -> Path:
    folder = tmp_path / "config-only"
    folder.mkdir()
    shutil.copyfile(TINY / "config.json", folder / "config.json")
    return folder


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``small_machine(disk=…, memory=…)``: what the machine says it has, in bytes."""

    def make(disk: int = 2**50, memory: int | None = 2**50) -> None:
        monkeypatch.setattr(machine, "free_disk", lambda _: disk)
        monkeypatch.setattr(machine, "available_memory", lambda: memory)
        monkeypatch.setattr(machine, "resident_memory", lambda: 0)

    return make


def test_a_table_from_config_json_alone(config_only: Path) -> None:
    result = run("plan", config_only, "--max-length", "512", "--batch", "2", "--precision", "int4", "--memory", "8GiB")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("model ")
    assert "ort-cpu, int4 computed in float32, cache in float32, 512 tokens, 2 rows" in lines[1]
    assert any(
        "6 local layers" in line and "2 global layers" in line and "every layer global" in line for line in lines
    )
    assert "memory to export" in result.stdout
    assert "engine" not in result.stdout
    assert lines[-1].startswith("memory ")
    assert "fits: up to" in lines[-1]
    assert [line.split()[0] for line in lines if line].count("weights") == 1


def test_json_in_bytes() -> None:
    arguments = ("plan", "32B", "--target", "tensorrt-rtx", "--max-length", "131072", "--gpu", "RTX 4090", "--json")
    result = run(*arguments, "--precision", "int4")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    deployment = planning.read_deployment("32b", target="tensorrt-rtx", precision="int4", max_length=131_072)
    assert content["cache"]["total"] == MemoryPlan.of(deployment).cache.total
    assert content["cache"]["all_global"] == 32 * GIB
    assert content["runs_on"] == "gpu"
    assert content["weights"]["total"] == sum(size for name, size in content["weights"].items() if name != "total")
    assert (
        content["peak"]["build"] > content["disk"]["engine"] > content["disk"]["artifact"] > content["weights"]["total"]
    )
    fits = content["fits"]["GPU RTX 4090"]
    assert not fits["fits"]
    assert 8192 < fits["longest_context"] < 131_072


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--gpu", "24GiB"], "target ort-cpu runs on the CPU: pass --memory instead of --gpu."),
        (
            ["--target", "ort-cuda", "--memory", "1GB"],
            "target ort-cuda runs on a GPU: pass --gpu instead of --memory.",
        ),
        (
            ["--target", "tensorrt-rtx", "--gpu", "NVIDIA H100"],
            "TensorRT-RTX does not run on GPUs of compute capability 9.0, only on 7.5, 8.0, 8.6, 8.9, 12.x; run: "
            "exaone-export export MODEL OUT --target tensorrt, or --target ort-cuda.",
        ),
        (["--memory", "many"], "'many' is not a valid size; give bytes with a unit, such as 24GiB or 512MiB."),
        (["--max-length", "99999999"], "the model knows"),
        (["--prefill-chunk", "16"], "takes steps of any length"),
        (["--precision", "fp8"], "target ort-cpu does not run precision 'fp8'"),
        (
            ["--target", "ort-cuda", "--cache-precision", "int8"],
            "target ort-cuda does not hold its cache in 'int8'; leave --cache-precision out, or pass --target ort-cpu.",
        ),
        (["--plot", "plan.xyz"], "plan.xyz: unsupported image format; use .png, .svg or .pdf."),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(arguments: list[str], sentence: str) -> None:
    result = run("plan", TINY, *arguments)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_a_cache_precision_that_is_offered_is_one_that_a_target_takes() -> None:
    assert all(any(cache in target.caches for target in TARGETS.values()) for cache in CACHE_PRECISIONS)
    for target in TARGETS.values():
        for cache in {*CACHE_PRECISIONS, "fp8"} - {*target.caches}:
            with pytest.raises(TargetError) as caught:
                target.check_cache_precision(cache)
            _, _, advised = str(caught.value).rstrip(".").partition("--target ")
            assert all(cache in TARGETS[name].caches for name in advised.split(" or ") if name)
    for command in ("export", "plan"):
        assert f"--cache-precision [{'|'.join(CACHE_PRECISIONS)}]" in run(command, "--help").output


def test_a_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("plan", tmp_path / "none")
    assert result.exit_code == 1
    assert "is neither a folder with a config.json, a hub id such as LGAI-EXAONE" in result.stderr
    empty = run("plan", tmp_path)
    assert (empty.exit_code, "is empty; give a folder with config.json" in empty.stderr) == (1, True)

    asked: list[Any] = []

    def download(*given: Any, **more: Any) -> str:
        asked.append((given, more))
        return str(TINY)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert run("plan", "someone/model", "--revision", "v1").exit_code == 0
    assert asked == [(("someone/model",), {"revision": "v1", "allow_patterns": ["config.json"]})]


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_network_a_hub_id_is_taken_from_the_cache_or_refused_at_once(
    environment: dict[str, str], tmp_path: Path
) -> None:
    def run_offline() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "exaone_export", "plan", "some/tiny"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "HF_HOME": str(tmp_path / "home")} | environment,
            timeout=60,
        )

    def seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before, began = seconds(), time.monotonic()
    refused = run_offline()
    # A busy machine gives the process less than it asks for; of what it does not work, it waits.
    assert time.monotonic() - began < 8 + 4 * (seconds() - before)
    assert refused.returncode == 1
    reason = "HF_HUB_OFFLINE is set" if "HF_HUB_OFFLINE" in environment else "http://127.0.0.1:9 cannot be reached"
    sentence = refused.stderr.splitlines()[-1]
    assert sentence.startswith("error: some/tiny is not a local folder, and it is not whole in the cache")
    assert reason in sentence

    cache = tmp_path / "home" / "hub" / "models--some--tiny"
    snapshot = cache / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    shutil.copytree(TINY, snapshot, ignore=shutil.ignore_patterns("*.py", "*.md"))
    found = run_offline()
    assert found.returncode == 0, found.stderr


def test_a_checkpoint_published_quantized_is_planned_as_it_is(config_only: Path) -> None:
    config = json.loads((config_only / "config.json").read_text())
    section = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False}
    (config_only / "config.json").write_text(json.dumps({**config, "quantization_config": section}))
    result = run("plan", config_only, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["setting"]["precision"] == "int4"
    assert run("plan", config_only, "--precision", "float32").exit_code == 0  # the weights that its codes stand for
    refused = run("plan", config_only, "--precision", "int8")
    assert (refused.exit_code, refused.stderr.count("leave --precision out")) == (2, 1)


def test_a_checkpoint_with_layers_in_floating_point_is_planned_as_its_tensors_say(tmp_path: Path) -> None:
    names = [name for name in LAYER_TENSORS if ".layers.0." not in name]
    write_prequantized(tmp_path, "int4 by groups", names)
    mixed = planning.read_deployment(tmp_path, max_length=64)
    assert mixed.recipe.unquantized == {0: ("qkv", "output", "gate_up", "down")}
    (tmp_path / WEIGHTS_NAME).unlink()
    assert planning.read_deployment(tmp_path, max_length=64).recipe.unquantized == {}


@pytest.mark.parametrize("options", [("1.2b", "--memory", "4GiB"), ("32b", "--target", "tensorrt-rtx", "--gpu", "l4")])
def test_a_picture(options: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("plan", *options, "--plot", tmp_path / "plan.svg")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "plan.svg").read_text()
    assert ("with every layer global" in text) == (options[0] == "32b")
    assert "cache, global layers" in text
    assert f"maximum length, {65_536 if options[0] == '1.2b' else 131_072:,} tokens" in text


def test_a_picture_of_a_model_with_few_positions_is_not_blank(tmp_path: Path, config_only: Path) -> None:
    pytest.importorskip("matplotlib")
    config = json.loads((config_only / "config.json").read_text())
    (config_only / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 40}))
    assert run("plan", config_only, "--plot", tmp_path / "plan.svg").exit_code == 0
    text = (tmp_path / "plan.svg").read_text()
    drawn = re.search(r'id="FillBetweenPolyCollection_2".*?<path [^>]*d="(M[^"]*)"', text, re.DOTALL)
    assert drawn is not None
    across = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", drawn[1])]
    assert max(across) - min(across) > 200


def test_a_picture_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_package(monkeypatch, "matplotlib")
    result = run("plan", "1.2b", "--plot", tmp_path / "plan.png")
    assert result.exit_code == 2 or result.exit_code == 1
    assert (
        result.stderr
        == "error: a plot needs matplotlib, which is not installed; run: pip install 'exaone-export[plot]'.\n"
    )


def test_an_export_that_the_disk_does_not_hold_is_refused_before_it_is_touched(
    tmp_path: Path, small_machine: Callable[..., None]
) -> None:
    out = tmp_path / "made" / "out"
    small_machine(disk=3 * MIB)
    result = run("export", TINY, out, "--max-length", "512")
    assert result.exit_code == 1
    assert "--precision int" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: the artifact takes ")
    assert result.stderr.splitlines()[-1].endswith(
        f"{out} has 3.0 MiB free; pass --precision int8-weights, or choose another destination."
    )
    assert not list(tmp_path.iterdir())
    with pytest.raises(CapacityError, match="the artifact takes"):
        export(TINY, out, max_length=512)
    assert not list(tmp_path.iterdir())


def test_the_check_can_be_left_out(tmp_path: Path, small_machine: Callable[..., None]) -> None:
    small_machine(disk=0, memory=0)
    result = run("export", TINY, tmp_path / "out", "--max-length", "128", "--no-plan-check")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "model.onnx").exists()


def test_an_unknown_memory_refuses_nothing(small_machine: Callable[..., None]) -> None:
    small_machine(memory=None)
    assert export_shortfall(planning.read_deployment("32b", precision="float32"), "out") is None


def test_the_nearest_setting_that_fits_is_named(small_machine: Callable[..., None]) -> None:
    whole = planning.read_deployment("1.2b", precision="float32", max_length=65_536)
    peaks = {
        name: MemoryPlan.of(planning.read_deployment("1.2b", precision=name, max_length=65_536)).export_peak
        for name in ("float32", "int8-weights")
    }
    assert peaks["float32"] > peaks["int8-weights"]
    small_machine(memory=peaks["int8-weights"])
    sentence = export_shortfall(whole, "out")
    wanted, available = map(format_size, peaks.values())
    assert sentence == (
        f"the export takes {wanted} of memory and {available} are available; "
        f"pass --precision int8-weights, or run it where there is more, or pass --no-plan-check."
    )
    assert "--precision" not in (export_shortfall(whole, "out", fixed_precision=True) or "")
    with pytest.raises(CapacityError, match="the export takes"):
        refuse(sentence)
    small_machine(memory=peaks["float32"])
    assert export_shortfall(whole, "out") is None
    # The rotary tables of a shorter context are smaller, and may be all that is too much.
    small_machine(disk=MemoryPlan.of(whole.with_length(20_000)).disk)
    assert "pass --max-length 19968 or --precision int8-weights" in (export_shortfall(whole, "out") or "")
    small_machine(disk=0)
    assert (export_shortfall(whole, "out") or "").endswith("0 B free; choose another destination.")


def test_a_build_is_refused_with_what_to_export(small_machine: Callable[..., None]) -> None:
    deployment = planning.read_deployment("1.2b", target="tensorrt-rtx", precision="bfloat16", max_length=8192)
    plan = MemoryPlan.of(deployment)
    assert plan.build_peak is not None
    small_machine(memory=plan.build_peak)
    assert build_shortfall(deployment, "out") is None
    small_machine(memory=plan.build_peak * 2 // 3)
    sentence = build_shortfall(deployment, "out") or ""
    assert sentence.startswith(f"the build takes {format_size(plan.build_peak)} of memory and ")
    assert "; export with --precision int8-weights, or run it where there is more" in sentence
    small_machine(disk=GIB)
    assert (build_shortfall(deployment, "out") or "").startswith("the engine takes 2.4")


def test_a_build_command_is_refused_before_the_disk_is_touched(
    export_artifact: Callable[..., Path], random_hybrid: Path, tmp_path: Path, small_machine: Callable[..., None]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    artifact = export_artifact(random_hybrid, "tensorrt-rtx")
    small_machine(memory=64 * MIB)
    result = run("build", artifact, tmp_path / "engine")
    assert result.exit_code == 1
    assert "error: the build takes " in result.stderr
    assert not list(tmp_path.iterdir())
    dry = run("build", artifact, tmp_path / "engine", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "memory to build" in dry.stdout
    assert "warning: the build takes " in dry.stderr


def test_a_dry_run_prints_plan_and_graph_and_writes_nothing(tmp_path: Path, small_machine: Callable[..., None]) -> None:
    small_machine(disk=0)
    arguments = ("export", TINY, tmp_path / "out", "--max-length", "128", "--dry-run")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    plan, _, graph = result.stdout.rpartition("\n\n")
    assert "memory to run" in plan
    assert "layers 0-2  window 32" in graph
    assert "warning: the artifact takes " in result.stderr
    content = json.loads(run(*arguments, "--json").stdout)
    assert content["plan"]["setting"]["max_length"] == content["manifest"]["cache"]["max_length"] == 128
    assert not list(tmp_path.iterdir())


def test_what_the_machine_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.free_disk(tmp_path / "not" / "yet" / "there") > 0
    assert machine.resident_memory() > 10 * MIB
    assert (machine.available_memory() or 0) > 10 * MIB
    info, group = tmp_path / "meminfo", tmp_path / "cgroup"
    info.write_text("MemTotal:  9 kB\nMemAvailable:     2048 kB\n")
    monkeypatch.setattr(machine, "_MEMINFO", info)
    monkeypatch.setattr(machine, "_CGROUP", group)
    assert machine.available_memory() == 2 * MIB
    group.mkdir()
    (group / "memory.max").write_text("max\n")
    assert machine.available_memory() == 2 * MIB
    (group / "memory.max").write_text(f"{3 * MIB}\n")
    (group / "memory.current").write_text(f"{2 * MIB + 4096}\n")
    (group / "memory.stat").write_text("anon 5\ninactive_file 4096\n")
    assert machine.available_memory() == MIB
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "none")
    (group / "memory.max").unlink()
    assert machine.available_memory() is None


def test_a_revision_is_of_a_hub_id_alone() -> None:
    folder, size = run("plan", TINY, "--revision", "v1"), run("plan", "1.2b", "--revision", "v1")
    assert (folder.exit_code, size.exit_code) == (2, 2)
    assert folder.stderr == f"error: {TINY} is a local folder, which has no revision 'v1'; leave --revision out.\n"
    assert size.stderr == (
        "error: 1.2b is a published size, which has no revision 'v1'; leave --revision out, or give a hub id.\n"
    )


def test_what_is_not_exported_is_told_beside_the_plan(config_only: Path) -> None:
    config = json.loads((TINY / "config.json").read_text())
    outer = {"model_type": "exaone4_5", "text_config": config | {"sliding_window_pattern": "LG"}, "vision_config": {}}
    (config_only / "config.json").write_text(json.dumps(outer))
    result = run("plan", config_only, "--json")
    assert json.loads(result.stdout)["model"]["layers"] == 8
    assert result.stderr.splitlines() == [
        "config.json: sliding_window_pattern 'LG' is ignored, as transformers does: layer_types decides.",
        f"config.json: the language model alone is exported: where the checkpoint holds the vision model or {DRAFT}",
    ]


DRAFT = "the layers that predict several tokens at once, they are left out."


@pytest.mark.parametrize(
    ("size", "told"),
    [("1.2b", ""), ("4.5-33b", f"the vision model or {DRAFT}"), ("236B-A23B", DRAFT)],
)
def test_what_may_be_left_out_of_a_published_size_is_told_too(size: str, told: str) -> None:
    result = run("plan", size, "--max-length", "512")
    assert result.exit_code == 0
    start = f"{size}: the language model alone is exported: where the checkpoint holds"
    assert result.stderr == (f"{start} {told}\n" if told else "")


def test_a_dry_run_tells_what_the_export_would(tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(TINY, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"sliding_window_pattern": "LG"}))
    out.mkdir()
    (out / "notes").touch()
    result = run("export", model, out, "--dry-run", "--max-length", "64", "--json")
    assert json.loads(result.stdout).keys() == {"plan", "manifest"}
    assert result.stderr.splitlines()[-2:] == [
        "config.json: sliding_window_pattern 'LG' is ignored, as transformers does: layer_types decides.",
        f"warning: {out} is not an artifact and not empty; choose another destination.",
    ]
