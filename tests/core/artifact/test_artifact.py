"""An artifact that differs from its manifest by a bit is refused."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exaone_export.artifact import checks as artifact_checks
from exaone_export.artifact.manifest import MAX_MANIFEST_BYTES
from exaone_export.artifact.reader import ENGINE_NAME, MANIFEST_NAME, MODEL_NAME, Artifact, Manifest
from exaone_export.errors import ArtifactError, ArtifactReplacedError
from tests.core.artifacts import FILES, MANIFEST, SPEC, as_fifo, as_folder, as_link, content, leftovers, write
from tests.manifests import edit_manifest


def refused(folder: Path, message: str, *, verify: bool = True) -> None:
    with pytest.raises(ArtifactError) as caught:
        Artifact.open(folder, verify=verify)
    text = str(caught.value)
    assert message in text
    assert text.endswith(".")
    assert "\n" not in text


# Writing and opening


def test_what_is_written_is_opened(tmp_path: Path) -> None:
    written = write(tmp_path / "parent" / "out")
    opened = Artifact.open(tmp_path / "parent" / "out")
    assert opened.manifest == written == msgspec.structs.replace(MANIFEST, files=written.files)
    assert opened.spec == SPEC
    assert opened.model_path == opened.folder / MODEL_NAME
    assert written.files.keys() == FILES.keys()
    assert written.files["config.json"] == {
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "size": 2,
    }
    assert content(opened.folder) == FILES | {MANIFEST_NAME: written.to_json()}
    assert leftovers(tmp_path / "parent") == []


def test_equal_exports_are_equal_to_the_byte(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", dict(reversed(FILES.items())))
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_extra_files_are_ignored(out: Path) -> None:
    (out / "notes.txt").write_text("mine")
    assert Artifact.open(out).manifest.files.keys() == FILES.keys()


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_flipped_bit_is_seen(out: Path, name: str) -> None:
    chance = random.Random(name)
    original = (out / name).read_bytes()
    for _ in range(25):
        data = bytearray(original)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (out / name).write_bytes(data)
        refused(out, f"{out / name} is not the file that was exported (its sha256 differs); export the model again.")
    (out / name).write_bytes(original)
    Artifact.open(out)


def test_every_flipped_bit_of_the_manifest_is_seen(out: Path) -> None:
    chance = random.Random(0)
    path = out / MANIFEST_NAME
    original = path.read_bytes()
    for _ in range(300):
        data = bytearray(original)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        refused(out, "")


def test_a_manifest_is_the_bytes_that_are_written_and_no_others(out: Path) -> None:
    path = out / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_bytes()), sort_keys=True, ensure_ascii=False))
    refused(out, f"{MANIFEST_NAME} was changed after it was written (its manifest_sha256 differs); export the model")


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("verify", [True, False])
def test_truncated_file(out: Path, name: str, verify: bool) -> None:
    size = len(FILES[name])
    os.truncate(out / name, size - 1)
    refused(out, f"{out / name} has {size - 1} bytes, and the manifest lists {size}; export", verify=verify)


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("verify", [True, False])
def test_missing_file(out: Path, name: str, verify: bool) -> None:
    (out / name).unlink()
    refused(out, f"{out / name} cannot be found (No such file or directory), but the manifest lists it", verify=verify)


@pytest.mark.parametrize("change", [as_link, as_fifo, as_folder])
def test_only_regular_files(out: Path, change: Callable[[Path], None]) -> None:
    change(out / "config.json")
    refused(out, "is a link or a special file; copy the artifact's files into one folder.", verify=False)


def test_a_manifest_that_is_a_link(out: Path) -> None:
    as_link(out / MANIFEST_NAME)
    refused(out, "is a link, not a file of the artifact")


def test_no_hash_is_computed_without_verify(out: Path) -> None:
    (out / "config.json").write_bytes(b"[]")
    Artifact.open(out, verify=False)
    refused(out, "sha256 differs")


def test_nothing_is_hashed_before_every_size_is_right(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(out / "model.onnx.data", 1)
    monkeypatch.setattr(artifact_checks, "hash_of", lambda path, check: pytest.fail("hashed"))
    refused(out, "and the manifest lists")


def test_weights_may_be_left_for_later_and_are_then_checked(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By then the small files have been checked, and nobody can run the artifact before."""
    with monkeypatch.context() as patch:
        hashed: list[str] = []
        real = artifact_checks.hash_of
        patch.setattr(artifact_checks, "hash_of", lambda path, check: hashed.append(path.name) or real(path))
        opened = Artifact.open(out, weights_later=True)
        assert hashed and not [name for name in hashed if name.startswith("model.")]
        with pytest.raises(AssertionError, match="comes first"):
            _ = opened.model_path
        checked = opened.check_weights()
        assert sorted(hashed) == sorted(opened.manifest.files) and checked.model_path == out / "model.onnx"
    data = (out / "model.onnx.data").read_bytes()
    (out / "model.onnx.data").write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(ArtifactError, match=r"model\.onnx\.data is not the file that was exported"):
        Artifact.open(out, weights_later=True).check_weights()
    (out / "model.onnx.data").write_bytes(data)
    (out / "config.json").write_bytes(b"[]")
    with pytest.raises(ArtifactError, match=r"config\.json is not the file"):
        Artifact.open(out, weights_later=True)


