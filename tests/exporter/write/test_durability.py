"""Killed, on a bad disk, or side by side: what is at the destination is old or new, and the next run mends the rest."""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError, CalibrationError, ExaoneExportError
from exaone_export.exporter import export as pipeline
from exaone_export.exporter.calibrate.run import Options, calibrate
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.export import ExportPlan, plan_export, write_artifact
from exaone_export.exporter.reference import weights
from exaone_export.exporter.write import data_file
from exaone_export.files import staged_folder
from tests.conftest import SaveModel
from tests.exporter.calibrate.calibration_models import TEXTS, make_chatter, write_lines
from tests.exporter.disturbed import count_changes, failing_at, fork, kill_at

EXPORT_KILLS, CALIBRATION_KILLS, FAULTS, EXPORTERS, ROUNDS = 24, 10, 12, 4, 4
LAYERS = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}

Content = dict[str, bytes]


@pytest.fixture(scope="module")
def plans(save_model: SaveModel) -> Iterator[tuple[ExportPlan, ExportPlan]]:
    """Two exports of one model. Their graphs are made once, and their weights pass in several parts and batches."""
    options: dict[str, Any] = {"target": "ort-cpu", "precision": "int4"}
    model = save_model(**LAYERS, hidden_size=64, intermediate_size=64)
    plans = tuple(plan_export(model, max_length=length, **options) for length in (64, 32))
    drafts = [(plan, pipeline.draft(plan)) for plan in plans]

    def drafted(plan: ExportPlan) -> Any:
        graphs, manifest = next(made for one, made in drafts if one is plan)
        return {name: graph.clone() for name, graph in graphs.items()}, manifest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "draft", drafted)
        patch.setattr(data_file, "_SYNC_BYTES", 4096)
        patch.setattr(weights, "_PART_BYTES", 8192)
        yield plans[0], plans[1]


@pytest.fixture(scope="module")
def undisturbed(plans: tuple[ExportPlan, ExportPlan], tmp_path_factory: pytest.TempPathFactory) -> list[Content]:
    found = []
    for plan in plans:
        out = tmp_path_factory.mktemp("undisturbed") / "out"
        write_artifact(plan, out)
        found.append(content(out))
    return found


def content(folder: Path) -> Content:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def state(out: Path, old: Content | None, new: Content) -> str:
    """What stands at the destination; a mixture has no name, and is an error."""
    if not out.exists():
        assert old is None, "an artifact was lost"
        return "none"
    Artifact.open(out)
    found = content(out)
    assert found in (old, new), "a mixture"
    return "new" if found == new else "old"


def leftovers(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name.startswith("."))


