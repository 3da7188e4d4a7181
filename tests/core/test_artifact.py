"""An artifact is whole or absent, and one that differs from its manifest by a bit is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exaone_export import artifact as artifact_module
from exaone_export.artifact import ENGINE_NAME, MANIFEST_NAME, MODEL_NAME, Artifact, ArtifactWriter, Manifest
from exaone_export.errors import ArtifactError
from exaone_export.manifest import MAX_MANIFEST_BYTES, SCHEMA_VERSION
from exaone_export.spec import ModelSpec, RopeSpec
from tests.manifests import edit_manifest

SPEC = ModelSpec(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    max_position_embeddings=64,
    layer_types=("sliding_attention", "full_attention"),
    sliding_window=8,
    rope=RopeSpec("default", 10_000.0),
)
MANIFEST = Manifest(
    schema_version=SCHEMA_VERSION,
    exaone_export_version="0.1.0",
    target="ort-cpu",
    precision="float32",
    model=SPEC.to_config(),
    source={"name": "tiny", "revision": None, "fingerprint": "0" * 64},
    recipe={"precision": "float32", "max_length": 64},
    layers=[{"index": 0, "window": 8}, {"index": 1, "window": 0}],
    cache={"max_length": 64, "capacities": [12, 64], "windows": [8, 0], "headrooms": [0, 0]},
    inputs=["input_ids"],
    outputs=["logits"],
    tool_versions={"onnx": "1.23.0"},
    files={},
)
FILES = {MODEL_NAME: b"graph" * 100, "model.onnx.data": bytes(range(256)) * 64, "config.json": b"{}"}


def fill(folder: Path, files: dict[str, bytes] | None = None) -> None:
    for name, data in (FILES if files is None else files).items():
        (folder / name).write_bytes(data)


def write(destination: Path, files: dict[str, bytes] | None = None, *, overwrite: bool = False) -> Manifest:
    with ArtifactWriter(destination, overwrite=overwrite) as staging:
        fill(staging.path, files)
        return staging.commit(MANIFEST)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def leftovers(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir() if path.name.startswith("."))


def refused(folder: Path, message: str, *, verify: bool = True) -> None:
    with pytest.raises(ArtifactError) as caught:
        Artifact.open(folder, verify=verify)
    text = str(caught.value)
    assert message in text
    assert text.endswith(".")
    assert "\n" not in text


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An artifact."""
    write(tmp_path / "out")
    return tmp_path / "out"


# Writing and opening


def test_what_is_written_is_opened(tmp_path: Path) -> None:
    written = write(tmp_path / "parent" / "out")
    opened = Artifact.open(tmp_path / "parent" / "out")
    assert opened.manifest == written == dataclasses.replace(MANIFEST, files=written.files)
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
    refused(out, f"{out / name} has {size - 1} bytes where the manifest says {size}; export", verify=verify)


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("verify", [True, False])
def test_missing_file(out: Path, name: str, verify: bool) -> None:
    (out / name).unlink()
    refused(out, f"{out / name} cannot be found (No such file or directory), but the manifest lists it", verify=verify)


def _as_link(path: Path) -> None:
    target = path.rename(path.with_name("elsewhere"))
    path.symlink_to(target)


def _as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [_as_link, _as_fifo, _as_folder])
def test_only_regular_files(out: Path, change: Callable[[Path], None]) -> None:
    change(out / "config.json")
    refused(out, "is a link or a special file; copy the artifact's files into one folder.", verify=False)


def test_a_manifest_that_is_a_link(out: Path) -> None:
    _as_link(out / MANIFEST_NAME)
    refused(out, "is a link, not a file of the artifact")


def test_no_hash_is_computed_without_verify(out: Path) -> None:
    (out / "config.json").write_bytes(b"[]")
    Artifact.open(out, verify=False)
    refused(out, "sha256 differs")


