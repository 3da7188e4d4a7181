"""Writers beside each other, and those that were killed: one artifact at the destination, whole, and nothing else."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from exaone_export.artifact.reader import MANIFEST_NAME, MODEL_NAME, Artifact
from exaone_export.artifact.writer import ArtifactWriter
from exaone_export.errors import ArtifactError
from exaone_export.files.staged_folder import bytes_left_behind
from tests.core.artifacts import FILES, MANIFEST, content, fill, leftovers, write

_HANGING_WRITER = """
    import sys, time
    from exaone_export.artifact.writer import ArtifactWriter
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
    from exaone_export.artifact.writer import ArtifactWriter
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
    with pytest.raises(ArtifactError, match="is not an artifact and not empty"), ArtifactWriter(out) as staging:
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


def test_a_folder_that_goes_while_it_is_looked_at_is_nobodys(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit removes what it has replaced while the next writer cleans up."""
    going = out.with_name(f".{out.name}.{'b' * 32}.staging")
    going.mkdir(parents=True)
    fstat = os.fstat

    def removing(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        if going.exists() and os.path.samestat(found, going.stat()):
            going.rmdir()
        return found

    monkeypatch.setattr(os, "fstat", removing)
    write(out, overwrite=True)
    assert not going.exists()
    assert content(out).keys() == {*FILES, MANIFEST_NAME}


@pytest.mark.parametrize("kind", ["retired", "staging"])
def test_another_users_folder_of_such_a_name_is_left_alone(tmp_path: Path, kind: str) -> None:
    """In a folder that users share anybody can make one, and root may rename and remove it."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder of another user's")
    theirs = tmp_path / f".out.{'0' * 32}.{kind}"
    write(theirs, {MODEL_NAME: b"theirs"})
    os.chown(theirs, 12345, 12345)
    before = content(theirs)
    with ArtifactWriter(tmp_path / "out"):
        assert not (tmp_path / "out").exists()
    write(tmp_path / "out")
    write(tmp_path / "out", overwrite=True)
    assert content(theirs) == before
    assert content(tmp_path / "out").keys() == {*FILES, MANIFEST_NAME}
    assert bytes_left_behind(tmp_path / "out") == 0
