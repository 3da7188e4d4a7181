"""Where this program keeps what it can make again; tests of `KernelFile` hold what is read of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from exaone_export.files.user_cache import UserCache, cache_folder


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for value, folder in (("", "/home/somebody/.cache"), ("relative", "/home/somebody/.cache"), ("/other", "/other")):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == Path(folder, "exaone-export")


def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder() is None
    with pytest.raises(FileNotFoundError):
        UserCache("a").write("file", b"1")
    with pytest.raises(FileNotFoundError):
        UserCache("a").read("file", max_bytes=1)


def test_a_file_is_its_parts_and_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    UserCache("a").write("file", b"12", b"3")
    assert UserCache("a").read("file", max_bytes=3) == b"123"
    with pytest.raises(OSError, match="is not a file that was written here"):
        UserCache("a").read("file", max_bytes=2)