def test_nothing_is_hashed_before_every_size_is_right(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(out / "model.onnx.data", 1)
    monkeypatch.setattr(artifact_module, "_hash", lambda path: pytest.fail("hashed"))
    refused(out, "where the manifest says")


def test_not_an_artifact(tmp_path: Path) -> None:
    refused(tmp_path / "none", "is not a folder; give the folder that an export has written.")
    refused(tmp_path, f"{tmp_path} has no {MANIFEST_NAME}, so it is no artifact; give a folder")


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
    manifest = dataclasses.replace(MANIFEST, files={name: _RECORD})
    text = json.dumps(dataclasses.asdict(manifest)).encode()
    with pytest.raises(ArtifactError, match="has a value of files that no export writes"):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=1), "has schema version 1, and this program reads 2"),
        (lambda m: m.update(schema_version=True), "has schema version True"),
        (lambda m: m.update(schema_version="1"), "has schema version '1'"),
        (lambda m: m.pop("schema_version"), "has schema version None"),
        (lambda m: m.pop("files"), "has no key 'files'"),
        (lambda m: m.update(plugin="evil.so"), "has an unknown key 'plugin'"),
        (lambda m: m.update(target=1), "has a value of target that"),
        (lambda m: m.update(precision=None), "has a value of precision that"),
        (lambda m: m.update(model=[]), "has a value of model that"),
        (lambda m: m.update(source="x"), "has a value of source that"),
        (lambda m: m.update(layers={}), "has a value of layers that"),
        (lambda m: m.update(layers=[1]), "has a value of layers that"),
        (lambda m: m.update(cache=None), "has a value of cache that"),
        (lambda m: m.update(inputs=[1]), "has a value of inputs that"),
        (lambda m: m.update(outputs="logits"), "has a value of outputs that"),
        (lambda m: m.update(parity=[]), "has a value of parity that"),
        (lambda m: m.update(files=[]), "has a value of files that"),
        (lambda m: m.update(files={"a": None}), "has a value of files that"),
        (lambda m: m.update(files={"a": {"size": 1}}), "has a value of files that"),
        (lambda m: m.update(files={"a": {**_RECORD, "path": "/"}}), "has a value of files that"),
        (lambda m: m.update(files={"a": {**_RECORD, "size": -1}}), "has a value of files that"),
        (lambda m: m.update(files={"a": {**_RECORD, "size": True}}), "has a value of files that"),
        (lambda m: m.update(files={"a": {**_RECORD, "sha256": "0" * 63}}), "has a value of files that"),
        (lambda m: m.update(files={"a": {**_RECORD, "sha256": "G" * 64}}), "has a value of files that"),
        (lambda m: m.update(model={"model_type": "exaone4"}), "describes no model: "),
        (lambda m: m["model"].update(sliding_window=0), "describes no model: sliding_window is 0"),
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
    manifest = dataclasses.replace(MANIFEST, files={"a.bin": _RECORD}, source={"name": "수출"}, parity={"max": 0.5})
    text = manifest.to_json()
    assert Manifest.from_json(text) == manifest
    assert "수출".encode() in text
    assert list(json.loads(text)) == sorted(json.loads(text))
    with pytest.raises(ArtifactError, match="the manifest cannot be written"):
        dataclasses.replace(MANIFEST, parity={"max": float("nan")}).to_json()


# The destination


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_somebody_else_is_refused_before_any_work(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(ArtifactError, match="out is no artifact and not empty; choose another destination"),
        ArtifactWriter(tmp_path / "out", overwrite=overwrite),
    ):
        pytest.fail("work was done")
    assert content(tmp_path / "out") == {"thesis.txt": b"years of work"}
    assert leftovers(tmp_path) == []


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("years of work")
    with (
        pytest.raises(ArtifactError, match="out is a file; choose another destination"),
        ArtifactWriter(tmp_path / "out"),
    ):
        pytest.fail("work was done")


def test_an_artifact_is_not_replaced_unasked(out: Path) -> None:
    before = content(out)
    with (
        pytest.raises(ArtifactError, match="out is an artifact already; pass --overwrite to replace it"),
        ArtifactWriter(out),
    ):
        pytest.fail("work was done")
    assert content(out) == before


def test_an_artifact_is_replaced(out: Path) -> None:
    write(out, {MODEL_NAME: b"new"}, overwrite=True)
    assert content(Artifact.open(out).folder).keys() == {MODEL_NAME, MANIFEST_NAME}
    assert leftovers(out.parent) == []


def test_overwrite_where_nothing_stands(tmp_path: Path) -> None:
    write(tmp_path / "out", overwrite=True)
    Artifact.open(tmp_path / "out")


def test_files_that_were_put_into_an_artifact_are_not_lost(out: Path) -> None:
    (out / "notes.txt").write_text("mine")
    with (
        pytest.raises(ArtifactError, match=r"holds 'notes\.txt', which is not of the artifact and would be lost"),
        ArtifactWriter(out, overwrite=True),
    ):
        pytest.fail("work was done")
    assert (out / "notes.txt").read_text() == "mine"


