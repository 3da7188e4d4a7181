"""What an interrupted writer leaves is taken up by the next of its key, and by nobody else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from exaone_export.artifact.reader import MANIFEST_NAME, MODEL_NAME, Artifact
from exaone_export.artifact.writer import JOURNAL_NAME, ArtifactWriter
from exaone_export.errors import ArtifactError
from exaone_export.files import folder_locks
from tests.core.artifacts import FILES, MANIFEST, content, fill, leftovers

KEY, OTHER_KEY = "a" * 64, "b" * 64


def interrupt(out: Path, key: str | None = KEY, error: type[BaseException] = KeyboardInterrupt) -> None:
    with pytest.raises(error), ArtifactWriter(out, overwrite=True, key=key) as staging:
        (staging.path / MODEL_NAME).write_bytes(b"half")
        (staging.path / JOURNAL_NAME).write_bytes(b"half")
        raise error


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
    monkeypatch.setattr(folder_locks, "try_lock", lambda _: False)
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


def test_who_interrupts_is_told_where_the_work_is(tmp_path: Path) -> None:
    def notes(key: str | None) -> list[str]:
        with pytest.raises(KeyboardInterrupt) as caught, ArtifactWriter(tmp_path / "out", key=key) as staging:
            (staging.path / JOURNAL_NAME).write_bytes(b"half")
            raise KeyboardInterrupt
        return getattr(caught.value, "__notes__", [])

    assert notes(None) == []
    assert notes(KEY) == [f"the same command goes on from {tmp_path}/.out.{KEY[:32]}.staging"]
