"""A kept prompt: loaded by another engine, it goes on as if it had never been left; a bad file changes nothing."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, safe_open

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import CancelledError, KeptPromptError
from exaone_export.model.dtypes import DTYPES
from exaone_export.runtime.core.buffers import BufferPool, CacheGeometry
from exaone_export.runtime.core.engine import Engine
from exaone_export.runtime.core.kept.prompt_file import load_kept, save_kept
from exaone_export.runtime.core.memory import HOST, Memory
from exaone_export.runtime.core.requests import Request
from exaone_export.runtime.core.row_caches import RowCaches
from exaone_export.runtime.core.sampling import Sampling
from exaone_export.runtime.sessions.opening import open_session
from exaone_export.runtime.sessions.torch_memory import TorchMemory
from exaone_export.targets.cache_layout import CacheLayout, LayerCache
from tests.runtime.conftest import tokens

CHUNK, ARTIFACT = 7, "a" * 64
SURE = Sampling(logprobs=3)


@pytest.fixture(scope="module", params=["ort-cpu", "onnx", "tensorrt-rtx"])
def session(request: pytest.FixtureRequest, artifacts: dict[str, Path]) -> Iterator[Any]:
    with open_session(Artifact.open(artifacts[request.param]), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def cpu(artifacts: dict[str, Path]) -> Iterator[Any]:
    with open_session(Artifact.open(artifacts["ort-cpu"]), threads=1) as opened:
        yield opened


@pytest.fixture
def engines(session: Any) -> Iterator[tuple[Engine, Engine]]:
    with Engine(session, prefill_chunk_size=CHUNK) as first, Engine(session, prefill_chunk_size=CHUNK) as later:
        yield first, later


def prompt(length: int, seed: int = 0) -> list[int]:
    found: list[int] = tokens(1, length, seed=seed)[0].tolist()
    return found


def answer(engine: Engine, asked: list[int], new: int = 14) -> tuple[list[Any], int]:
    """Tokens with the logarithms of their probabilities, to the bit, and how much was in the cache."""
    generation = engine.submit(Request(asked, new, SURE))
    return [(token.id, token.logprobs) for token in generation], generation.timings.reused


def save(engine: Engine, path: Path, asked: list[int] | None = None) -> int:
    def work(slot: Any, cancellation: Any) -> int:
        if asked is not None:
            slot.reuse(asked)
            slot.prefill(asked, cancellation, lambda *_: None)
        return slot.save(path, ARTIFACT, cancellation)

    return engine.perform(work)


def load(engine: Engine, path: Path) -> int:
    return engine.perform(lambda slot, cancellation: slot.load(path, ARTIFACT, cancellation))


@pytest.mark.parametrize("length", [1, 7, 8, 9, 17, 30, 61])
def test_a_prompt_goes_on_as_if_it_had_never_been_left(
    engines: tuple[Engine, Engine], tmp_path: Path, length: int
) -> None:
    """Before and behind windows of 8; also where the next prompt writes its last tokens in another way."""
    first, later = engines
    base = prompt(length, seed=length)
    assert save(first, tmp_path / "kept", base) == length
    for shared in {length, max(length - 3, 0), max(length - 8, 0)}:
        asked = [*base[:shared], 4, *prompt(5, seed=2)]
        assert load(later, tmp_path / "kept") == load(first, tmp_path / "kept") == length
        wanted, reused = answer(later, asked)
        assert (wanted, reused) == answer(first, asked)
        first._worker.slots.latest().clear()
        cold, _ = answer(first, asked)
        assert [token for token, _ in wanted] == [token for token, _ in cold]
        assert reused >= length - 16 and (reused == length or shared < length)


def test_what_was_said_goes_on_too_and_goes_back_to_the_prompt(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    """The whole slot: evictions of the answer were saved since the prompt's end, and are saved with it."""
    first, later = engines
    base = prompt(30, seed=1)
    said = [token for token, _ in answer(first, base, 40)[0]]
    held = base + said[:-1]
    assert save(first, tmp_path / "kept") == len(held)
    for shared in (len(held), 30, 27, 25):
        asked = [*held[:shared], *prompt(4, seed=5)]
        assert load(later, tmp_path / "kept") == len(held) and load(first, tmp_path / "kept") == len(held)
        found, reused = answer(later, asked)
        assert (found, reused) == answer(first, asked)
        assert reused >= shared - 8
        first._worker.slots.latest().clear()
        assert [token for token, _ in found] == [token for token, _ in answer(first, asked)[0]]
        # What is loaded and saved again is the same file, byte for byte.
        load(later, tmp_path / "kept")
        save(later, tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "kept").read_bytes()


