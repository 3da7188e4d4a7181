"""A calibration that is killed goes on where it was, and gives the bytes that it would have given."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exaone_export.errors import CalibrationError, CheckpointError
from exaone_export.exporter.calibrate import layer_work
from exaone_export.exporter.calibrate.run import Options, calibrate
from exaone_export.exporter.calibrate.state import CalibrationState
from exaone_export.exporter.reference import layer_stream
from tests.conftest import SaveModel
from tests.exporter.calibrate.calibration_models import LINES, TEXTS, make_chatter, write_lines
from tests.exporter.disturbed import fork

OPTIONS = Options("int4", cache="int8", keep_layers="30%", sensitivity="kl")
LAYERS = 4
EVENTS = 2 + 4 * LAYERS + 2  # one file, two a layer and one at the end, each synced and then its folder


def finished_at(event: int) -> int:
    """Layers whose files are there at a sync."""
    return min(max(event - 2, 0) // 4, LAYERS)


@pytest.fixture(scope="module")
def model(save_model: SaveModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chatter(save_model, tmp_path_factory.mktemp("chatter") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "data.jsonl", *TEXTS)


@pytest.fixture(scope="module")
def undisturbed(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("undisturbed") / "scales"
    calibrate(model, out, data=data, options=OPTIONS)
    return out.read_bytes()


@pytest.fixture
def work(model: Path, data: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(**changes: Any) -> Any:
        return calibrate(model, tmp_path / "scales", **{"data": data, "options": OPTIONS, **changes})

    return run


def kill_at(event: int, work: Callable[..., Any]) -> None:
    """Run it in another process, which is killed at its so many-th sync."""
    child = os.fork()
    if not child:
        status = 1
        try:
            fsync, seen = os.fsync, 0

            def counted(descriptor: int) -> None:
                nonlocal seen
                seen += 1
                if seen == event:
                    os.kill(os.getpid(), signal.SIGKILL)
                fsync(descriptor)

            os.fsync = counted
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"exit status {status}"
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("event", [*range(1, 8), *range(9, EVENTS, 4), EVENTS - 1])  # of all layers, the first whole
def test_killed_anywhere_it_goes_on_to_the_same_bytes(
    event: int, work: Callable[..., Any], undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_at(event, work)
    assert not (tmp_path / "scales").exists()
    load, loaded, told, notices = layer_stream._load_layer, [], [], []
    monkeypatch.setattr(layer_stream, "_load_layer", lambda *which: loaded.append(which) or load(*which))
    work(progress=lambda *step: told.append(step), notice=notices.append)
    assert (tmp_path / "scales").read_bytes() == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["scales"]
    finished = finished_at(event)
    assert len(loaded) == LAYERS - finished
    if finished:
        assert notices == [f"continuing after {finished} finished layers in {tmp_path / '.scales.partial'}"]
    if finished < LAYERS:
        assert told[0][1] > finished * len(TEXTS)
        assert told[-1][1] == told[-1][2]


def test_killed_again_and_again_it_comes_to_the_same_bytes(
    work: Callable[..., Any], undisturbed: bytes, tmp_path: Path
) -> None:
    for event in (8, 5, 3, 7):
        kill_at(event, work)
    work()
    assert (tmp_path / "scales").read_bytes() == undisturbed


def test_work_on_other_inputs_is_discarded(
    work: Callable[..., Any], undisturbed: bytes, tmp_path: Path, save_model: SaveModel
) -> None:
    kill_at(12, work)
    notices: list[str] = []
    work(samples=3, notice=notices.append)
    partial = tmp_path / ".scales.partial"
    other = f"{partial} is of a calibration with another model, data or options, and was discarded"
    assert notices == [other]
    assert (tmp_path / "scales").read_bytes() != undisturbed
    for changes in ({"options": Options("int4")}, {"samples": 4, "seq_length": 20}):
        kill_at(8, lambda: work(overwrite=True, samples=3))
        notices.clear()
        work(overwrite=True, notice=notices.append, **changes)
        assert notices == [other]
    work(overwrite=True)
    assert (tmp_path / "scales").read_bytes() == undisturbed


@pytest.mark.parametrize("name", ["inputs.json", "hidden-0002.safetensors", "layer-0000.safetensors"])
def test_damaged_work_is_done_again(name: str, work: Callable[..., Any], undisturbed: bytes, tmp_path: Path) -> None:
    kill_at(12, work)
    path = tmp_path / ".scales.partial" / name
    path.write_bytes(path.read_bytes()[:-1])
    work()
    assert (tmp_path / "scales").read_bytes() == undisturbed


def test_work_that_the_disk_has_changed_is_done_again(
    work: Callable[..., Any], undisturbed: bytes, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A flipped bit in the tensors and in the texts of every file, a hole, and files of another calibration."""
    partial, kept = tmp_path / ".scales.partial", tmp_path / "kept"
    kill_at(12, lambda: work(samples=3))
    shutil.move(partial, tmp_path / "another")
    kill_at(12, work)
    shutil.copytree(partial, kept)

    def flip(position: int) -> Callable[[Path], None]:
        def change(path: Path) -> None:
            data = bytearray(path.read_bytes())
            data[position] ^= 1
            path.write_bytes(data)

        return change

    def hole(path: Path) -> None:
        os.truncate(path, size := path.stat().st_size - 64)
        os.truncate(path, size + 64)

    def flip_facts(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data.replace(b'facts":"{', b'facts":"[', 1))

    names = ("hidden-0002.safetensors", "layer-0000.safetensors", "layer-0001.safetensors")
    damages: list[tuple[str, Callable[[Path], None]]] = [
        (name, change) for name in names for change in (flip(-1), hole, flip_facts)
    ]
    damages += [(name, lambda path: shutil.copyfile(tmp_path / "another" / path.name, path)) for name in names]
    damages.append((names[0], lambda path: path.rename(path.with_name("hidden-0001.safetensors"))))
    texts = ("[]", "{", '{"sha256": []}', '{"sha256": null}')
    damages += [("inputs.json", lambda path, text=text: path.write_text(text)) for text in texts]
    inputs = read_inputs(work)
    shutil.rmtree(partial)
    for name, change in damages:
        shutil.copytree(kept, partial)
        change(partial / name)
        notices: list[str] = []
        with CalibrationState(tmp_path / "scales", inputs, notices.append) as state:
            assert state.finished == 0
        partial.mkdir(exist_ok=True)
        assert notices == [f"the work in {partial} is damaged and was discarded"], name
        shutil.rmtree(partial)
    shutil.copytree(kept, partial)
    (partial / "hidden-x.safetensors").touch()
    with CalibrationState(tmp_path / "scales", inputs, notices.append) as state:  # that of nobody is left alone
        assert state.finished == 2
    assert [path.name for path in partial.iterdir()] == ["hidden-x.safetensors"]
    shutil.rmtree(partial)
    shutil.copytree(kept, partial)
    flip(-1)(partial / names[0])
    work()
    assert (tmp_path / "scales").read_bytes() == undisturbed
    record_property("outcomes", f"damage in the work of a killed calibration: {len(damages)} found, 0 sealed")


