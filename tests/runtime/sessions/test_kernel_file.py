"""Compiled kernels are kept from one start to the next, and what another user could have written is not read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exaone_export.runtime.sessions.kernel_file import KernelFile
from tests.runtime.conftest import tokens
from tests.runtime.sessions.engine_double import RuntimeCacheDouble, open_with_engine_session

KEY = ("a" * 64, "1.7.1.116", "NVIDIA L4 8.9")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "exaone-export" / "kernels"


def cache(**kernels: bytes) -> RuntimeCacheDouble:
    made = RuntimeCacheDouble()
    made.kernels.update(kernels)
    return made


def loaded(*key: str) -> dict[str, bytes]:
    found = RuntimeCacheDouble()
    KernelFile(*(key or KEY)).load(found)
    return found.kernels


def keep(**kernels: bytes) -> None:
    KernelFile(*KEY).keep(cache(**kernels))


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_a_session_compiles_once(artifacts: dict[str, Path], folder: Path) -> None:
    for start in range(2):
        with open_with_engine_session(artifacts["tensorrt-rtx"], KernelFile(*KEY)) as model:
            session: Any = model.session
            found = session._loaded.runtime_cache
            assert ("earlier" in found.kernels) == (start == 1)
            model.generate(tokens(1, 5), max_new_tokens=2, do_sample=False)
            found.kernels["earlier"] = b"compiled"
        assert loaded() == {"kernel": b"compiled", "earlier": b"compiled"}
    session.close()  # a second time does nothing


def test_it_is_of_one_engine_one_version_and_one_gpu(folder: Path) -> None:
    keep(a=b"1")
    assert loaded() == {"a": b"1"}
    for other in (("b" * 64, *KEY[1:]), (KEY[0], "1.8", KEY[2]), (*KEY[:2], "NVIDIA L40S 8.9")):
        assert loaded(*other) == {}


def test_only_what_changed_is_written(folder: Path) -> None:
    file = KernelFile(*KEY)
    file.keep(cache(a=b"1"))
    before = only_file(folder).stat()
    again = KernelFile(*KEY)
    held = RuntimeCacheDouble()
    again.load(held)
    again.keep(held)
    assert only_file(folder).stat().st_ino == before.st_ino
    held.kernels["b"] = b"2"
    again.keep(held)
    assert only_file(folder).stat().st_ino != before.st_ino
    assert loaded() == {"a": b"1", "b": b"2"}


def test_the_folder_is_private(folder: Path) -> None:
    keep(a=b"1")
    assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder, only_file(folder))] == [0o700, 0o700, 0o600]


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def _foreign(file: Path) -> None:
    file.write_bytes(b"a=evil;")


def _link(file: Path) -> None:
    file.symlink_to(file.rename(file.parents[1] / "elsewhere"))


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _others_may_write(file: Path) -> None:
    file.chmod(0o666)


def _others_may_write_the_folder(file: Path) -> None:
    file.parent.chmod(0o777)


def _others_may_replace_the_folder(file: Path) -> None:
    file.parents[1].chmod(0o777)


def _of_somebody_else(file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(file, 12345, 12345)


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        _flip,
        _foreign,
        _link,
        _pipe,
        _folder,
        _others_may_write,
        _others_may_write_the_folder,
        _others_may_replace_the_folder,
        _of_somebody_else,
    ],
)
def test_a_damaged_or_foreign_file_is_ignored(damage: Callable[[Path], None], folder: Path) -> None:
    keep(a=b"1")
    damage(only_file(folder))
    assert loaded() == {}
    keep(b=b"2")  # in its place, or not at all


def test_what_tensorrt_refuses_is_written_again(folder: Path) -> None:
    KernelFile(*KEY).keep(_Blob(b"of another driver"))
    assert loaded() == {}
    keep(a=b"1")
    assert loaded() == {"a": b"1"}


class _Blob:
    def __init__(self, blob: bytes) -> None:
        self.blob = blob

    def serialize(self) -> bytes:
        return self.blob


def test_where_nothing_can_be_written_a_session_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.parents[1].write_text("a file")
    keep(a=b"1")
    assert loaded() == {}
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing/can/be/made/here")
    keep(a=b"1")
    assert loaded() == {}
