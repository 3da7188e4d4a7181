"""An artifact is whole or absent, whatever happens to its writer."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exaone_export import artifact_writer
from exaone_export.artifact import MANIFEST_NAME, MODEL_NAME, Artifact
from exaone_export.artifact_writer import JOURNAL_NAME, ArtifactWriter
from exaone_export.errors import ArtifactError
from tests.core.artifacts import FILES, MANIFEST, as_fifo, as_folder, as_link, content, fill, leftovers, write


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An artifact."""
    write(tmp_path / "out")
    return tmp_path / "out"


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


@pytest.mark.parametrize("step", ["sync", "hash_of", "write_synced", "_put_in_place"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_failure_within_commit_leaves_the_old_artifact(
    out: Path, step: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    before = content(out)
    monkeypatch.setattr(artifact_writer, step, fail)
    with pytest.raises((ArtifactError, KeyboardInterrupt)):
        write(out, {MODEL_NAME: b"new"}, overwrite=True)
    assert content(out) == before
    assert leftovers(out.parent) == []


def no_swap(*_: Path) -> None:
    """What a file system does that cannot exchange two folders."""
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def test_an_artifact_is_never_missing_while_it_is_replaced(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("renamed in two steps"))
    write(out, {MODEL_NAME: b"new"}, overwrite=True)
    assert content(Artifact.open(out).folder)[MODEL_NAME] == b"new"
    assert leftovers(out.parent) == []


def test_a_file_system_that_cannot_exchange(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_writer, "swap", no_swap)
    write(out, {MODEL_NAME: b"new"}, overwrite=True)
    assert content(Artifact.open(out).folder)[MODEL_NAME] == b"new"
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
    monkeypatch.setattr(artifact_writer, "swap", no_swap)
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


@pytest.mark.parametrize("make", [as_link, as_fifo, as_folder])
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
    from exaone_export.artifact_writer import ArtifactWriter
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
    from exaone_export.artifact_writer import ArtifactWriter
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


# Work that is taken up

KEY, OTHER_KEY = "a" * 64, "b" * 64


def interrupt(out: Path, key: str | None = KEY, error: type[BaseException] = KeyboardInterrupt) -> None:
    with pytest.raises(error), ArtifactWriter(out, overwrite=True, key=key) as staging:
        (staging.path / MODEL_NAME).write_bytes(b"half")
        (staging.path / JOURNAL_NAME).write_bytes(b"half")
        raise error


def test_a_folder_that_goes_while_it_is_looked_at_is_nobodys(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit removes what it has replaced while the next writer cleans up."""
    going = out.with_name(f".{out.name}.{OTHER_KEY[:32]}.staging")
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


def test_a_folder_of_its_key_that_goes_before_it_is_taken_over_is_not_missed(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, mkdir = out.with_name(f".{out.name}.{KEY[:32]}.staging"), Path.mkdir

    def late(self: Path, *arguments: int, **options: bool) -> None:
        if self == own:
            raise FileExistsError(self)
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", late)
    with ArtifactWriter(out, overwrite=True, key=KEY) as staging:
        fill(staging.path)
        staging.commit(MANIFEST)
    assert content(out).keys() == {*FILES, MANIFEST_NAME}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_writer_leaves_its_folder_to_the_next_of_its_key(
    tmp_path: Path, error: type[BaseException]
) -> None:
    interrupt(tmp_path / "out", error=error)
    assert leftovers(tmp_path) == [f".out.{KEY[:32]}.staging"]
    with ArtifactWriter(tmp_path / "out", key=KEY) as staging:
        assert content(staging.path) == {MODEL_NAME: b"half", JOURNAL_NAME: b"half"}
        fill(staging.path)
        staging.commit(MANIFEST)
    assert content(tmp_path / "out").keys() == {*FILES, MANIFEST_NAME}
    assert leftovers(tmp_path) == []


def test_a_full_disk_loses_no_work(tmp_path: Path) -> None:
    staging = tmp_path / f".out.{KEY[:32]}.staging"
    with (
        pytest.raises(ArtifactError, match=f"free some and give the same command again, which goes on from {staging},"),
        ArtifactWriter(tmp_path / "out", key=KEY) as writer,
    ):
        (writer.path / JOURNAL_NAME).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert leftovers(tmp_path) == [staging.name]


@pytest.mark.parametrize("key", [None, OTHER_KEY])
def test_another_writer_removes_it(tmp_path: Path, key: str | None) -> None:
    interrupt(tmp_path / "out")
    with ArtifactWriter(tmp_path / "out", key=key) as staging:
        assert content(staging.path) == {}
        assert leftovers(tmp_path) == [staging.path.name]


@pytest.mark.parametrize("error", [RuntimeError, OSError])
def test_a_writer_that_failed_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    interrupt(tmp_path / "out", error=error)
    assert leftovers(tmp_path) == []


def test_an_interruption_before_there_is_anything_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ArtifactWriter(tmp_path / "out", key=KEY):
        raise KeyboardInterrupt
    assert leftovers(tmp_path) == []


def test_a_destination_that_was_taken_meanwhile_leaves_no_work_of_its_key(out: Path) -> None:
    interrupt(out)
    with pytest.raises(ArtifactError, match="is an artifact already"), ArtifactWriter(out, key=KEY):
        pytest.fail("work was done")
    assert leftovers(out.parent) == []


def test_the_second_of_two_living_writers_of_a_key_has_a_folder_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ArtifactWriter(out, key=KEY) as first, ArtifactWriter(out, overwrite=True, key=KEY) as second:
        assert first.path != second.path
        fill(first.path)
        fill(second.path)
        first.commit(MANIFEST)
        second.commit(MANIFEST)
    Artifact.open(out)
    assert leftovers(tmp_path) == []


def test_a_replaced_artifact_that_was_left_is_not_taken_for_work(out: Path) -> None:
    """Killed right after the exchange, a writer leaves the old artifact under the name of its staging folder."""
    out.rename(out.with_name(f".out.{KEY[:32]}.staging"))
    with ArtifactWriter(out, key=KEY) as staging:
        assert not (staging.path / JOURNAL_NAME).exists()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_writer, "try_lock", lambda _: False)
    with ArtifactWriter(tmp_path / "out", key=KEY) as staging:
        fill(staging.path)
        staging.commit(MANIFEST)
    Artifact.open(tmp_path / "out")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS])
def test_an_error_of_the_disk_is_one_sentence(tmp_path: Path, code: int) -> None:
    with pytest.raises(ArtifactError, match="choose another destination"), ArtifactWriter(tmp_path / "out"):
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []
