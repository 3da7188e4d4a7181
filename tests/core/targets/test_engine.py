"""What a manifest says of an engine: read strictly, and compared with a machine before the engine is touched."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exaone_export.artifact.reader import ENGINE_NAME, MODEL_NAME, Artifact
from exaone_export.artifact.writer import ArtifactWriter
from exaone_export.errors import ArtifactError, MissingExtraError, TargetError
from exaone_export.targets.engine import DECODE, PREFILL, EngineInfo, Profile, Range
from exaone_export.targets.flavour import FLAVOURS
from exaone_export.targets.target import TARGETS
from tests.core.artifacts import MANIFEST

ONE, TOTAL = Range(1, 1, 1), Range(1, 64, 64)
INFO = EngineInfo(
    flavour="tensorrt_rtx",
    version="1.7.1.116",
    compute_capabilities=None,
    driver=None,
    profiles=(
        Profile(PREFILL, Range(1, 2, 4), Range(1, 16, 16), TOTAL, Range(1, 1, 16)),
        Profile(DECODE, Range(1, 2, 4), ONE, TOTAL, ONE),
    ),
    options={"workspace_gib": None},
    plugin=False,
    onnx={MODEL_NAME: "a" * 64, "model.onnx.data": "0" * 64},
)
ON_89 = msgspec.structs.replace(INFO, compute_capabilities=("8.9", "12.0"))
WITH_PLUGIN = msgspec.structs.replace(INFO, plugin=True)
HERE: dict[str, Any] = {"flavour": "tensorrt_rtx", "version": "1.7.1.116", "compute_capability": "8.9"}


@pytest.mark.parametrize("info", [INFO, ON_89, msgspec.structs.replace(INFO, driver="13.0", plugin=True)])
def test_what_is_written_is_read_back(info: EngineInfo) -> None:
    assert EngineInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info
    assert info.profile(DECODE).sequence == ONE
    assert (info.profile_index(PREFILL), info.profile_index(DECODE)) == (0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("version"), "has no key 'version'"),
        (lambda e: e.update(more=1), "has an unknown key 'more'"),
        (lambda e: e.update(flavour="onnx"), "has 'onnx' at flavour, which is not of the form tensorrt|tensorrt_rtx"),
        (lambda e: e.update(flavour=["tensorrt"]), "has ['tensorrt'] at flavour, which is not str"),
        (lambda e: e.update(version="1.7; rm"), "has '1.7; rm' at version, which is not of the form"),
        (lambda e: e.update(version=None), "has None at version, which is not str"),
        (
            lambda e: e.update(compute_capabilities=[]),
            "has [] at compute_capabilities, which is not array of length >= 1",
        ),
        (
            lambda e: e.update(compute_capabilities=["89"]),
            "has '89' at compute_capabilities[0], which is not of the form",
        ),
        (
            lambda e: e.update(compute_capabilities="8.9"),
            "has '8.9' at compute_capabilities, which is not array | null",
        ),
        (lambda e: e.update(driver=13.0), "has 13.0 at driver, which is not str | null"),
        (lambda e: e.update(options=None), "has None at options, which is not object"),
        (lambda e: e.update(plugin=1), "has 1 at plugin, which is not bool"),
        (lambda e: e.update(onnx={}), "has {} at onnx, which is not object of length >= 1"),
        (lambda e: e.update(onnx={MODEL_NAME: "A" * 64}), "has 'AAAA"),
        (lambda e: e.update(profiles=[]), "must have the profiles prefill and decode"),
        (lambda e: e["profiles"].reverse(), "must have the profiles prefill and decode"),
        (lambda e: e["profiles"].append(e["profiles"][0]), "must have the profiles prefill and decode"),
        (lambda e: e["profiles"][0].pop("kept"), "has no key 'profiles[0].kept'"),
        (lambda e: e["profiles"][0].update(more=[1, 1, 1]), "has an unknown key 'profiles[0].more'"),
        (
            lambda e: e["profiles"][0].update(batch=[1, 4]),
            "has [1, 4] at profiles[0].batch, which is not array of at least length 3",
        ),
        (lambda e: e["profiles"][0].update(batch=[0, 1, 2]), "has 0 at profiles[0].batch[0], which is not int >= 1"),
        (
            lambda e: e["profiles"][0].update(batch=[2, 1, 2]),
            "cannot be used: profiles[0].batch: 2, 1 and 2 must be in ascending order",
        ),
        (
            lambda e: e["profiles"][0].update(batch=[1, 3, 2]),
            "cannot be used: profiles[0].batch: 1, 3 and 2 must be in ascending order",
        ),
        (lambda e: e["profiles"][0].update(batch=[True, 1, 2]), "has True at profiles[0].batch[0], which is not int"),
    ],
)
def test_records_that_no_build_writes(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    record = INFO.to_dict()
    change(record)
    with pytest.raises(ArtifactError, match=f"^the manifest's engine {re.escape(message)}"):
        EngineInfo.from_dict(record)


@pytest.mark.parametrize(
    ("info", "machine"),
    [
        (INFO, {}),
        (INFO, {"compute_capability": "8.0"}),
        (INFO, {"compute_capability": "12.1"}),
        (ON_89, {"compute_capability": "12.0"}),
        (WITH_PLUGIN, {"has_plugin": True}),
    ],
)
def test_engines_that_fit(info: EngineInfo, machine: dict[str, Any]) -> None:
    info.check_fits(**(HERE | machine))


@pytest.mark.parametrize(
    ("info", "machine", "message"),
    [
        (
            INFO,
            {"version": "1.8.0.1"},
            "the engine was built by TensorRT-RTX 1.7.1.116, and 1.8.0.1, which is installed, does not read it; "
            "run: exaone-export build ARTIFACT OUT, or pip install tensorrt-rtx==1.7.1.116.",
        ),
        (
            INFO,
            {"flavour": "tensorrt"},
            "the engine is TensorRT-RTX's, and tensorrt does not read it; run: pip install 'exaone-export[rtx]'.",
        ),
        (
            INFO,
            {"compute_capability": "7.5"},
            "the engine runs on compute capability 8.0, 8.6, 8.9, 12.x, and this GPU has 7.5; "
            "run: exaone-export build ARTIFACT OUT --compute-capability 7.5.",
        ),
        (
            ON_89,
            {"compute_capability": "8.6"},
            "the engine runs on compute capability 8.9, 12.0, and this GPU has 8.6; "
            "run: exaone-export build ARTIFACT OUT --compute-capability 8.6.",
        ),
        *(
            (
                info,
                {"compute_capability": capability, "version": "1.8.0.1"},
                f"TensorRT-RTX does not run on GPUs of compute capability {capability}, only on 7.5, 8.0, 8.6, 8.9, "
                "12.x; run: exaone-export export MODEL OUT --target tensorrt, or --target ort-cuda.",
            )
            for info in (INFO, ON_89)
            for capability in ("9.0", "10.0", "8.7", "7.0")
        ),
        (
            msgspec.structs.replace(ON_89, flavour="tensorrt", compute_capabilities=("9.0",)),
            {"flavour": "tensorrt"},
            "the engine runs on compute capability 9.0, and this GPU has 8.9; "
            "run: exaone-export build ARTIFACT OUT on this machine.",
        ),
        (
            WITH_PLUGIN,
            {},
            "the engine's attention is a plugin's, and none is registered with tensorrt_rtx; import the module that "
            "registers exaone::HybridAttention, the one that exaone-export build was given as --plugin.",
        ),
    ],
)
def test_engines_that_do_not_fit(info: EngineInfo, machine: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError) as refusal:
        info.check_fits(**(HERE | machine))
    assert str(refusal.value) == message


def test_a_flavour_for_every_target_that_becomes_an_engine() -> None:
    found = {}
    for target in TARGETS:
        try:
            found[target] = TARGETS[target].engine_flavour().name
        except TargetError as refusal:
            assert str(refusal) == (
                f"an artifact of target {target} does not become an engine; run: exaone-export export MODEL ARTIFACT "
                f"--target tensorrt or tensorrt-plugin or tensorrt-rtx."
            )
    assert found == {"tensorrt": "tensorrt", "tensorrt-plugin": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=list(FLAVOURS))
def test_a_library_that_is_not_installed(flavour: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, flavour.name, None)
    with pytest.raises(MissingExtraError, match=rf"needs {flavour.name}, .*'exaone-export\[{flavour.extra}\]'\.$"):
        flavour.load()


def write(folder: Path, name: str, engine: dict[str, Any] | None, *more: str) -> Path:
    with ArtifactWriter(folder) as staging:
        for file in (name, *more):
            (staging.path / file).write_bytes(b"content")
        staging.commit(msgspec.structs.replace(MANIFEST, engine=engine))
    return folder


def test_an_engine_folder_opens_with_what_it_was_built_for(tmp_path: Path) -> None:
    opened = Artifact.open(write(tmp_path / "out", ENGINE_NAME, INFO.to_dict()))
    assert opened.engine == INFO
    assert opened.model_path.name == ENGINE_NAME
    assert Artifact.open(write(tmp_path / "graph", MODEL_NAME, None)).engine is None


@pytest.mark.parametrize(
    ("names", "engine", "message"),
    [
        ((ENGINE_NAME,), None, "lists model.engine, and must list model.onnx alone, or model.engine alone with what"),
        ((MODEL_NAME,), INFO.to_dict(), "lists model.onnx, and must list"),
        ((MODEL_NAME, ENGINE_NAME), INFO.to_dict(), "lists model.engine and model.onnx, and must list"),
        ((ENGINE_NAME,), {}, "the manifest's engine has no key"),
        ((ENGINE_NAME,), INFO.to_dict() | {"version": 1}, "the manifest's engine has 1 at version, which is not str"),
    ],
)
def test_folders_whose_manifest_and_engine_disagree(
    tmp_path: Path, names: tuple[str, ...], engine: dict[str, Any] | None, message: str
) -> None:
    write(tmp_path / "out", names[0], engine, *names[1:])
    with pytest.raises(ArtifactError, match=message):
        Artifact.open(tmp_path / "out")