def test_weights_are_hashed_while_they_are_loaded(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    loaded = threading.Event()
    real = artifact_checks.hash_of

    def hash_of(path: Path, check: Callable[[], None]) -> str:
        if path.name == "model.onnx.data":
            assert loaded.wait(60)  # or it would not be beside
        hashed.append(path.name)
        return real(path, check)

    monkeypatch.setattr(artifact_checks, "hash_of", hash_of)
    with Artifact.open(out, weights_later=True).checking_weights() as checked:
        assert checked.model_path == out / "model.onnx" and "model.onnx" in hashed and "model.onnx.data" not in hashed
        loaded.set()
    assert sorted(hashed) == sorted(checked.manifest.files)
    with checked.checking_weights() as again:
        assert again is checked
    assert sorted(hashed) == sorted(checked.manifest.files)


@pytest.mark.parametrize("loads", [True, False])
def test_damaged_weights_are_named_whatever_comes_of_loading_them(out: Path, loads: bool) -> None:
    with (out / "model.onnx.data").open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    opened = Artifact.open(out, weights_later=True)
    with pytest.raises(ArtifactError, match=r"model\.onnx\.data is not the file"), opened.checking_weights():
        if not loads:
            raise ValueError("the runtime cannot read these numbers")


def test_an_interruption_ends_the_hashing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), list[BaseException]()

    def hash_of(path: Path, check: Callable[[], None]) -> str:
        while path.name == "model.onnx.data":
            begun.set()
            try:
                check()
            except Exception as error:
                ended.append(error)
                raise
        return artifact_hash(path, check)

    artifact_hash = artifact_checks.hash_of
    monkeypatch.setattr(artifact_checks, "hash_of", hash_of)
    with pytest.raises(KeyboardInterrupt), Artifact.open(out, weights_later=True).checking_weights():
        assert begun.wait(60)
        raise KeyboardInterrupt
    assert len(ended) == 1 and not [each for each in threading.enumerate() if each.name == "exaone-beside"]


def test_a_failure_to_load_good_weights_is_raised_as_it_is(out: Path) -> None:
    opened = Artifact.open(out, weights_later=True)
    with pytest.raises(ValueError, match="no such kernel"), opened.checking_weights():
        raise ValueError("no such kernel")


def test_a_damaged_graph_is_not_loaded(out: Path) -> None:
    graph = (out / "model.onnx").read_bytes()
    (out / "model.onnx").write_bytes(graph[:-1] + bytes([graph[-1] ^ 1]))
    opened = Artifact.open(out, weights_later=True)
    with pytest.raises(ArtifactError, match=r"model\.onnx is not the file"), opened.checking_weights():
        pytest.fail("loaded")


def test_an_artifact_that_is_replaced_before_its_weights_are_checked(out: Path) -> None:
    opened = Artifact.open(out, weights_later=True)
    (out / "model.onnx.data").write_bytes((out / "model.onnx.data").read_bytes())
    with pytest.raises(ArtifactReplacedError):
        opened.check_weights()


def test_not_an_artifact(tmp_path: Path) -> None:
    refused(
        tmp_path / "none", "is not a folder; give the folder that an export has written, or a hub id such as ORG/NAME."
    )
    refused(tmp_path, f"{tmp_path} has no {MANIFEST_NAME}, so it is not an artifact; give a folder")


# The manifest

_RECORD = {"sha256": "0" * 64, "size": 1}


@pytest.mark.parametrize(
    "name",
    [
        "../model.onnx", "/etc/passwd", "sub/model.onnx", "..\\model.onnx", "C:model.onnx", "..", ".", "", ".hidden",
        "model\0.onnx", "model\n.onnx", "a" * 256, "é" * 128, MANIFEST_NAME, "\ud800",
    ],
    ids=ascii,
)  # fmt: skip
def test_names_that_could_mean_another_place(name: str) -> None:
    manifest = msgspec.structs.replace(MANIFEST, files={name: _RECORD})
    text = json.dumps(msgspec.structs.asdict(manifest)).encode()
    with pytest.raises(ArtifactError, match=r"lists .* which is not the name of a file of the artifact"):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=1), "has schema version 1, and this program reads 3"),
        (lambda m: m.update(schema_version=True), "has schema version True"),
        (lambda m: m.update(schema_version="1"), "has schema version '1'"),
        (lambda m: m.pop("schema_version"), "has schema version None"),
        (lambda m: m.pop("files"), "has no key 'files'"),
        (lambda m: m.update(plugin="evil.so"), "has an unknown key 'plugin'"),
        (lambda m: m.update(target=1), "has 1 at target, which is not str"),
        (lambda m: m.update(precision=None), "has None at precision, which is not str"),
        (lambda m: m.update(model=[]), "has [] at model, which is not object"),
        (lambda m: m.update(source="x"), "has 'x' at source, which is not object"),
        (lambda m: m.update(layers={}), "has {} at layers, which is not array"),
        (lambda m: m.update(layers=[1]), "has 1 at layers[0], which is not object"),
        (lambda m: m.update(cache=None), "has None at cache, which is not object"),
        (lambda m: m.update(inputs=[1]), "has 1 at inputs[0], which is not str"),
        (lambda m: m.update(outputs="logits"), "has 'logits' at outputs, which is not array"),
        (lambda m: m.update(parity=[]), "has [] at parity, which is not object | null"),
        (lambda m: m.update(files=[]), "has [] at files, which is not object"),
        (lambda m: m.update(files={"a": None}), "has None at files[...], which is not object"),
        (lambda m: m.update(files={"a": {"size": 1}}), "has no key 'files[...].sha256'"),
        (lambda m: m.update(files={"a": {**_RECORD, "path": "/"}}), "was changed after it was written"),
        (lambda m: m.update(files={"a": {**_RECORD, "size": -1}}), "has -1 at files[...].size, which is not int >= 0"),
        (lambda m: m.update(files={"a": {**_RECORD, "size": True}}), "has True at files[...].size, which is not int"),
        (
            lambda m: m.update(files={"a": {**_RECORD, "sha256": "0" * 63}}),
            "at files[...].sha256, which is not of the form [0-9a-f]{64}",
        ),
        (
            lambda m: m.update(files={"a": {**_RECORD, "sha256": "G" * 64}}),
            "at files[...].sha256, which is not of the form [0-9a-f]{64}",
        ),
        (lambda m: m.update(model={"model_type": "exaone4"}), "does not describe a valid model: "),
        (lambda m: m["model"].update(sliding_window=0), "does not describe a valid model: sliding_window is 0"),
        (lambda m: m["files"].pop(MODEL_NAME), f"lists neither {MODEL_NAME} nor {ENGINE_NAME}"),
    ],
)
def test_manifests_that_no_export_writes(out: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    edit_manifest(out, change)
    refused(out, message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not valid JSON"),
        (b"\x80\x04garbage", "is not valid JSON"),
        (b"[]", "holds a list, not an object"),
        (b'{"a": 1, "a": 1}', "gives the key 'a' twice"),
        (b'{"a": ' * 100_000, "is nested deeper than 32 levels"),
        (b"{" + b" " * MAX_MANIFEST_BYTES + b"}", f"and at most {MAX_MANIFEST_BYTES} are read"),
    ],
    ids=["empty", "garbage", "list", "twice", "deep", "large"],
)
def test_manifests_that_are_none(out: Path, data: bytes, message: str) -> None:
    (out / MANIFEST_NAME).write_bytes(data)
    refused(out, message)
    with pytest.raises(ArtifactError):
        Manifest.from_json(data)


def test_manifest_text_that_is_too_large() -> None:
    with pytest.raises(ArtifactError, match=f"has {MAX_MANIFEST_BYTES + 1} bytes, more than {MAX_MANIFEST_BYTES}"):
        Manifest.from_json(b" " * (MAX_MANIFEST_BYTES + 1))


def test_manifest_text() -> None:
    manifest = msgspec.structs.replace(MANIFEST, files={"a.bin": _RECORD}, source={"name": "수출"}, parity={"max": 0.5})
    text = manifest.to_json()
    assert Manifest.from_json(text) == manifest
    assert "수출".encode() in text
    assert list(json.loads(text)) == sorted(json.loads(text))
    with pytest.raises(ArtifactError, match="the manifest cannot be written"):
        msgspec.structs.replace(MANIFEST, parity={"max": float("nan")}).to_json()


def test_recording_parity_changes_the_manifest_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    write(folder)
    before = Artifact.open(folder)
    recorded = before.record_parity({"passed": True})
    assert Artifact.open(folder) == recorded
    assert recorded.manifest == msgspec.structs.replace(before.manifest, parity={"passed": True})
    assert {path.name for path in folder.iterdir()} == {*before.manifest.files, MANIFEST_NAME}


def test_a_half_written_record_of_a_dead_process_is_in_nobodys_way(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    write(folder)
    (folder / f".{'0123abcd' * 4}.partial").write_text("{")
    Artifact.open(folder)
    write(folder, overwrite=True)
    assert not list(folder.glob(".*"))
