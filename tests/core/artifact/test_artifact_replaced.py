"""An artifact that is replaced while it is opened or used: one or the other, never a mixture."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from exaone_export.artifact import reader as artifact_module
from exaone_export.artifact.reader import MANIFEST_NAME, MODEL_NAME, Artifact
from exaone_export.errors import ArtifactError, ArtifactReplacedError
from tests.core.artifacts import FILES, content, leftovers, write
from tests.manifests import edit_manifest

pytestmark = pytest.mark.hostile

NEW = {name: bytes(reversed(data)) for name, data in FILES.items()}  # Of the same sizes.
NEW["config.json"] = b"[]"
STEPS = ("check_sizes", "check_kind_and_size", "check_names", "check_hash", "check_graph")


@pytest.fixture(autouse=True)
def _any_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_module, "check_sidecars", lambda *_: None)


def replace(out: Path) -> None:
    write(out, NEW, overwrite=True)


def overwrite_in_place(out: Path) -> None:
    """As a copy over the file does it, with the times of the file that it replaces."""
    path = out / MODEL_NAME
    status = path.stat()
    path.write_bytes(NEW[MODEL_NAME])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def exchange_file(out: Path) -> None:
    other = out.with_name("other")
    other.write_bytes(NEW[MODEL_NAME])
    other.replace(out / MODEL_NAME)


def remove(out: Path) -> None:
    shutil.rmtree(out)


def once(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[], None], times: int = 1) -> None:
    """Do it before the first ``times`` calls of a step of `Artifact.open`."""
    real, left = getattr(artifact_module, name), [times]

    def changing(*arguments: object, **keywords: object) -> object:
        if left[0]:
            left[0] -= 1
            change()
        return real(*arguments, **keywords)

    monkeypatch.setattr(artifact_module, name, changing)


@pytest.mark.parametrize(
    ("step", "verify"),
    [(step, verify) for step in STEPS for verify in (True, False) if verify or step != "check_hash"],
)
def test_replaced_while_it_is_opened_the_new_one_is_opened(
    step: str, verify: bool, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(monkeypatch, step, lambda: replace(out))
    opened = Artifact.open(out, verify=verify)
    assert content(opened.folder) == NEW | {MANIFEST_NAME: opened.manifest.to_json()}
    with opened.unchanged():
        pass


@pytest.mark.parametrize("step", STEPS)
def test_replaced_again_and_again_it_is_refused_in_a_sentence_that_is_true(
    step: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(monkeypatch, step, lambda: replace(out), times=100)
    with pytest.raises(ArtifactReplacedError) as caught:
        Artifact.open(out)
    assert str(caught.value) == f"{out} was replaced while it was open; open it again."


@pytest.mark.parametrize("change", [replace, overwrite_in_place, exchange_file, remove])
def test_what_was_read_of_a_replaced_artifact_is_not_used(change: Callable[[Path], None], out: Path) -> None:
    opened = Artifact.open(out)
    with opened.unchanged():
        assert (out / MODEL_NAME).read_bytes() == FILES[MODEL_NAME]
    change(out)
    with pytest.raises(ArtifactReplacedError, match="was replaced while it was open"), opened.unchanged():
        pass
    with pytest.raises(ArtifactReplacedError, match="was replaced while it was open"), opened.unchanged():
        raise ValueError("the file that was read first has gone, or is of another model")


def test_a_failure_over_files_that_are_those_that_were_checked_stays_what_it_is(out: Path) -> None:
    with pytest.raises(ValueError, match="a flaw of the model"), Artifact.open(out).unchanged():
        raise ValueError("a flaw of the model")


def test_a_link_to_an_artifact_that_is_turned_to_another(out: Path) -> None:
    """As a deployment does it; the manifests are equal, and so are the sizes of all files."""
    write(out.with_name("next"), NEW)
    current = out.with_name("current")
    current.symlink_to(out)
    opened = Artifact.open(current)
    current.unlink()
    current.symlink_to(out.with_name("next"))
    with pytest.raises(ArtifactReplacedError), opened.unchanged():
        pass
    with Artifact.open(current).unchanged():
        pass


def test_an_unlisted_file_and_a_record_are_no_replacement(out: Path) -> None:
    opened = Artifact.open(out)
    (out / "notes.txt").write_text("mine")
    Artifact.open(out).record_parity({"passed": True})
    with opened.unchanged():
        pass


def test_a_folder_that_gets_the_inode_number_of_the_opened_one(out: Path) -> None:
    """File systems hand the numbers of removed folders out again; the one that is held keeps its own."""
    opened, number = Artifact.open(out), out.stat().st_ino
    shutil.rmtree(out)
    for _ in range(50):
        out.mkdir()
        assert out.stat().st_ino != number
        out.rmdir()
    del opened


def test_no_descriptor_is_left_when_an_artifact_is_let_go(out: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    for _ in range(20):
        Artifact.open(out)
    edit_manifest(out, lambda manifest: manifest.update(target="none"))
    for _ in range(20):
        with pytest.raises(ArtifactError):
            Artifact.open(out)
    assert count() <= before + 1


def test_a_manifest_that_is_rewritten_keeps_its_mode(out: Path) -> None:
    (out / MANIFEST_NAME).chmod(0o600)
    Artifact.open(out).record_parity({"passed": True})
    assert stat.S_IMODE((out / MANIFEST_NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("change", [replace, remove])
def test_a_record_is_not_written_to_another_artifact(change: Callable[[Path], None], out: Path) -> None:
    opened = Artifact.open(out)
    change(out)
    before = content(out) if out.exists() else None
    with pytest.raises(ArtifactReplacedError, match="was replaced while it was open"):
        opened.record_parity({"passed": True})
    assert before == (content(out) if out.exists() else None)
    assert leftovers(out.parent) == []
