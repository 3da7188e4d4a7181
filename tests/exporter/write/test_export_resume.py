"""An export that was interrupted is taken up where it was, by the same command and by no other."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from exaone_export.artifact.reader import Artifact
from exaone_export.artifact.writer import JOURNAL_NAME
from exaone_export.cli.main import cli
from exaone_export.errors import CalibrationError, CapacityError, CheckpointError
from exaone_export.exporter import export as pipeline
from exaone_export.exporter.calibrate.data import Sample
from exaone_export.exporter.calibrate.run import Options, calibrate
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.export import export
from exaone_export.exporter.reference import weights
from exaone_export.exporter.write import data_file, graph_file
from exaone_export.files.staged_folder import bytes_left_behind
from exaone_export.graphs.passes import divide_head
from exaone_export.planning import machine
from exaone_export.planning.memory_plan import MemoryPlan
from tests.conftest import TINY, SaveModel
from tests.exporter.calibrate.calibration_models import write_lines

OPTIONS: dict[str, Any] = {"max_length": 64, "precision": "int4"}
LAYERS = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights pass in many parts and batches, one after the other, and the vocabulary projection is divided."""
    monkeypatch.setattr(divide_head, "LARGE_BYTES", 1)
    monkeypatch.setattr(data_file, "_SYNC_BYTES", 1)
    monkeypatch.setattr(data_file, "export_workers", lambda: 1)
    monkeypatch.setattr(weights, "_PART_BYTES", 2048)