def test_a_row_that_went_back_without_a_mark_cannot_go_further_back(cpu: Any, tmp_path: Path) -> None:
    """What rolling back over an eviction has lost is lost behind a file too."""
    with Engine(cpu, prefill_chunk_size=CHUNK) as engine:
        save(engine, tmp_path / "kept", prompt(17))
        slot = engine._worker.slots.latest()
        slot._rows.stop_recording()
        slot._rows.return_to([slot._rows.lengths[0] - 1])
        del slot.tokens[-1]
        wanted = slot._rows.state()
        save(engine, tmp_path / "kept")
        load(engine, tmp_path / "kept")
        assert slot._rows.state() == wanted and max(wanted.lost) > 0


def test_the_file(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    """Any reader of safetensors reads it; only the rows in use are in it; nobody else may read it."""
    path, base = tmp_path / "kept", prompt(11)
    path.write_text("something else")
    save(engines[0], path, base)
    with safe_open(path, "np") as opened:
        metadata = opened.metadata()
    assert metadata["artifact"] == ARTIFACT and metadata["version"] == "1"
    arrays = load_file(path)
    assert arrays["tokens"].tolist() == base and arrays["past_key_values.3.key"].shape == (2, 11, 16)
    assert arrays["past_key_values.0.key"].shape[1] <= 16
    assert path.stat().st_mode & 0o777 == 0o600 and [each.name for each in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("memory", [HOST, TorchMemory("cpu")], ids=["host", "torch"])
def test_numbers_of_every_kind_are_kept_bit_for_bit(memory: Memory, dtype: str, tmp_path: Path) -> None:
    """Each row holds its position, the evicted ones too; the file is the same for each memory."""
    layout = CacheLayout(64, (LayerCache(12, 8, headroom=4), LayerCache(64, 0)))
    pool = BufferPool(CacheGeometry(layout, 2, 4, dtype, in_place=True, memory=memory))
    rows = RowCaches(pool)
    rows.allocate(1)
    rows.mark([20])
    for before in range(33):
        for index, layer in enumerate(layout.layers):
            for tensor in rows.buffers.layer(index):
                tensor[:, :, layer.resident_rows(before)] = before
        rows.prepare([before + 1])
        rows.advance([before + 1])
    save_kept(tmp_path / "kept", range(33), rows, ARTIFACT, lambda: None)
    found, loaded = load_kept(tmp_path / "kept", pool, 97, ARTIFACT, lambda: None)
    assert found == list(range(33)) and loaded.lengths == [33]
    assert loaded.state() == rows.state() and loaded.state().rows(layout)["evicted.0.key"] == 20
    resident = layout.layers[0].evicted(33)
    positions = [range(resident, 33), range(33), range(20)]
    arrays = [array[1, :, 3].tolist() for array in loaded.contents()]
    assert arrays == [list(each) for each in positions for _ in ("key", "value")]
    with safe_open(tmp_path / "kept", "np") as opened:
        assert opened.get_slice("past_key_values.0.key").get_dtype() == DTYPES[dtype].safetensors


def _header(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        change(header)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + data[8 + size :]

    return changed


def _state(**values: Any) -> Callable[[bytes], bytes]:
    def change(header: dict[str, Any]) -> None:
        metadata = header["__metadata__"]
        metadata["state"] = json.dumps(json.loads(metadata["state"]) | values)

    return _header(change)


HOSTILE = {
    "empty": lambda _: b"",
    "cut in the header": lambda data: data[:100],
    "cut in the data": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "a flipped bit of the data": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "a flipped bit of the tokens": lambda data: data.replace(b"\x04\0\0\0", b"\x05\0\0\0", 1),
    "a header of no end": lambda data: b"\xff" * 8 + data[8:],
    "a header of no length": lambda data: bytes(8) + data[8:],
    "no JSON": lambda data: data[:8] + b"\xff" + data[9:],
    "another version": _header(lambda header: header["__metadata__"].update(version="2")),
    "another artifact": _header(lambda header: header["__metadata__"].update(artifact="b" * 64)),
    "another format": _header(lambda header: header["__metadata__"].update(format="weights")),
    "no metadata": _header(lambda header: header.pop("__metadata__")),
    "metadata of a list": _header(lambda header: header.update(__metadata__=[1])),
    "metadata of numbers": _header(lambda header: header["__metadata__"].update(state=1)),
    "a hash of nothing": _header(lambda header: header["__metadata__"].update(sha256="x")),
    "a state of half a character": _header(lambda header: header["__metadata__"].update(state="\ud800")),
    "other shapes": _header(lambda header: header["past_key_values.3.key"].update(shape=[2, 1 << 40, 16])),
    "other offsets": _header(lambda header: header["tokens"].update(data_offsets=[0, 1 << 60])),
    "another dtype": _header(lambda header: header["tokens"].update(dtype="F32")),
    "one more array": _header(lambda header: header.update(more={"dtype": "I8", "shape": [0], "data_offsets": [0, 0]})),
    "a negative length": _state(length=-1),
    "no token": _state(length=0),
    "a length of no end": _state(length=1 << 62),
    "another length": _state(length=12),
    "a mark behind the end": _state(marked=99),
    "a negative mark": _state(marked=-1),
    "nothing lost": _state(lost=[]),
    "lost behind the end": _state(lost=[99, 0, 0]),
    "a text for a number": _state(length="11"),
    "an unknown key": _state(more=1),
}


@pytest.mark.hostile
@pytest.mark.parametrize("how", HOSTILE)
def test_a_bad_file_is_refused_and_changes_nothing(cpu: Any, tmp_path: Path, how: str) -> None:
    path, base = tmp_path / "kept", [4, *prompt(10)]
    with Engine(cpu, prefill_chunk_size=CHUNK) as engine:
        save(engine, path, base)
        path.write_bytes(HOSTILE[how](path.read_bytes()))
        before, _ = answer(engine, prompt(20, seed=3))
        state, held = engine._worker.slots.latest()._rows.state(), list(engine._worker.slots.latest().tokens)
        with pytest.raises(KeptPromptError) as caught:
            load(engine, path)
        sentence = str(caught.value)
        assert sentence.startswith(str(path)) and "\n" not in sentence and len(sentence) < 400, sentence
        assert "save the prompt again" in sentence
        assert engine._worker.slots.latest()._rows.state() == state and engine._worker.slots.latest().tokens == held
        asked = [*prompt(20, seed=3), *(token for token, _ in before)]
        assert answer(engine, asked)[1] == len(held)


@pytest.mark.hostile
def test_what_is_not_a_file(cpu: Any, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with Engine(cpu) as engine:
        with pytest.raises(KeptPromptError, match="holds no prompt that could be saved; name one, or generate"):
            save(engine, kept)
        save(engine, kept, prompt(5))
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to(kept)
        for path, sentence in {
            "pipe": "pipe is not a regular file; give a file that save_prompt has written",
            "link": "link is a link; give the path of the file itself",
            "none": r"none cannot be read \(No such file or directory\)",
            "a\0b": r"cannot be read \(embedded null byte\)",
            ".": r"cannot be read \(Is a directory\)",
            "/dev/zero": "is not a regular file",
        }.items():
            with pytest.raises(KeptPromptError, match=sentence):
                load(engine, tmp_path / path)
        for path, sentence in {
            "none/kept": r"none/kept cannot be written \(No such file or directory\); choose another path",
            ".": "cannot be written",
            "a\0b": r"cannot be written \(embedded null byte\)",
        }.items():
            with pytest.raises(KeptPromptError, match=sentence):
                save(engine, tmp_path / path)
        save(engine, tmp_path / "link")
        assert not (tmp_path / "link").is_symlink(), "a link is replaced, and what it led to is left"
        assert load(engine, kept) == 5


def test_a_full_disk_leaves_the_file_that_was_there(cpu: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with Engine(cpu) as engine:
        save(engine, tmp_path / "kept", prompt(5))
        before = (tmp_path / "kept").read_bytes()
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(KeptPromptError, match=r"cannot be written \(No space left on device\); free space there"):
            save(engine, tmp_path / "kept", prompt(9, seed=1))
        assert (tmp_path / "kept").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
        assert answer(engine, [*prompt(9, seed=1), 5])[1] == 9


def test_it_waits_its_turn_and_can_be_cancelled(cpu: Any, tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold(*_: Any) -> None:
        begun.set()
        assert go_on.wait(60)

    with Engine(cpu, prefill_chunk_size=CHUNK) as engine:
        generation = engine.submit(Request(prompt(20), 3, progress=hold))
        begun.wait()
        saved: list[Any] = []
        saving = threading.Thread(target=lambda: saved.append(save(engine, tmp_path / "kept")))
        saving.start()
        assert not saved
        go_on.set()
        saving.join()
        assert saved == [22] and len(list(generation)) == 3

        def ended(slot: Any, cancellation: Any) -> int:
            cancellation.cancel()
            return slot.save(tmp_path / "other", ARTIFACT, cancellation)

        with pytest.raises(CancelledError):
            engine.perform(ended)
        assert not (tmp_path / "other").exists()
        with pytest.raises(ZeroDivisionError):
            engine.perform(lambda *_: 1 // 0)
        assert load(engine, tmp_path / "kept") == 22


def test_an_interrupted_caller_waits_until_it_has_ended(cpu: Any) -> None:
    import signal

    seen: list[bool] = []

    def work(_slot: Any, cancellation: Any) -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        while not cancellation._requested:
            pass
        seen.append(True)

    with Engine(cpu) as engine, pytest.raises(KeyboardInterrupt):
        engine.perform(work)
    assert seen == [True]
