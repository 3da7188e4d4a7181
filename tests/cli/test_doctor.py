"""The doctor says what is there, why something does not work, and what fixes it; it loads nothing heavy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exaone_export.artifact.reader import Artifact
from exaone_export.artifact.writer import ArtifactWriter
from exaone_export.cli.doctor import machine as machine_module
from exaone_export.cli.doctor import packages as packages_module
from exaone_export.cli.doctor import run as run_module
from exaone_export.cli.doctor import targets as targets_module
from exaone_export.cli.doctor.findings import Finding, split_fix
from exaone_export.cli.doctor.machine import Machine
from exaone_export.cli.doctor.packages import Package, check_packages
from exaone_export.cli.doctor.targets import check_target
from exaone_export.exporter.build.gpu import Gpu
from exaone_export.exporter.export import export
from exaone_export.planning import machine as system
from exaone_export.targets.engine import EngineInfo
from exaone_export.targets.target import TARGETS
from tests.cli.test_cli import run
from tests.conftest import ROOT
from tests.core.targets.test_engine import INFO

GPU = Gpu("8.9", "13.0", "NVIDIA L4", 24 << 30)
OLD_GPU = Gpu("7.5", "13.0", "NVIDIA T4", 16 << 30)
H100 = Gpu("9.0", "13.0", "NVIDIA H100 80GB HBM3", 80 << 30)


def machine(*gpus: Gpu, available: int = 16 << 30) -> Machine:
    return Machine("a processor", ("avx2",), 2, 4, 32 << 30, available, 100 << 30, gpus)


def packages(**versions: str | None) -> list[Package]:
    """With the versions of those that are named by module, and none of the others."""
    wanted = {
        "onnxruntime": ("cpu", ">=1.32"),
        "onnxruntime-gpu": ("cuda", ">=1.31"),
        "tensorrt-rtx": ("rtx", ">=1.7"),
        "tensorrt": ("tensorrt", ">=11"),
    }
    found = []
    for name, (extra, specifier) in wanted.items():
        version = versions.get(name.replace("-", "_"))
        fits = version is not None and float(version) >= float(specifier[2:])
        found.append(Package(name, extra, specifier, version, fits))
    return found


@pytest.mark.parametrize(
    ("target", "gpus", "installed", "ok", "detail", "fix"),
    [
        ("ort-cpu", (), {"onnxruntime": "1.32"}, True, "ONNX Runtime 1.32 on the CPU", None),
        ("onnx", (), {"onnxruntime_gpu": "1.33"}, True, "ONNX Runtime 1.33 on the CPU", None),
        ("ort-cpu", (), {"onnxruntime_gpu": "1.31"}, False, "onnxruntime-gpu is 1.31, >=1.32 is required", "pip"),
        ("ort-cpu", (), {}, False, "onnxruntime is not installed", "pip install 'exaone-export[cpu]'"),
        ("ort-cpu", (), {"onnxruntime": "1.31"}, False, "onnxruntime is 1.31, >=1.32 is required", "pip install"),
        ("ort-cuda", (), {"onnxruntime": "1.32"}, False, "onnxruntime-gpu is not", "pip uninstall onnxruntime, then"),
        ("ort-cuda", (), {"onnxruntime_gpu": "1.31"}, False, "there is no NVIDIA GPU here", "use a machine with"),
        ("ort-cuda", (GPU,), {"onnxruntime_gpu": "1.31"}, True, "ONNX Runtime 1.31 on NVIDIA L4", None),
        ("tensorrt", (), {}, False, "tensorrt is not installed", "pip install 'exaone-export[tensorrt]'"),
        ("tensorrt-plugin", (GPU,), {"tensorrt": "11"}, True, "TensorRT 11", None),
        ("tensorrt-rtx", (), {"tensorrt_rtx": "1.7"}, False, "can build engines here for other machines", "use a"),
        ("tensorrt-rtx", (OLD_GPU,), {"tensorrt_rtx": "1.7"}, False, "7.5 only engines built for it", "capability 7.5"),
        (
            "tensorrt-rtx",
            (H100,),
            {"tensorrt_rtx": "1.7"},
            False,
            "for other machines, but TensorRT-RTX does",
            "tensorrt, or",
        ),
        (
            "tensorrt-rtx",
            (H100,),
            {"tensorrt_rtx": "1.7"},
            False,
            "does not run on GPUs of compute capability 9.0",
            "cuda",
        ),
        ("tensorrt", (H100,), {"tensorrt": "11"}, True, "TensorRT 11", None),
        ("tensorrt-rtx", (GPU,), {"tensorrt_rtx": "1.7"}, True, "TensorRT-RTX 1.7", None),
    ],
)
def test_a_target_works_or_comes_with_its_fix(
    target: str,
    gpus: tuple[Gpu, ...],
    installed: dict[str, str],
    ok: bool,
    detail: str,
    fix: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(targets_module, "_why_no_torch", lambda: None)
    found = check_target(target, machine(*gpus), packages(**installed))
    assert found.ok is ok
    assert detail in found.detail
    assert (found.fix is None) == (fix is None)
    assert fix is None or fix in str(found.fix)


def test_a_pytorch_without_cuda() -> None:
    """The one that the tests run on is a build for the CPU."""
    import torch

    found = targets_module._why_no_torch()
    assert (found is None) == (torch.version.cuda is not None)


def test_packages_are_those_of_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch>=2.13", 'onnxruntime>=1.32; extra == "cpu"', 'ruff>=1; extra == "dev"', "numpy>=99", "gone>=1"]
    monkeypatch.setattr(packages_module.importlib.metadata, "requires", lambda _: wanted)
    found = {package.name: package for package in check_packages()}
    assert found.keys() == {"torch", "onnxruntime", "numpy", "gone"}
    assert found["torch"].fits and found["torch"].to_finding().ok
    assert found["onnxruntime"].extra == "cpu"
    old, gone = found["numpy"].to_finding(), found["gone"].to_finding()
    assert old.ok is False and old.detail.endswith("(>=99 is required)")
    assert (old.fix, gone.fix) == ("pip install 'numpy>=99'", "pip install 'gone>=1'")
    assert (gone.ok, gone.detail) == (False, "not installed")


@pytest.mark.parametrize(
    ("place", "tested"), [("before", False), ("oldest", True), ("newest", True), ("behind", False)]
)
def test_a_transformers_that_was_not_tested_is_called_by_its_name(
    place: str, tested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["export"]
    [declared] = [line.removeprefix("transformers") for line in wanted if line.startswith("transformers")]
    lower, upper = declared.split(",")
    assert lower.startswith(">=") and upper.startswith("<")
    (major, start), (_, end) = (map(int, bound.lstrip("<>=").split(".")) for bound in (lower, upper))
    minors = {"before": start - 1, "oldest": start, "newest": end - 1, "behind": end}
    found = f"{major}.{minors[place]}.2"
    version = packages_module._version
    monkeypatch.setattr(packages_module, "_version", lambda name: found if name == "transformers" else version(name))
    monkeypatch.setattr(
        packages_module.importlib.metadata, "requires", lambda _: [f'{line}; extra == "export"' for line in wanted]
    )
    result = run("doctor", "--json")
    report = json.loads(result.stdout)
    [finding] = [finding for finding in report["packages"] if finding["name"] == "transformers"]
    assert finding["ok"] is tested
    assert finding["detail"] == (found if tested else f"{found} ({declared} is required)")
    assert finding["fix"] == (None if tested else f"pip install 'transformers{declared}'")
    assert report["failed"] is not tested
    assert report["verdict"].startswith(
        "runs here: " if tested else "exports do not work here until these packages are installed or upgraded: trans"
    )
    assert result.exit_code == int(not tested)


def test_a_package_that_cannot_be_imported_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    wanted = ['onnxruntime>=1.32; extra == "cpu"']
    monkeypatch.setattr(packages_module.importlib.metadata, "requires", lambda _: wanted)
    [package] = check_packages()
    assert package.found is None
    assert package.to_finding() == Finding("onnxruntime", None, "not installed (optional, extra cpu)")


def test_it_works_where_nothing_is_installed_and_loads_nothing_heavy() -> None:
    hidden = (
        "torch",
        "transformers",
        "onnxruntime",
        "onnx",
        "onnx_ir",
        "numpy",
        "tensorrt",
        "tensorrt_rtx",
        "safetensors",
    )
    code = (
        f"import sys\nfor name in {hidden!r}: sys.modules[name] = None\n"
        "from exaone_export.cli.main import cli\ncli(['doctor', '--json'])"
    )
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    environment = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False, timeout=120
    )
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert [finding["name"] for finding in report["targets"]] == list(TARGETS)
    assert not any(finding["ok"] for finding in report["targets"])
    assert all(finding["fix"] for finding in report["targets"])
    assert result.returncode == 1


@pytest.mark.parametrize(
    ("target", "options", "wanted"),
    [
        ("ort-cpu", {}, "onnxruntime-genai 0.18 or later, by genai_config.json; ONNX Runtime in any language, by"),
        ("onnx", {}, "exaone-export; runtimes that expand functions, by"),
        ("onnx", {"inline": True}, "exaone-export; any runtime of opset 24, by"),
        ("tensorrt-rtx", {}, "exaone-export; TensorRT's parser, by"),
    ],
)
def test_what_opens_an_artifact(
    target: str, options: dict[str, bool], wanted: str, random_hybrid: Path, tmp_path: Path
) -> None:
    export(random_hybrid, tmp_path / "artifact", target=target, max_length=64, **options)
    report = json.loads(run("doctor", tmp_path / "artifact", "--json").stdout)
    [finding] = [each for each in report["artifact"] if each["name"] == "opens with"]
    assert f"{wanted} model.onnx" in finding["detail"]


def test_of_an_artifact(export_artifact: Callable[..., Path], random_hybrid: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(export_artifact(random_hybrid, "ort-cpu"), tmp_path / "artifact")
    result = run("doctor", folder)
    lines = result.stdout.splitlines()
    assert result.exit_code == 0, result.output
    assert lines[0].startswith(f"{folder} runs here: ort-cpu, ONNX Runtime ")
    assert lines[1:3] == ["", "artifact"]
    assert any(line.startswith("  ok  files") for line in lines)
    assert any("target ort-cpu" in line and "on the CPU" in line for line in lines)
    data = folder / "model.onnx.data"
    os.truncate(data, data.stat().st_size - 1)
    result = run("doctor", folder, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    [finding] = report["artifact"]
    assert report["verdict"] == f"{folder} does not open here: {finding['detail']}; fix: export the model again"
    assert run("doctor", folder).stdout.splitlines()[0] == report["verdict"]
    assert finding["name"] == "files" and finding["ok"] is False
    assert finding["detail"].startswith(f"{data} has ")
    assert finding["fix"] == "export the model again"
    assert run("doctor", "--verify", folder).exit_code == 2


def test_without_an_artifact_the_first_line_says_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "read_machine", machine)
    monkeypatch.setattr(run_module, "check_packages", lambda: packages(onnxruntime="1.32"))
    first, _, section, *rest = run_module.examine().to_text().splitlines()
    assert first == ("runs here: onnx, ort-cpu; does not run here: ort-cuda, tensorrt, tensorrt-rtx, tensorrt-plugin")
    assert section == "targets"
    assert "fix: pip install 'exaone-export[tensorrt]'" in [line.strip() for line in rest]
    old = [Package("numpy", None, ">=2", "1.0", False)]
    monkeypatch.setattr(run_module, "check_packages", lambda: old)
    report = run_module.examine()
    assert report.failed
    assert report.verdict == "nothing works here until these packages are installed or upgraded: numpy"


def examine(monkeypatch: pytest.MonkeyPatch, folder: Path, here: Machine, installed: list[Package]) -> dict[str, Any]:
    monkeypatch.setattr(targets_module, "_why_no_torch", lambda: None)
    monkeypatch.setattr(run_module, "read_machine", lambda: here)
    monkeypatch.setattr(run_module, "check_packages", lambda: installed)
    found = run_module.examine(folder).to_dict()
    return {finding["name"]: finding for finding in found["artifact"]}


def test_of_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import msgspec

    from tests.core.artifacts import MANIFEST

    recipe = {
        "precision": "float32", "compute_type": "float32", "blocks": {}, "kernels": False, "zero_points": False,
        "kept": {}, "smoothed": [], "cache": None, "hidden_size": 16,
    }  # fmt: skip
    info: EngineInfo = INFO
    with ArtifactWriter(tmp_path / "out") as staging:
        (staging.path / "model.engine").write_bytes(b"engine")
        target = "tensorrt-rtx" if info.flavour == "tensorrt_rtx" else "tensorrt"
        staging.commit(msgspec.structs.replace(MANIFEST, engine=info.to_dict(), recipe=recipe, target=target))
    assert Artifact.open(tmp_path / "out").engine == info
    installed = {info.flavour: info.version}
    wrong = [
        Package(package.name, package.extra, "", installed.get(package.name.replace("-", "_")), True)
        for package in packages()
    ]
    gpu = Gpu("12.0", "13.0", "a new one", 1 << 40)
    name = f"target {target}"
    fits = Gpu((info.compute_capabilities or ("8.9",))[0], "13.0", "its own", 1 << 40)
    assert examine(monkeypatch, tmp_path / "out", machine(fits), wrong)[name]["ok"] is True
    if info.compute_capabilities is not None:
        found = examine(monkeypatch, tmp_path / "out", machine(gpu), wrong)[name]
        assert found["ok"] is False
        assert "this GPU has 12.0" in found["detail"]
        assert found["fix"].startswith("exaone-export build ARTIFACT OUT")
    assert examine(monkeypatch, tmp_path / "out", machine(), wrong)[name]["ok"] is False


@pytest.mark.parametrize("head", ["causal-lm", "token-classification"])
def test_what_an_artifact_needs_of_the_extra(
    head: str, export_artifact: Callable[..., Path], save_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU a causal language model runs without transformers, and a classifier does not."""
    folder = export_artifact(save_model(head=head, num_labels=3), "ort-cpu", 64, "float32")
    installed = [*packages(onnxruntime="1.32"), Package("transformers", "export", ">=5.23", "5.22", False)]
    monkeypatch.setattr(run_module, "check_packages", lambda: installed)
    old, lean = run_module.examine(folder), head == "causal-lm"
    monkeypatch.setitem(sys.modules, "transformers", None)
    gone = run_module.examine(folder)
    assert (old.failed, gone.failed) == (not lean, not lean)
    if lean:
        assert old.verdict.startswith(f"{folder} runs here: ort-cpu, ONNX Runtime 1.32 on the CPU")
        assert gone.verdict == old.verdict
    else:
        found = "transformers is 5.22 (>=5.23 is required); fix: pip install 'transformers>=5.23'"
        assert old.verdict == f"{folder} does not run here: {found}"
        missing = "transformers is not installed; fix: pip install 'exaone-export[export]'"
        assert gone.verdict == f"{folder} does not run here: {missing}"


