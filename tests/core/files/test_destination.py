"""Where nothing could be renamed to at the end is refused before any work, with a destination that can be used."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from exaone_export.artifact.reader import Artifact
from exaone_export.artifact.writer import JOURNAL_NAME, ArtifactWriter
from exaone_export.errors import ArtifactError, ConfigError
from exaone_export.files import staged_folder
from exaone_export.files.destination import check_replaceable, is_mount, resolve_path
from exaone_export.files.staged_folder import bytes_left_behind
from tests.core.artifacts import FILES, MANIFEST, content, fill, leftovers, write

Mount = Callable[..., Path]
KEY = "a" * 64


def refuse_work(out: Path | str, overwrite: bool = False) -> str:
    with pytest.raises(ArtifactError) as early:
        ArtifactWriter(out, overwrite).check()
    with pytest.raises(ArtifactError) as refusal, ArtifactWriter(out, overwrite):
        pytest.fail("work was done")
    assert str(early.value) == str(refusal.value)
    return str(refusal.value)


def test_an_empty_mount_point(tmp_path: Path, mount: Mount) -> None:
    out = mount(tmp_path / "out with space", "-t", "tmpfs", "none")
    assert refuse_work(out) == (
        f"{out} is a mount point, so it cannot be replaced; pass a new folder in it: {out}/NAME."
    )
    write(out / "NAME")
    Artifact.open(out / "NAME")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_mount_of_the_same_file_system(tmp_path: Path, mount: Mount, kind: str) -> None:
    """A container's volume may be one; no device number tells it."""
    source = tmp_path / "source"
    source.mkdir()
    out = mount(tmp_path / "out", "--bind", str(source))
    assert not os.path.ismount(out)
    assert is_mount(out)
    assert not is_mount(source)
    assert "is a mount point" in refuse_work(out)


def test_an_artifact_that_is_a_mount_point_is_not_replaced(tmp_path: Path, mount: Mount) -> None:
    write(tmp_path / "source")
    out = mount(tmp_path / "out", "--bind", str(tmp_path / "source"))
    before = content(out)
    assert f"pass a new folder in it: {out}/NAME." in refuse_work(out, overwrite=True)
    assert content(out) == before


def test_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", tmp_path):
        assert refuse_work(name) == (
            f"{tmp_path} is the current folder, so it cannot be replaced; pass a new folder in it: {tmp_path}/NAME."
        )
    write(Path("NAME"))


def test_a_read_only_parent(tmp_path: Path, mount: Mount) -> None:
    """``docker run --read-only`` with a volume for what is made."""
    parent = mount(tmp_path / "parent", "-t", "tmpfs", "none")
    (parent / "out").mkdir()
    mount(parent / "out", "-t", "tmpfs", "none")
    mount(parent, "-o", "remount,ro")
    assert f"pass a new folder in it: {parent}/out/NAME." in refuse_work(parent / "out")
    assert refuse_work(parent / "other" / "more") == (
        f"{parent}/other/more is made in {parent}, where nothing can be written; choose another destination."
    )
    mount(parent, "-o", "remount,rw")


def test_a_parent_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path)
    assert f"pass a new folder in it: {tmp_path}/out/NAME." in refuse_work(tmp_path / "out")
    assert "where nothing can be written; choose another destination." in refuse_work(tmp_path / "other")


def test_another_users_folder_in_a_sticky_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    tmp_path.chmod(0o1777)
    check_replaceable(tmp_path / "out", ConfigError)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match=f"only its owner may replace it in {tmp_path}, .*/out/NAME"):
        check_replaceable(tmp_path / "out", ConfigError)


@pytest.mark.parametrize("path", ["~nobody-of-this-name/out", "out\0", "loop/out"])
def test_what_is_not_a_path(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="is not a path that can be used"):
        resolve_path(path, ConfigError)


def test_a_finished_folder_that_cannot_be_put_in_place_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def busy(*_: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    with monkeypatch.context() as patch:
        patch.setattr(staged_folder, "put_in_place", busy)
        with pytest.raises(
            ArtifactError, match=r"cannot be replaced \(Device or resource busy\); the finished"
        ) as lost:
            write(out)
        kept = tmp_path / leftovers(tmp_path)[0]
        assert f"the finished artifact is {kept}: move that folder to another place." in str(lost.value)
        assert Artifact.open(kept.rename(tmp_path / "moved")).manifest.target == "ort-cpu"

        with pytest.raises(ArtifactError, match="give the same command again, which goes on from"):
            _finish(out)
    staging = out.with_name(f".out.{KEY[:32]}.staging")
    assert (staging / JOURNAL_NAME).read_bytes() == b"all of it"
    with ArtifactWriter(out, key=KEY) as writer:
        assert content(writer.path).keys() >= {*FILES, JOURNAL_NAME}
    assert leftovers(tmp_path) == []


def _finish(out: Path) -> None:
    with ArtifactWriter(out, key=KEY) as writer:
        fill(writer.path)
        (writer.path / JOURNAL_NAME).write_bytes(b"all of it")
        writer.commit(MANIFEST)


def test_what_killed_writers_hold_of_the_disk(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert bytes_left_behind(out) == bytes_left_behind(tmp_path / "not" / "there") == 0
    dead = tmp_path / f".out.{'0' * 32}.staging"
    dead.mkdir()
    (dead / "data").write_bytes(bytes(3 << 20))
    os.truncate(dead / "data", 1 << 40)  # a hole takes nothing
    (tmp_path / f".other.{'0' * 32}.staging").mkdir()
    (tmp_path / f".other.{'0' * 32}.staging" / "data").write_bytes(bytes(9 << 20))
    assert 3 << 20 <= bytes_left_behind(out) < 4 << 20
    with ArtifactWriter(out) as writer:  # which has removed it
        (writer.path / "data").write_bytes(bytes(5 << 20))
        assert bytes_left_behind(out) == 0
    assert bytes_left_behind(out) == 0