@pytest.fixture
def model(save_model: SaveModel, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    made = save_model(**LAYERS, hidden_size=64, intermediate_size=64)
    return Path(shutil.copytree(made, tmp_path / "checkpoint" / made.name))


@pytest.fixture(scope="module")
def undisturbed(save_model: SaveModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(divide_head, "LARGE_BYTES", 1)
        export(save_model(**LAYERS, hidden_size=64, intermediate_size=64), out, **OPTIONS)
    assert b"head.weight.quantized.1" in (out / "model.onnx").read_bytes()
    return content(out)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "out"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def at(step: str, number: int, act: Callable[[], object]) -> Callable[..., None]:
    """What, told of progress, acts at a step's report of this number, the first of them 0."""
    counts = Counter[str]()

    def told(name: str, *_: int) -> None:
        counts[name] += 1
        if (name, counts[name] - 1) == (step, number):
            act()

    return told


def stop() -> None:
    raise KeyboardInterrupt


def interrupt(model: Path, out: Path, step: str = "write", number: int = 6, **options: Any) -> Path:
    """Export until a step has given so many reports; gives the folder that is left."""
    with pytest.raises(KeyboardInterrupt):
        export(model, out, progress=at(step, number, stop), **OPTIONS | options)
    return next(out.parent.glob(".*.staging"))


def resumed(model: Path, out: Path, **options: Any) -> tuple[list[str], list[str]]:
    """Export, and say what was told and which tensors were read."""
    notices: list[str] = []
    reads: list[str] = []
    read = Checkpoint.read_rows

    def watched(self: Checkpoint, name: str, rows: int) -> Iterator[torch.Tensor]:
        reads.append(name)
        return read(self, name, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "read_rows", watched)
        export(model, out, notice=notices.append, **OPTIONS | options)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    # Not what is said of the config, whichever run reads it.
    return [notice for notice in notices if not notice.startswith("config.json")], reads


def test_only_what_is_missing_is_done(
    model: Path, out: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = interrupt(model, out)
    lines = (staging / JOURNAL_NAME).read_text().splitlines()
    monkeypatch.setattr(graph_file, "_write_graphs", lambda *_: pytest.fail("the graph was written again"))
    notices, reads = resumed(model, out)
    written = sum(line.count(".quantized") + line.count("scale") for line in lines[1:])
    assert len(lines) > 2
    assert written
    assert notices[0].startswith("continuing after ")
    assert str(staging) in notices[0]
    tensors = Checkpoint.open(model).tensors
    assert 0 < len(reads) < len(tensors)
    assert content(out) == undisturbed


@pytest.mark.parametrize("step", [("trace", 0), ("write", 0), ("commit", 0)])
def test_interrupted_in_any_step(step: tuple[str, int], model: Path, out: Path, undisturbed: dict[str, bytes]) -> None:
    if step[0] == "trace":
        with pytest.raises(KeyboardInterrupt):
            export(model, out, progress=at(*step, stop), **OPTIONS)
        assert list(out.parent.iterdir()) == []
    else:
        interrupt(model, out, *step)
    resumed(model, out)
    assert content(out) == undisturbed


def _cut_journal(staging: Path) -> None:
    path = staging / JOURNAL_NAME
    path.write_bytes(path.read_bytes()[:-3])


def _flip(staging: Path) -> None:
    data = bytearray((staging / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (staging / "model.onnx").write_bytes(data)


def _shorten(staging: Path) -> None:
    os.truncate(staging / "model.onnx.data", 100)


def _forget(staging: Path) -> None:
    (staging / JOURNAL_NAME).unlink()


def _cut_first_line(staging: Path) -> None:
    os.truncate(staging / JOURNAL_NAME, 100)


def _fill(staging: Path) -> None:
    _of_lines(b"garbage", b"[]")(staging)
    (staging / "folder").mkdir()
    (staging / "folder" / "file").touch()


def _of_lines(*lines: bytes, hashed: bool = False) -> Callable[[Path], None]:
    """A journal of another program, or of somebody who knows how a line is hashed."""

    def write(staging: Path) -> None:
        hashes = [hashlib.sha256(line).hexdigest().encode() + b" " if hashed else b"" for line in lines]
        (staging / JOURNAL_NAME).write_bytes(b"".join(map(b"%b%b\n".__mod__, zip(hashes, lines, strict=True))))

    return write


def _another_kind(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def replace(staging: Path) -> None:
        (staging / JOURNAL_NAME).unlink()
        make(staging / JOURNAL_NAME)

    return replace


def _flip_in_journal(staging: Path) -> None:
    _flip_at(staging / JOURNAL_NAME, 300)


def _flip_at(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


_NEVER_BEGUN = (_forget, _cut_first_line)
_USELESS: dict[str, Callable[[Path], None]] = {
    "a graph with a flipped bit": _flip,
    "short weights": _shorten,
    "a journal of garbage": _fill,
    "a journal of an earlier version": _of_lines(b'{"graph": {"manifest": "{}"}, "sha256": "00"}'),
    "a journal without a size": _of_lines(b'{"graph": {"manifest": "{}"}, "sha256": "00"}', hashed=True),
    "a journal of a list": _of_lines(b"[1]", hashed=True),
    "a journal of a number": _of_lines(b'{"graph": 1, "size": [], "sha256": {}}', hashed=True),
    "a journal with a flipped bit": _flip_in_journal,
    "a journal that is a folder": _another_kind(Path.mkdir),
    "a journal that is a pipe": _another_kind(os.mkfifo),
    "a journal that is a link": _another_kind(lambda path: path.symlink_to("/dev/zero")),
}


def test_useless_work_is_discarded_with_a_notice(
    model: Path, out: Path, undisturbed: dict[str, bytes], record_property: Callable[[str, object], None]
) -> None:
    staging = interrupt(model, out)
    shutil.copytree(staging, out.parent.with_name("kept"))
    for damage, make in _USELESS.items():
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(out.parent.with_name("kept"), staging, dirs_exist_ok=True)
        make(staging)
        notices, _ = resumed(model, out)
        assert notices == [f"the work of an earlier run in {staging} is damaged and was discarded"], damage
        assert content(out) == undisturbed, damage
    record_property("outcomes", f"journals and graphs that are damaged: {len(_USELESS)} discarded with a notice")


@pytest.mark.parametrize("damage", _NEVER_BEGUN)
def test_work_that_promised_nothing_is_done_again(
    damage: Callable[[Path], None], model: Path, out: Path, undisturbed: dict[str, bytes]
) -> None:
    damage(interrupt(model, out))
    assert resumed(model, out)[0] == []
    assert content(out) == undisturbed


def test_lines_that_were_cut_or_say_nonsense_are_not_believed(
    model: Path, out: Path, undisturbed: dict[str, bytes]
) -> None:
    staging = interrupt(model, out, number=12)
    _cut_journal(staging)
    first = (staging / JOURNAL_NAME).read_bytes().splitlines(keepends=True)[0]
    digest = b"0" * 64
    nonsense = [
        b'{"written": ["a"]}',
        b'{"written": {"a": [0, 1]}}',
        b'{"written": {"a": [-1, 4, "%s"]}}' % digest,
        b'{"written": {"a": [0, 4, "00"]}}',
        b'{"written": {"a": [0, %d, "%s"], "b": [%d, 1, "%s"]}}' % (2**70, digest, 2**70, digest),
    ]
    for rest in (None, nonsense):
        if rest is not None:
            _of_lines(*rest, hashed=True)(interrupt(model, out, number=12))
            (staging / JOURNAL_NAME).write_bytes(first + (staging / JOURNAL_NAME).read_bytes())
        notices, _ = resumed(model, out)
        assert notices[0].startswith("continuing after ")
        assert notices[0].endswith("2 more are damaged and will be written again") == (rest is not None)
        assert content(out) == undisturbed
        shutil.rmtree(out)


def _written(staging: Path) -> dict[str, list[Any]]:
    """Offset, length and hash of what the journal speaks of, by name."""
    lines = [json.loads(line.split(b" ", 1)[1]) for line in (staging / JOURNAL_NAME).read_bytes().splitlines()]
    return {name: where for line in lines[1:] for name, where in line["written"].items()}


def _hole(path: Path, start: int, end: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(end - start))


def test_tensors_that_the_disk_has_changed_are_written_again(
    model: Path, out: Path, undisturbed: dict[str, bytes], record_property: Callable[[str, object], None]
) -> None:
    """A bit in every other tensor, and a hole in the place of the others."""
    staging = interrupt(model, out, number=12)
    whole, counts = undisturbed["model.onnx.data"], Counter[str]()
    where = _written(staging)
    assert len(where) >= 10
    shutil.copytree(staging, out.parent.with_name("kept"))
    for number, (name, (offset, length, _)) in enumerate(where.items()):
        hole = number % 2 == 1 and any(whole[offset : offset + length])
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(out.parent.with_name("kept"), staging, dirs_exist_ok=True)
        data = staging / "model.onnx.data"
        _hole(data, offset, offset + length) if hole else _flip_at(data, offset + length // 2)
        notices: list[str] = []
        export(model, out, notice=notices.append, **OPTIONS)
        assert notices[-1] == (
            f"continuing after {len(where) - 1} written tensors in {staging}; 1 more are damaged and will be written "
            f"again"
        )
        assert content(out) == undisturbed, name
        counts["holes" if hole else "flipped bits"] += 1
    found = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    record_property("outcomes", f"damage in the work of a killed export: {found}, 0 sealed, same bytes in the end")


def test_what_lies_between_tensors_is_as_an_undisturbed_run_leaves_it(tmp_path: Path) -> None:
    path, places = tmp_path / "data", [data_file.Place(8, 4), data_file.Place(0, 4), data_file.Place(12, 4)]
    path.write_bytes(b"x" * 16)
    data_file.clear_gaps(path, places)
    assert path.read_bytes() == b"xxxx" + bytes(4) + b"x" * 8


def test_what_was_written_for_another_graph_is_written_again(
    model: Path, out: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that is traced again must have its tensors where the written one has them."""
    interrupt(model, out, "commit", 0)
    monkeypatch.setattr(graph_file, "_load", lambda *_: {})
    _, reads = resumed(model, out)
    assert sorted(reads) == sorted(Checkpoint.open(model).tensors)
    assert content(out) == undisturbed


def test_the_work_of_another_command_is_removed(model: Path, out: Path, undisturbed: dict[str, bytes]) -> None:
    for changes in ({"max_length": 32}, {"precision": "int8-weights"}, {"target": "onnx", "precision": "float32"}):
        staging = interrupt(model, out, overwrite=True, **changes)
        assert staging.is_dir()
        notices, _ = resumed(model, out, overwrite=True)
        assert notices == []
        assert content(out) == undisturbed


def test_weights_that_changed_meanwhile_are_not_mixed(model: Path, out: Path, undisturbed: dict[str, bytes]) -> None:
    """Where the fingerprint takes no sample of a tensor, the time of the file's last change tells."""
    interrupt(model, out)
    shard, checkpoint = model / "model.safetensors", Checkpoint.open(model)
    fingerprint = checkpoint.fingerprint()
    data = bytearray(shard.read_bytes())
    data[checkpoint.tensors["model.embed_tokens.weight"].offset + 8002] ^= 0x40
    shard.write_bytes(data)
    assert Checkpoint.open(model).fingerprint() == fingerprint
    notices, _ = resumed(model, out)
    assert notices == []
    assert content(out)["model.onnx.data"] != undisturbed["model.onnx.data"]


def _replace_weights(shard: Path) -> None:
    """By a file of the same header, size and time of its last change."""
    made, seen = shard.with_name("made"), shard.stat()
    shutil.copyfile(shard, made)
    _flip_at(made, seen.st_size - 1)
    os.utime(made, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    made.replace(shard)


def _write_weights(shard: Path) -> None:
    """In place, with the same header."""
    with shard.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")


def _cut_weights(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size - 1)


def test_weights_that_change_while_they_are_read_are_not_mixed(
    model: Path, out: Path, undisturbed: dict[str, bytes], record_property: Callable[[str, object], None]
) -> None:
    """Before the first tensor, in the middle, and when all of them are written."""
    shard, counts = model / "model.safetensors", Counter[str]()
    shutil.copy2(shard, out.parent.with_name("kept"))
    steps: dict[Callable[[Path], object], tuple[tuple[str, int], ...]] = {
        _replace_weights: (("trace", 0), ("write", 0), ("write", 6), ("commit", 0)),
        _write_weights: (("write", 6), ("commit", 0)),
        _cut_weights: (("write", 6),),
        Path.unlink: (("commit", 0),),
    }
    for change, step in ((change, step) for change, found in steps.items() for step in found):
        disturb = at(*step, lambda change=change: change(shard))
        with pytest.raises(CheckpointError, match=r"model\.safetensors (changed while it was|cannot be) read.*; run"):
            export(model, out, progress=disturb, **OPTIONS)
        assert list(out.parent.iterdir()) == []
        shutil.copy2(out.parent.with_name("kept"), shard)
        counts[f"at {step[0]}"] += 1
    export(model, out, **OPTIONS)
    assert content(out) == undisturbed
    refused = ", ".join(f"{count} {when}" for when, count in counts.items())
    record_property("outcomes", f"weights replaced, written, cut or removed in an export: {refused}; 0 mixed")


def test_small_files_are_those_that_were_checked(
    model: Path, out: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "secret").write_text("a key of the user's")
    licence, notice = model / "LICENSE", model / "LICENSE.txt"

    def write(path: Path) -> None:
        path.write_text("theirs")

    def link(path: Path) -> None:
        path.unlink()
        path.symlink_to(tmp_path / "secret")

    refusals = {write: "changed while it was read", link: "is a link to a file outside", Path.unlink: "cannot be found"}
    for change, words in refusals.items():
        licence.unlink(missing_ok=True)
        licence.write_text("yours")
        plan = pipeline.plan_export(model, **OPTIONS)
        change(licence)
        with pytest.raises(CheckpointError, match=f"LICENSE {words}"):
            pipeline.write_artifact(plan, out)
        assert list(out.parent.iterdir()) == []
    licence.write_text("yours")
    plan = pipeline.plan_export(model, **OPTIONS)
    notice.symlink_to(tmp_path / "secret")  # it was not there when the checkpoint was opened

    pipeline.write_artifact(plan, out, progress=at("write", 0, lambda: link(licence)))
    assert (out / "LICENSE").read_text() == "yours"
    assert not (out / "LICENSE.txt").exists()
    record_property(
        "outcomes", f"small files changed in an export: {len(refusals)} refused, 2 later and not looked at, 0 let in"
    )


def test_scales_that_change_while_they_are_read_are_not_mixed(model: Path, out: Path, tmp_path: Path) -> None:
    data, scales = write_lines(tmp_path / "data.jsonl", {"text": "a"}), tmp_path / "scales"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, model)
    with pytest.MonkeyPatch.context() as patch:  # whose tokens the small vocabulary does not have
        samples = [Sample(torch.arange(8)[None], "text")]
        patch.setattr("exaone_export.exporter.calibrate.run.read_samples", lambda *_, **__: samples)
        calibrate(model, scales, data=data, options=Options("int4"))

    disturb = at("write", 6, lambda: _write_weights(scales))
    with pytest.raises(CalibrationError, match="scales changed while it was read; run the command again"):
        export(model, out, calibration=scales, progress=disturb, **OPTIONS)
    assert list(out.parent.iterdir()) == []


def test_a_file_that_left_the_checkpoint_is_not_in_the_artifact(model: Path, out: Path) -> None:
    (model / "LICENSE").write_text("yours")
    assert (interrupt(model, out, "commit", 0) / "LICENSE").exists()
    (model / "LICENSE").unlink()
    notices, reads = resumed(model, out)
    assert notices
    assert reads == []
    assert "LICENSE" not in Artifact.open(out).manifest.files


def test_what_an_interrupted_export_holds_of_the_disk_is_not_asked_for_again(
    model: Path, out: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free some, run again: whether the work is gone on with, or removed as another command's."""
    need = MemoryPlan.of(pipeline.plan_export(model, **OPTIONS).deployment).disk
    for changes in ({}, {"max_length": 32}):
        interrupt(model, out, "commit", 0, plan_check=False, **changes)
        held = bytes_left_behind(out)
        assert held > 1 << 16
        monkeypatch.setattr(machine, "free_disk", lambda _, held=held: need - held - 1)
        with pytest.raises(CapacityError, match="of it used by an interrupted run"):
            export(model, out, **OPTIONS)
        monkeypatch.setattr(machine, "free_disk", lambda _, held=held: need - held)
        notices, _ = resumed(model, out)
        assert bool(notices) == (changes == {})
        assert content(out) == undisturbed
        shutil.rmtree(out)


def test_where_the_artifact_cannot_be_put_is_known_before_the_model_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "open", lambda *_: pytest.fail("the model was downloaded"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["export", "someone/model", "."])
    assert result.exit_code == 1
    assert result.stderr.endswith(f"pass a new folder in it: {tmp_path}/NAME.\n")


def test_the_command_says_that_it_goes_on(model: Path, out: Path) -> None:
    interrupt(model, out)
    result = CliRunner().invoke(cli, ["export", str(model), str(out), "--precision", "int4", "--max-length", "64"])
    assert result.exit_code == 0, result.output
    assert "continuing after " in result.stderr
    assert "continuing after " not in result.stdout


def test_a_checkpoint_that_cannot_be_written_and_one_of_links(
    model: Path, out: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """The cache of Hugging Face has links to blobs; here both are without permission to write."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / model.name
    blobs = tmp_path / "models--a--b" / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for number, path in enumerate(sorted(model.iterdir())):
        shutil.copyfile(path, blobs / str(number))
        (blobs / str(number)).chmod(0o444)
        (snapshot / path.name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    for folder in (snapshot, blobs):
        folder.chmod(0o555)
    before = {path: path.stat() for path in blobs.iterdir()}
    interrupt(snapshot, out)
    resumed(snapshot, out)
    assert content(out) == undisturbed
    assert all(stat.S_ISREG(path.lstat().st_mode) and path.stat().st_mode & 0o200 for path in out.iterdir())
    assert {path: path.stat() for path in blobs.iterdir()}.keys() == before.keys()
    assert all(path.stat().st_mtime_ns == status.st_mtime_ns for path, status in before.items())
    for folder in (snapshot, blobs):
        folder.chmod(0o755)
