"""A file takes the place of another whole and synced, or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exaone_export.files.durable import PARTIAL, replacing
from exaone_export.files.opening import open_folder, open_itself

NAME = "n" * 255  # the longest that a file system takes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.write_bytes(b"old")
    return path


@pytest.mark.parametrize("by_descriptor", [False, True], ids=["by its path", "in a folder that is open"])
def test_the_new_file_is_synced_then_renamed_and_its_folder_synced(
    file: Path, by_descriptor: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def recorded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            path = Path(f"/proc/self/fd/{arguments[0]}").readlink() if name == "fsync" else Path(arguments[0])
            calls.append(f"{name} {'partial' if PARTIAL.fullmatch(path.name) else path.name}")
            return function(*arguments, **keywords)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    folder = open_folder(file.parent) if by_descriptor else None
    with replacing(NAME if by_descriptor else file, folder=folder, mode=0o600) as new:
        new.write(b"new")
        assert file.read_bytes() == b"old"
    assert calls == ["fsync partial", "replace partial", f"fsync {file.parent.name}"]
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"new", 0o600)
    assert list(file.parent.iterdir()) == [file]
    if folder is not None:
        os.close(folder)


@pytest.mark.parametrize("call", ["fsync", "replace", None], ids=["sync", "rename", "the writer"])
def test_the_old_file_stays_when_something_fails(file: Path, call: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if call is not None:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError if call else KeyboardInterrupt), replacing(file) as new:
        new.write(b"new")
        if call is None:
            raise KeyboardInterrupt
    assert (file.read_bytes(), list(file.parent.iterdir())) == (b"old", [file])


def test_a_link_is_neither_read_nor_written_through(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    for flags in (os.O_RDONLY, os.O_WRONLY):
        with pytest.raises(OSError, match="symbolic links"):
            open_itself(link, flags)
    with pytest.raises(OSError, match="symbolic links"), replacing(tmp_path / "out", staged=link) as new:
        new.write(b"new")
    assert (link.is_symlink(), file.read_bytes()) == (True, b"old")
    with replacing(link) as new:
        new.write(b"new")
    assert (link.is_symlink(), file.read_bytes()) == (False, b"old")