def test_of_an_artifact_that_does_not_fit_the_memory(
    export_artifact: Callable[..., Path], random_hybrid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, installed = export_artifact(random_hybrid, "ort-cpu"), packages(onnxruntime="1.32")
    assert examine(monkeypatch, folder, machine(), installed)["memory"]["ok"] is True
    found = examine(monkeypatch, folder, machine(available=1 << 10), installed)["memory"]
    assert found["ok"] is False
    assert "--max-length" in found["fix"]


def test_the_machine_is_read_from_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: A Processor\nflags\t\t: fpu avx2 avx512f avx512_vnni\n")
    (tmp_path / "meminfo").write_text("MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n")
    for name, text in {"memory.max": "max", "memory.current": "0", "memory.stat": ""}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine_module, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(system, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(system, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine_module, "list_gpus", lambda: (GPU,))
    found = machine_module.read_machine()
    assert (found.processor, found.features) == ("A Processor", ("avx2", "avx512f", "avx512_vnni"))
    assert (found.memory, found.available, found.gpus) == (16 << 30, 8 << 30, (GPU,))
    text = "\n".join(finding.detail for finding in found.to_findings())
    assert "NVIDIA L4, 24.00 GiB, compute capability 8.9, driver for CUDA 13.0" in text

    limits = {"memory.max": str(4 << 30), "memory.current": str(3 << 30), "memory.stat": f"inactive_file {1 << 30}\n"}
    for name, content in limits.items():
        (tmp_path / name).write_text(content)
    found = machine_module.read_machine()
    assert (found.memory, found.available) == (4 << 30, 2 << 30)


def test_a_sentence_is_split_at_its_fix() -> None:
    assert split_fix("a is b; run: c d.") == ("a is b", "c d")
    assert split_fix("a; b; c.") == ("a; b", "c")
    assert split_fix("a is b.") == ("a is b", None)


def test_every_extra_of_the_project_is_looked_at() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*packages_module._EXTRAS} == project["optional-dependencies"].keys() - {"dev"}