def read_inputs(work: Callable[..., Any]) -> Any:
    """What the work would hold its state to."""
    found: list[Any] = []

    def stop(_out: Path, inputs: Any, _notice: object) -> None:
        found.append(inputs)
        raise CalibrationError("stop.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exaone_export.exporter.calibrate.run.CalibrationState", stop)
        with pytest.raises(CalibrationError, match=r"stop\."):
            work()
    return found[0]


@pytest.mark.parametrize("name", ["model.safetensors", "chat_template.jinja"])
def test_a_checkpoint_that_changes_while_it_is_read_is_not_mixed(
    name: str, model: Path, data: Path, undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced by one of the same size and time; put back, what was done before is gone on with."""
    copy, kept = tmp_path / "model", tmp_path / "kept"
    shutil.copytree(model, copy)
    os.link(copy / name, kept) if name == "model.safetensors" else shutil.copy2(copy / name, kept)

    def replace(*_: object) -> None:
        made = shutil.copy2(copy / name, tmp_path / "made")
        seen = made.stat()
        with made.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\1")
        os.utime(made, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        made.replace(copy / name)

    def disturb(_step: str, done: int, _total: int) -> None:
        if done > 2 * len(TEXTS) and not kept.samefile(copy / name):
            return
        if done > 2 * len(TEXTS):
            replace()

    if name == "chat_template.jinja":  # which is read before the layers are
        monkeypatch.setattr("exaone_export.exporter.calibrate.run.hash_of", lambda _: replace() or "")
    notices: list[str] = []
    run = lambda **changes: calibrate(copy, tmp_path / "scales", data=data, options=OPTIONS, **changes)  # noqa: E731
    with pytest.raises(CheckpointError, match=f"{name} changed while it was read; run the command again"):
        run(progress=disturb, notice=notices.append)
    assert not (tmp_path / "scales").exists()
    if name == "model.safetensors":
        partial = tmp_path / ".scales.partial"
        assert notices == [f"2 finished layers are stored in {partial}; the same command continues from them"]
        kept.replace(copy / name)
        run(notice=notices.append)
        assert notices[1].startswith("continuing after 2 finished layers")
        assert (tmp_path / "scales").read_bytes() == undisturbed


def test_two_do_not_work_on_one_file(work: Callable[..., Any], tmp_path: Path) -> None:
    with (
        CalibrationState(tmp_path / "scales", {}, lambda _: None),
        pytest.raises(
            CalibrationError,
            match=r"another calibration is using .*\.scales\.partial, or it cannot be locked; wait",
        ),
    ):
        work()
    work()


def test_a_process_that_comes_while_another_leaves_never_works_beside_a_third(tmp_path: Path) -> None:
    alone = tmp_path / "alone"

    def come_and_go() -> None:
        for _ in range(150):
            with (
                contextlib.suppress(CalibrationError),
                CalibrationState(tmp_path / "scales", {}, lambda _: None),
            ):
                alone.mkdir()
                alone.rmdir()

    children = [fork(come_and_go) for _ in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_a_calibrations_is_left_alone(work: Callable[..., Any], tmp_path: Path) -> None:
    theirs = tmp_path / ".scales.partial" / "letter.txt"
    theirs.parent.mkdir()
    theirs.write_text("mine")
    ours = theirs.with_name("hidden-0002.safetensors")
    ours.touch()
    with pytest.raises(CalibrationError, match=r"letter\.txt was not written by a calibration; move it away"):
        work()
    assert theirs.read_text() == "mine"
    assert ours.exists()


def test_a_link_in_the_place_of_the_folder_is_not_followed(
    work: Callable[..., Any], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    theirs = tmp_path_factory.mktemp("theirs")
    (tmp_path / ".scales.partial").symlink_to(theirs)
    with pytest.raises(CalibrationError, match="choose another OUT"):
        work()
    assert not list(theirs.iterdir())


def test_a_destination_behind_a_link_is_written(model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    calibrate(model, tmp_path / "link" / "scales", data=data)
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["scales"]


# An error loses nothing that is finished.


def refused_once(work: Callable[..., Any], partial: Path, words: str, finished: int, **changes: Any) -> None:
    """Run it into an error, which keeps what is finished and says so."""
    notices: list[str] = []
    with pytest.raises(CalibrationError, match=words):
        work(notice=notices.append, **changes)
    assert notices == [f"{finished} finished layers are stored in {partial}; the same command continues from them"]


def test_a_range_that_is_refused_keeps_the_layers_before_it(
    work: Callable[..., Any], undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_found: float, _channel_maximum: object, where: str) -> None:
        if where.startswith("layer 2"):
            raise CalibrationError(f"the range of {where} is refused.")

    with monkeypatch.context() as patch:
        patch.setattr(layer_work, "check_range", refuse)
        refused_once(work, tmp_path / ".scales.partial", "the range of layer 2", 2)
    notices: list[str] = []
    work(notice=notices.append)
    assert notices == [f"continuing after 2 finished layers in {tmp_path / '.scales.partial'}"]
    assert (tmp_path / "scales").read_bytes() == undisturbed


@pytest.mark.parametrize("event", [8, EVENTS - 1])
def test_a_full_disk_keeps_what_is_finished(
    event: int, work: Callable[..., Any], undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, seen = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal seen
        seen += 1
        if seen >= event:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    words = "has no room for .*; free some and give the same command again, or choose another path"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused_once(work, tmp_path / ".scales.partial", words, finished_at(event))
        with pytest.raises(CalibrationError, match=words):  # and on a disk that is still full, nothing more is lost
            work()
    work()
    assert (tmp_path / "scales").read_bytes() == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["scales"]


def test_a_destination_that_is_taken_meanwhile_keeps_what_is_finished(
    work: Callable[..., Any], undisturbed: bytes, tmp_path: Path
) -> None:
    def take(*_step: object) -> None:
        (tmp_path / "scales").touch()

    refused_once(work, tmp_path / ".scales.partial", "pass --overwrite", LAYERS, progress=take)
    notices: list[str] = []
    work(overwrite=True, notice=notices.append)
    assert notices == [f"continuing after {LAYERS} finished layers in {tmp_path / '.scales.partial'}"]
    assert (tmp_path / "scales").read_bytes() == undisturbed


@pytest.mark.parametrize("name", ["model.safetensors", "chat_template.jinja"])
def test_work_on_files_that_have_changed_is_discarded(name: str, model: Path, tmp_path: Path) -> None:
    """A fingerprint samples the weights, and it knows no tokenizer."""
    copy, data = tmp_path / "model", write_lines(tmp_path / "data.jsonl", *LINES)
    calibrate(model, tmp_path / "undisturbed", data=data, options=OPTIONS)
    shutil.copytree(model, copy)
    kill_at(12, lambda: calibrate(copy, tmp_path / "scales", data=data, options=OPTIONS))
    if name == "model.safetensors":
        os.utime(copy / name)
    else:
        text = (copy / name).read_text()
        (copy / name).write_text(text.replace("[|user|]", "[|tool|]"))  # as many tokens as before
    notices: list[str] = []
    calibrate(copy, tmp_path / "scales", data=data, options=OPTIONS, notice=notices.append)
    assert [notice.endswith("and was discarded") for notice in notices] == [True]
    same = (tmp_path / "scales").read_bytes() == (tmp_path / "undisturbed").read_bytes()
    assert same == (name == "model.safetensors")


def test_an_interruption_keeps_what_is_done(
    work: Callable[..., Any], undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_step: str, done: int, _total: int) -> None:
        if done > 2 * len(TEXTS):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(progress=interrupt)
    assert (tmp_path / ".scales.partial").is_dir()
    notices: list[str] = []
    work(notice=notices.append)
    assert notices[0].startswith("continuing after 2 finished layers")
    assert (tmp_path / "scales").read_bytes() == undisturbed


def test_the_longest_name_has_room_for_its_work(model: Path, data: Path, tmp_path: Path) -> None:
    calibrate(model, tmp_path / ("s" * 255), data=data)
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]
