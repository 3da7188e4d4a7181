"""A calibration that is killed goes on where it was, and gives the bytes that it would have given."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exaone_export.errors import CalibrationError
from exaone_export.exporter import layer_stream
from exaone_export.exporter.calibrate import Options, calibrate
from exaone_export.exporter.calibration.state import CalibrationState
from tests.conftest import SaveModel
from tests.exporter.calibration_models import LINES, make_chatter, write_lines

OPTIONS = Options("int4", cache="int8", keep_layers="30%", sensitivity="kl")
LAYERS = 4
EVENTS = 4 * LAYERS + 2  # two files a layer and one at the end, each synced and then its folder


@pytest.fixture(scope="module")
def model(save_model: SaveModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chatter(save_model, tmp_path_factory.mktemp("chatter") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "data.jsonl", *LINES)


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


@pytest.mark.parametrize("event", range(1, EVENTS))
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
    finished = min(event // 4, LAYERS)
    assert len(loaded) == LAYERS - finished
    if finished:
        assert notices == [f"going on after {finished} finished layers, kept in {tmp_path / '.scales.partial'}"]
    if finished < LAYERS:
        assert told[0][1] > finished * len(LINES)
        assert told[-1][1] == told[-1][2]


def test_killed_again_and_again_it_comes_to_the_same_bytes(
    work: Callable[..., Any], undisturbed: bytes, tmp_path: Path
) -> None:
    for event in (6, 5, 3, 7):
        kill_at(event, work)
    work()
    assert (tmp_path / "scales").read_bytes() == undisturbed


def test_work_on_other_inputs_is_discarded(
    work: Callable[..., Any], undisturbed: bytes, tmp_path: Path, save_model: SaveModel
) -> None:
    kill_at(10, work)
    notices: list[str] = []
    work(samples=3, notice=notices.append)
    partial = tmp_path / ".scales.partial"
    other = f"{partial} is of a calibration with another model, data or options, and is discarded"
    assert notices == [other]
    assert (tmp_path / "scales").read_bytes() != undisturbed
    for changes in ({"options": Options("int4")}, {"samples": 4, "seq_length": 20}):
        kill_at(6, lambda: work(overwrite=True, samples=3))
        notices.clear()
        work(overwrite=True, notice=notices.append, **changes)
        assert notices == [other]
    work(overwrite=True)
    assert (tmp_path / "scales").read_bytes() == undisturbed


@pytest.mark.parametrize("name", ["inputs.json", "hidden-0002.safetensors", "layer-0000.safetensors"])
def test_damaged_work_is_done_again(name: str, work: Callable[..., Any], undisturbed: bytes, tmp_path: Path) -> None:
    kill_at(10, work)
    path = tmp_path / ".scales.partial" / name
    path.write_bytes(path.read_bytes()[:-1])
    work()
    assert (tmp_path / "scales").read_bytes() == undisturbed


def test_two_do_not_work_on_one_file(work: Callable[..., Any], tmp_path: Path) -> None:
    with (
        CalibrationState(tmp_path / "scales", {}, lambda _: None),
        pytest.raises(CalibrationError, match=r"another calibration is at work in .*\.scales\.partial; wait for it"),
    ):
        work()
    work()


def test_a_folder_that_is_not_a_calibrations_is_left_alone(work: Callable[..., Any], tmp_path: Path) -> None:
    theirs = tmp_path / ".scales.partial" / "letter.txt"
    theirs.parent.mkdir()
    theirs.write_text("mine")
    with pytest.raises(CalibrationError, match=r"letter\.txt is not of a calibration; move it away"):
        work()
    assert theirs.read_text() == "mine"


def test_an_interruption_keeps_what_is_done(
    work: Callable[..., Any], undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_step: str, done: int, _total: int) -> None:
        if done > 2 * len(LINES):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(progress=interrupt)
    assert (tmp_path / ".scales.partial").is_dir()
    notices: list[str] = []
    work(notice=notices.append)
    assert notices[0].startswith("going on after 2 finished layers")
    assert (tmp_path / "scales").read_bytes() == undisturbed


def test_the_longest_name_has_room_for_its_work(model: Path, data: Path, tmp_path: Path) -> None:
    calibrate(model, tmp_path / ("s" * 255), data=data)
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]
