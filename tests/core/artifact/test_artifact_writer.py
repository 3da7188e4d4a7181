"""An artifact is whole or absent, whatever happens to its writer."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from exaone_export.artifact import writer as artifact_writer
from exaone_export.artifact.reader import MANIFEST_NAME, MODEL_NAME, Artifact
from exaone_export.artifact.writer import ArtifactWriter
from exaone_export.errors import ArtifactError
from exaone_export.files import exchange, staged_folder
from tests.core.artifacts import FILES, MANIFEST, as_fifo, as_folder, as_link, content, fill, leftovers, write


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_somebody_else_is_refused_before_any_work(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(ArtifactError, match="out is not an artifact and not empty; choose another destination"),
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
    with (
        pytest.raises(ArtifactError, match="file is a file; choose another"),
        ArtifactWriter(tmp_path / "file" / "out"),
    ):
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


@pytest.mark.parametrize(
    ("module", "step"),
    [
        (artifact_writer, "sync"),
        (artifact_writer, "hash_of"),
        (artifact_writer, "write_synced"),
        (staged_folder, "sync"),
        (staged_folder, "put_in_place"),
    ],
)
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_failure_within_commit_leaves_the_old_artifact(
    out: Path, module: ModuleType, step: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    before = content(out)
    monkeypatch.setattr(module, step, fail)
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


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o770, 0o555])
@pytest.mark.parametrize("exchanges", [True, False])
def test_what_is_replaced_keeps_its_mode(
    out: Path, mode: int, exchanges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchanges:
        monkeypatch.setattr(exchange, "_swap", no_swap)
    out.chmod(mode)
    with ArtifactWriter(out, overwrite=True) as staging:
        assert stat.S_IMODE(staging.path.stat().st_mode) & 0o077 == mode & 0o077, "it is as private while it is made"
        fill(staging.path)
        staging.commit(MANIFEST)
    assert stat.S_IMODE(out.stat().st_mode) == mode
    assert leftovers(out.parent) == []


def test_an_empty_folder_that_is_filled_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(0o700)
    write(tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700


def test_a_file_system_that_cannot_exchange(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_swap", no_swap)
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
    monkeypatch.setattr(exchange, "_swap", no_swap)
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