def test_a_folder_whose_manifest_is_garbage_is_not_replaced(out: Path) -> None:
    (out / MANIFEST_NAME).write_text("garbage")
    with (
        pytest.raises(ArtifactError, match="has a manifest that cannot be read; remove the folder"),
        ArtifactWriter(out, overwrite=True),
    ):
        pytest.fail("work was done")


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    Artifact.open(tmp_path / "out")


def test_a_link_keeps_pointing_to_the_new_artifact(out: Path) -> None:
    link = out.parent / "latest"
    link.symlink_to(out)
    write(link, {MODEL_NAME: b"new"}, overwrite=True)
    assert link.is_symlink()
    assert Artifact.open(out).manifest.files.keys() == {MODEL_NAME}


def test_a_parent_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"), ArtifactWriter(tmp_path / "file" / "out"):
        pytest.fail("work was done")


# Interruption


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_exception_leaves_the_destination_alone(tmp_path: Path, error: type[BaseException], overwrite: bool) -> None:
    out = tmp_path / "out"
    if overwrite:
        write(out)
    before = content(out) if overwrite else None
    with pytest.raises(error), ArtifactWriter(out, overwrite=overwrite) as staging:
        fill(staging.path)
        raise error
    assert (content(out) if out.exists() else None) == before
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("step", ["_sync", "_hash", "_write_synced", "_exchange"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_failure_within_commit_leaves_the_old_artifact(
    out: Path, step: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    before = content(out)
    monkeypatch.setattr(artifact_module, step, fail)
    with pytest.raises((ArtifactError, KeyboardInterrupt)):
        write(out, {MODEL_NAME: b"new"}, overwrite=True)
    assert content(out) == before
    assert leftovers(out.parent) == []


def test_a_failure_between_the_two_renames_puts_the_old_artifact_back(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_for_staging(self: Path, target: Path) -> Path:
        if self.name.endswith(".staging"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    before = content(out)
    monkeypatch.setattr(Path, "rename", fail_for_staging)
    with pytest.raises(
        ArtifactError, match=r"out cannot be written \(Input/output error\); choose another destination"
    ):
        write(out, {MODEL_NAME: b"new"}, overwrite=True)
    assert content(out) == before
    assert leftovers(out.parent) == []


def test_left_without_a_commit_nothing_appears(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "out") as staging:
        fill(staging.path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError):
        _ = staging.path


def test_a_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match="has no room for the artifact; free some"),
        ArtifactWriter(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_is_written_last_and_everything_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record_fsync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def record_rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    with ArtifactWriter(tmp_path / "out") as staging:
        fill(staging.path)
        folder = staging.path.name
        staging.commit(MANIFEST)
    assert events == [*sorted(FILES), MANIFEST_NAME, folder, "rename", tmp_path.name]


@pytest.mark.parametrize("make", [_as_link, _as_fifo, _as_folder])
def test_only_plain_files_are_committed(tmp_path: Path, make: Callable[[Path], None]) -> None:
    with (
        pytest.raises(ArtifactError, match="cannot be part of an artifact, whose files lie flat in one folder"),
        ArtifactWriter(tmp_path / "out") as staging,
    ):
        fill(staging.path)
        make(staging.path / "config.json")
        staging.commit(MANIFEST)
    assert list(tmp_path.iterdir()) == []


def test_a_second_commit_is_a_mistake(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "out") as staging:
        fill(staging.path)
        staging.commit(MANIFEST)
        with pytest.raises(RuntimeError):
            staging.commit(MANIFEST)
    Artifact.open(tmp_path / "out")


# Other processes

_HANGING_WRITER = """
    import sys, time
    from exaone_export.artifact import ArtifactWriter
    with ArtifactWriter(sys.argv[1], overwrite=True) as staging:
        (staging.path / "model.onnx").write_bytes(b"half")
        print(staging.path.name, flush=True)
        time.sleep(600)
"""


def start_hanging_writer(out: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that has written half an artifact, and its staging folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_HANGING_WRITER), str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, out.parent / process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_killed_writer_leaves_the_artifact_and_the_next_one_cleans_up(out: Path) -> None:
    before = content(out)
    process, staging = start_hanging_writer(out)
    kill(process)
    assert content(out) == before
    Artifact.open(out)
    assert leftovers(out.parent) == [staging.name]

    write(out, {MODEL_NAME: b"new"}, overwrite=True)
    assert leftovers(out.parent) == []


_BUSY_WRITER = """
    import pickle, sys
    from exaone_export.artifact import ArtifactWriter
    manifest, out = pickle.load(sys.stdin.buffer), sys.argv[1]
    print("ready", flush=True)
    for number in range(10**9):
        with ArtifactWriter(out, overwrite=True) as staging:
            for name in ("model.onnx", "model.onnx.data"):
                (staging.path / name).write_bytes(b"%d" % number * 1000)
            staging.commit(manifest)
"""


@pytest.mark.parametrize("milliseconds", range(5, 125, 10))
def test_killed_at_any_moment_the_artifact_is_old_or_new_and_never_mixed(out: Path, milliseconds: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_BUSY_WRITER), str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(pickle.dumps(MANIFEST))
    process.stdin.close()
    process.stdout.readline()
    time.sleep(milliseconds / 1000)
    process.kill()
    process.wait()
    process.stdout.close()

    if out.exists():
        Artifact.open(out)
    with ArtifactWriter(out, overwrite=True):  # Killed between the two renames, the artifact comes back here.
        files = content(Artifact.open(out).folder)
        assert files["model.onnx"] == files["model.onnx.data"] or files["config.json"] == FILES["config.json"]
    assert leftovers(out.parent) == []


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    process, staging = start_hanging_writer(tmp_path / "out")
    try:
        write(tmp_path / "out")
        assert leftovers(tmp_path) == [staging.name]
        assert content(staging) == {MODEL_NAME: b"half"}
    finally:
        kill(process)


def test_a_writer_killed_between_the_two_renames(out: Path) -> None:
    before = content(out)
    retired = out.with_name(f".out.{'0' * 32}.retired")
    out.rename(retired)
    with ArtifactWriter(out, overwrite=True):
        pass
    assert content(out) == before

    shutil.copytree(out, retired)
    with ArtifactWriter(out, overwrite=True):
        pass
    assert content(out) == before
    assert leftovers(out.parent) == []


@pytest.mark.parametrize(
    "name", [".out.staging", ".out.xyz.staging", f".other.{'0' * 32}.staging", f"out.{'0' * 32}.staging"]
)
def test_other_names_are_not_cleaned_up(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    write(tmp_path / "out")
    assert (tmp_path / name).is_dir()


def test_a_link_named_like_a_staging_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    (tmp_path / f".out.{'0' * 32}.staging").symlink_to(tmp_path / "precious")
    write(tmp_path / "out")
    assert (tmp_path / "precious" / "thesis.txt").exists()


def test_a_destination_named_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / f".a.{'0' * 32}.staging").mkdir()
    write(tmp_path / "[a].*")
    Artifact.open(tmp_path / "[a].*")
    assert (tmp_path / f".a.{'0' * 32}.staging").is_dir()


def test_two_writers_one_destination(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ArtifactWriter(out) as first, ArtifactWriter(out) as second:
        assert first.path != second.path
        fill(first.path, {MODEL_NAME: b"first"})
        fill(second.path, {MODEL_NAME: b"second"})
        first.commit(MANIFEST)
        with pytest.raises(ArtifactError, match="is an artifact already"):
            second.commit(MANIFEST)
    assert content(Artifact.open(out).folder)[MODEL_NAME] == b"first"
    assert leftovers(tmp_path) == []


def test_a_user_who_was_faster(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ArtifactError, match="is no artifact and not empty"), ArtifactWriter(out) as staging:
        fill(staging.path)
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
        staging.commit(MANIFEST)
    assert content(out) == {"thesis.txt": b"years of work"}


def test_many_writers_that_overwrite(out: Path) -> None:
    versions = [{MODEL_NAME: bytes([i]) * 1000, f"only-{i}.bin": bytes([i])} for i in range(16)]
    errors: list[BaseException] = []

    def run(files: dict[str, bytes]) -> None:
        try:
            write(out, files, overwrite=True)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run, args=(files,)) for files in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    final = content(Artifact.open(out).folder)
    final.pop(MANIFEST_NAME)
    assert final in versions
    assert leftovers(out.parent) == []


def test_recording_parity_changes_the_manifest_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    write(folder)
    before = Artifact.open(folder)
    recorded = before.record_parity({"passed": True})
    assert Artifact.open(folder) == recorded
    assert recorded.manifest == dataclasses.replace(before.manifest, parity={"passed": True})
    assert {path.name for path in folder.iterdir()} == {*before.manifest.files, MANIFEST_NAME}


def test_a_half_written_record_of_a_dead_process_is_in_nobodys_way(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    write(folder)
    (folder / f".{MANIFEST_NAME}.0123abcd.partial").write_text("{")
    Artifact.open(folder)
    write(folder, overwrite=True)
    assert not list(folder.glob(".*"))