def as_text(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def test_killed_at_any_change_of_the_disk_an_export_goes_on_to_the_same_bytes(
    plans: tuple[ExportPlan, ExportPlan],
    undisturbed: list[Content],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    old, new = undisturbed[1], undisturbed[0]
    changes = [
        count_changes(partial(write_artifact, plans[0], tmp_path / "count", overwrite=replaces))
        for replaces in (False, True)
    ]
    chance, counts = random.Random(0), Counter[str]()
    for number in range(EXPORT_KILLS):
        place = tmp_path / str(number)
        replaces = number % 2 == 1
        if replaces:
            write_artifact(plans[1], place / "out")
        notices: list[str] = []
        work = partial(write_artifact, plans[0], place / "out", overwrite=replaces, notice=notices.append)
        found = "none"
        last = changes[replaces]
        events = [chance.randint(1, last) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
        if number < 8:  # the last steps, of which there are few
            events = [last - number // 2]
        for event in events:
            if found == "new":
                break
            killed = kill_at(event, work, torn=chance.random() < 0.5)
            found = state(place / "out", old if replaces else None, new)
            if killed:
                counts["kills"] += 1
                counts[f"{found} artifact at OUT"] += 1
        if found == "new" and not replaces:
            with pytest.raises(ArtifactError, match="is an artifact already"):
                work()
        else:
            work()
            counts["went on" if notices else "began again"] += 1
        assert state(place / "out", None, new) == "new"
        assert leftovers(place) == []
        counts["same bytes in the end"] += 1
    assert counts["kills"] >= EXPORT_KILLS
    assert counts["went on"] > EXPORT_KILLS // 3
    assert counts["new artifact at OUT"]
    record_property("outcomes", f"kill -9 in an export, {EXPORT_KILLS} runs: {as_text(counts)}, 0 lost or mixed")


def test_killed_at_any_change_of_the_disk_a_calibration_goes_on_to_the_same_bytes(
    save_model: SaveModel, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    model, data = make_chatter(save_model, tmp_path / "model"), write_lines(tmp_path / "data.jsonl", *TEXTS)
    work = partial(calibrate, model, data=data, options=Options(), samples=2)
    changes = count_changes(lambda: work(tmp_path / "undisturbed"))
    wanted = (tmp_path / "undisturbed").read_bytes()
    chance, counts = random.Random(0), Counter[str]()
    for number in range(CALIBRATION_KILLS):
        (tmp_path / str(number)).mkdir()
        out, notices = tmp_path / str(number) / "scales", list[str]()
        assert kill_at(chance.randint(1, changes), partial(work, out), torn=chance.random() < 0.5)
        counts["kills"] += 1
        if out.exists():
            assert out.read_bytes() == wanted, "a mixture"
            counts["new file at OUT"] += 1
            with pytest.raises(CalibrationError, match="exists already"):
                work(out)
        else:
            counts["no file at OUT"] += 1
        work(out, overwrite=True, notice=notices.append)
        counts["went on" if notices else "began again"] += 1
        assert out.read_bytes() == wanted
        assert leftovers(out.parent) == []
        counts["same bytes in the end"] += 1
    record_property(
        "outcomes", f"kill -9 in a calibration, {CALIBRATION_KILLS} runs: {as_text(counts)}, 0 lost or mixed"
    )


def test_an_error_of_the_disk_is_one_sentence_and_leaves_what_was_there(
    plans: tuple[ExportPlan, ExportPlan],
    undisturbed: list[Content],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    old, new = undisturbed[1], undisturbed[0]
    changes = count_changes(lambda: write_artifact(plans[0], tmp_path / "count"))
    chance, counts = random.Random(0), Counter[str]()
    for number in range(FAULTS):
        place, replaces = tmp_path / str(number), number % 2 == 1
        if replaces:
            write_artifact(plans[1], place / "out")
        work = partial(write_artifact, plans[0], place / "out", overwrite=replaces)
        code = chance.choice((errno.ENOSPC, errno.EIO))
        with failing_at(chance.randint(1, changes - 1), code):
            try:
                work()
                counts["not in the way"] += 1  # of what is removed at last, say
            except ExaoneExportError as error:
                assert isinstance(error, ArtifactError)
                assert "\n" not in str(error)
                counts[f"refused with {errno.errorcode[code]}"] += 1
        found = state(place / "out", old if replaces else None, new)
        counts[f"{found} artifact at OUT"] += 1
        if found != "new" or replaces:
            work()
        assert state(place / "out", None, new) == "new"
        assert leftovers(place) == []
        counts["same bytes in the end"] += 1
    assert counts["refused with ENOSPC"]
    assert counts["refused with EIO"]
    record_property("outcomes", f"disk faults in an export, {FAULTS} runs: {as_text(counts)}, 0 lost or mixed")


def test_a_full_disk_keeps_what_a_calibration_has_finished(
    save_model: SaveModel, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The disk is full from one sync on, from the first to the last of them."""
    model, data = make_chatter(save_model, tmp_path / "model"), write_lines(tmp_path / "data.jsonl", *TEXTS)
    work = partial(calibrate, model, data=data, options=Options(), samples=2)
    fsync, seen = os.fsync, 0

    def full(descriptor: int, since: int = 1 << 30) -> None:
        nonlocal seen
        seen += 1
        if seen >= since:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        work(tmp_path / "undisturbed")
    wanted, syncs, counts = (tmp_path / "undisturbed").read_bytes(), seen, Counter[str]()
    for number in (1, *range(7, syncs, 5), syncs):
        (tmp_path / str(number)).mkdir()
        out, notices, seen = tmp_path / str(number) / "scales", list[str](), 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", partial(full, since=number))
            with pytest.raises(CalibrationError, match="free some and give the same command again") as caught:
                work(out, notice=notices.append)
        assert "\n" not in str(caught.value)
        counts["refused"] += 1
        kept = [notice for notice in notices if "finished layers are stored in" in notice]
        counts["kept its finished layers"] += len(kept)
        counts["had none"] += not kept
        notices.clear()
        work(out, overwrite=True, notice=notices.append)
        assert any(notice.startswith("continuing after") for notice in notices) == bool(kept)
        assert out.read_bytes() == wanted
        counts["same bytes in the end"] += 1
    assert counts["kept its finished layers"] == counts["refused"] - 1
    record_property("outcomes", f"full disks in a calibration: {as_text(counts)}, 0 lost or mixed")


def test_a_rename_that_fails_keeps_the_work(
    plans: tuple[ExportPlan, ExportPlan],
    undisturbed: list[Content],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """What a mount point, a sticky folder or a security module does, where nothing told so before."""
    codes, counts = (errno.EBUSY, errno.EACCES, errno.ENOSPC), Counter[str]()
    for number, (code, replaces) in enumerate(product(codes, (False, True))):
        out = tmp_path / str(number) / "out"
        if replaces:
            write_artifact(plans[1], out)

        def fail(*_: object, code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(staged_folder, "put_in_place", fail)
            with pytest.raises(ArtifactError, match="give the same command again, which goes on from") as caught:
                write_artifact(plans[0], out, overwrite=replaces)
        assert "\n" not in str(caught.value)
        assert state(out, undisturbed[1] if replaces else None, undisturbed[0]) == ("old" if replaces else "none")
        notices: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpoint, "read_rows", lambda *_: pytest.fail("a weight was read again"))
            write_artifact(plans[0], out, overwrite=replaces, notice=notices.append)
        assert [notice.startswith("continuing after") for notice in notices] == [True]
        assert state(out, None, undisturbed[0]) == "new"
        assert leftovers(out.parent) == []
        counts[f"{errno.errorcode[code]}"] += 1
    record_property("outcomes", f"renames that fail at the end of an export: {as_text(counts)}, 0 works lost")


def test_exporters_side_by_side_do_not_disturb_each_other(
    plans: tuple[ExportPlan, ExportPlan],
    undisturbed: list[Content],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """In every round two of them do the same; in every second one an artifact may be replaced."""
    counts = Counter[str]()
    for number in range(ROUNDS):
        place, replaces = tmp_path / str(number), number % 2 == 1

        def work(which: int, place: Path = place, replaces: bool = replaces) -> None:
            write_artifact(plans[which % 2], place / "out", overwrite=replaces)

        children = [fork(partial(work, which)) for which in range(EXPORTERS)]
        done = sum(os.waitpid(child, 0)[1] == 0 for child in children)
        assert done == EXPORTERS if replaces else done == 1
        counts["done"] += done
        counts["told that OUT is taken"] += EXPORTERS - done
        found = state(place / "out", *undisturbed)
        assert leftovers(place) == []
        counts[f"rounds with the {'first' if found == 'old' else 'second'} recipe's artifact"] += 1
    record_property(
        "outcomes", f"{EXPORTERS} exporters in one folder, {ROUNDS} rounds: {as_text(counts)}, 0 lost or mixed"
    )
