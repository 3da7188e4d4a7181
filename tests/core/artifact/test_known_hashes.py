"""Weights are hashed when they are first loaded, and again after every change, however it is hidden."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exaone_export.artifact import checks, known_hashes
from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError
from exaone_export.files.user_cache import cache_folder

DATA_NAME = "model.onnx.data"
KEPT = "hashes/hashes.json"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(known_hashes, "_STEP", -(10**12))  # as if every file had lain for long
    folder = cache_folder()
    assert folder is not None
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    names: list[str] = []
    real = checks.hash_of

    def hash_of(path: Path, check: Callable[[], None]) -> str:
        names.append(path.name)
        return real(path, check)

    monkeypatch.setattr(checks, "hash_of", hash_of)
    return names


def load(folder: Path) -> None:
    with Artifact.open(folder, weights_later=True).checking_weights():
        pass


def reads(hashed: list[str], act: Callable[[], object]) -> bool:
    """Whether the weights are hashed in ``act``."""
    hashed.clear()
    act()
    return DATA_NAME in hashed


def test_weights_are_hashed_once_and_all_else_at_every_start(out: Path, hashed: list[str]) -> None:
    assert reads(hashed, lambda: load(out))
    first = list(hashed)
    assert not reads(hashed, lambda: load(out))
    assert sorted([*hashed, DATA_NAME]) == sorted(first) and "model.onnx" in hashed


def test_who_verifies_hashes_again(out: Path, hashed: list[str]) -> None:
    load(out)
    assert reads(hashed, lambda: Artifact.open(out))
    assert reads(hashed, lambda: Artifact.open(out, weights_later=True).check_weights())
    assert not reads(hashed, lambda: load(out))


def _write_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))


def _replace(path: Path) -> None:
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.with_name("new").write_bytes(changed)
    path.with_name("new").replace(path)


@pytest.mark.parametrize("change", [_write_in_place, _replace])
def test_a_change_is_found_even_if_its_time_is_set_back(out: Path, change: Callable[[Path], None]) -> None:
    load(out)
    before = (out / DATA_NAME).stat()
    change(out / DATA_NAME)
    os.utime(out / DATA_NAME, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):  # and is not remembered
        with pytest.raises(ArtifactError, match=r"model\.onnx\.data is not the file that was exported"):
            load(out)


def test_a_copy_is_hashed(out: Path, tmp_path: Path, hashed: list[str]) -> None:
    load(out)
    shutil.copytree(out, tmp_path / "copy")
    assert reads(hashed, lambda: load(tmp_path / "copy"))
    assert not reads(hashed, lambda: load(out))


def test_another_manifest_is_not_served(out: Path) -> None:
    load(out)
    with pytest.raises(ArtifactError, match=r"its sha256 differs"):
        known_hashes.check_hash_once(out / DATA_NAME, "0" * 64, lambda: None)


def test_a_file_that_was_just_written_is_hashed_again(
    out: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another write in the same step of the file system's clock would leave no trace."""
    monkeypatch.setattr(known_hashes, "_STEP", 60 * 10**9)
    for _ in range(2):
        assert reads(hashed, lambda: known_hashes.check_hash_once(out / DATA_NAME, _sha256(out), lambda: None))


def test_a_file_that_is_written_to_meanwhile_is_not_remembered(out: Path, hashed: list[str], cache: Path) -> None:
    def write() -> None:
        os.utime(out / DATA_NAME, ns=(1, 1))

    known_hashes.check_hash_once(out / DATA_NAME, _sha256(out), write)
    assert not (cache / KEPT).exists()


@pytest.mark.parametrize("content", [b"", b"[", b"{}", b'[{"state":[1,2],"sha256":""}]', b"\xff" * 9, b" " * (1 << 17)])
def test_a_damaged_list_is_made_anew(content: bytes, out: Path, hashed: list[str], cache: Path) -> None:
    load(out)
    (cache / KEPT).write_bytes(content)
    assert reads(hashed, lambda: load(out))
    assert not reads(hashed, lambda: load(out))


def test_a_list_that_others_can_write_is_not_believed(out: Path, hashed: list[str], cache: Path) -> None:
    load(out)
    (cache / KEPT).chmod(0o666)
    assert reads(hashed, lambda: load(out))


def test_the_list_is_bounded(out: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_hashes, "_MOST_FILES", 3)
    copies = [out.with_name(f"copy{index}") for index in range(5)]
    for copy in copies:
        shutil.copytree(out, copy)
        load(copy)
        load(copy)
    inodes = [known.state[1] for known in known_hashes._read(known_hashes.UserCache("hashes"))]
    assert inodes == [(copy / DATA_NAME).stat().st_ino for copy in copies[-3:]]


def test_where_nothing_can_be_kept_every_start_hashes(
    out: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing/can/be/made/here")
    for _ in range(2):
        assert reads(hashed, lambda: load(out))


def _sha256(out: Path) -> str:
    return hashlib.sha256((out / DATA_NAME).read_bytes()).hexdigest()
