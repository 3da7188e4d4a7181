"""Readers of an artifact that a writer replaces all the time: whole answers of one model, or a typed error."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from exaone_export.artifact.manifest import read_manifest
from exaone_export.artifact.reader import Artifact
from exaone_export.artifact.writer import ArtifactWriter
from exaone_export.errors import ArtifactReplacedError, ExaoneExportError
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from tests.exporter.disturbed import fork

pytestmark = pytest.mark.hostile

READERS = 4


@pytest.fixture(scope="module")
def artifacts(
    random_hybrid: Path, export_artifact: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Two of equal names and sizes that differ in weights, tokenizer and defaults."""
    made = []
    exported = export_artifact(random_hybrid, "ort-cpu", precision="float32")
    for number in (0, 1):
        made.append(tmp_path_factory.mktemp("artifact") / str(number))
        with ArtifactWriter(made[-1]) as staging:
            copy(exported, staging.path)
            weights = np.fromfile(exported / "model.onnx.data", np.float32)
            (weights / (number + 1)).tofile(staging.path / "model.onnx.data")
            vocabulary = {"this": number, "that": 1 - number}
            Tokenizer(models.WordLevel(vocabulary, unk_token="that")).save(str(staging.path / "tokenizer.json"))
            (staging.path / "generation_config.json").write_text(json.dumps({"top_k": number + 1}))
            staging.commit(read_manifest(exported))
    return made


def copy(artifact: Path, folder: Path) -> None:
    for name in read_manifest(artifact).files:
        shutil.copyfile(artifact / name, folder / name)


def answer(folder: Path) -> list[Any]:
    """What an artifact answers, by its three parts, read as the commands do."""
    opened = Artifact.open(folder)
    with ExaoneForCausalLM.from_artifact(opened, threads=1) as model:
        with opened.unchanged():
            tokenizer = load_tokenizer(folder)
        tokens = tokenizer("this")["input_ids"]
        return [*_answer_of(model), tokens]


def _answer_of(model: ExaoneForCausalLM) -> list[Any]:
    logits = model(torch.tensor([[5, 6, 7]])).logits
    return [hashlib.sha256(logits.numpy().tobytes()).hexdigest(), model.generation_config.top_k]


def answer_at_once(folder: Path) -> list[Any]:
    """The same without a tokenizer, which goes on with the new one where it was replaced once."""
    with ExaoneForCausalLM.from_pretrained(folder, threads=1) as model:
        return _answer_of(model)


class Progress:
    """What readers and the writer tell each other; it is shared by the processes."""

    def __init__(self) -> None:
        self._opened, self._over = multiprocessing.Value("i"), multiprocessing.Value("b")

    def read(self, folder: Path, answers: list[list[Any]], read: Callable[[Path], list[Any]]) -> dict[str, int]:
        """Open the artifact until the writer stops, and count what came of it."""
        counts = Counter[str]()
        while not self._over.value:
            counts[_outcome(folder, answers, read)] += 1
            with self._opened.get_lock():
                self._opened.value += 1
        return counts

    def wait(self, openings: int) -> None:
        """Return after so many more; 0 does not wait."""
        wanted, end = self._opened.value + openings, time.monotonic() + 60
        while self._opened.value < wanted:
            assert time.monotonic() < end, "the readers have stopped"
            time.sleep(0.002)

    def stop(self) -> None:
        self._over.value = 1


def _outcome(folder: Path, answers: list[list[Any]], read: Callable[[Path], list[Any]]) -> str:
    try:
        found = read(folder)
    except ArtifactReplacedError:
        return "typed errors"
    except ExaoneExportError as error:
        return f"untrue errors ({error})"
    known = [one[: len(found)] for one in answers]
    return ("answers of the first", "answers of the second")[known.index(found)] if found in known else "mixtures"


def test_four_readers_and_a_writer(
    artifacts: list[Path],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    pytestconfig: pytest.Config,
) -> None:
    out = tmp_path / "out"
    manifests = [read_manifest(artifact) for artifact in artifacts]
    sizes = [{name: record["size"] for name, record in manifest.files.items()} for manifest in manifests]
    assert sizes[0] == sizes[1]
    answers = [answer(artifact) for artifact in artifacts]
    assert all(one != other for one, other in zip(*answers, strict=True))

    def replace(number: int) -> None:
        with ArtifactWriter(out, overwrite=True) as staging:
            copy(artifacts[number % 2], staging.path)
            staging.commit(manifests[number % 2])

    replace(0)
    progress = Progress()

    def reader(number: int) -> None:
        counts = progress.read(out, answers, (answer, answer_at_once)[number % 2])
        (tmp_path / f"counts-{number}").write_text(json.dumps(counts))

    children = [fork(lambda number=number: reader(number)) for number in range(READERS)]
    end, replacements = time.monotonic() + pytestconfig.getoption("--replacing-seconds"), 0
    try:
        # As fast as it can, and slow enough for every reader, for each of the two in turn.
        for openings in itertools.cycle((2 * READERS, 0, 2)):
            progress.wait(openings)
            if time.monotonic() > end and replacements >= 6:
                break
            replacements += 1
            replace(replacements)
    finally:
        progress.stop()
        ended = [os.waitpid(child, 0)[1] for child in children]
    assert ended == [0] * READERS

    counts = Counter[str]()
    for number in range(READERS):
        counts.update(json.loads((tmp_path / f"counts-{number}").read_text()))
    text = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    record_property("outcomes", f"{READERS} readers, {replacements} replacements: {text}, {counts['mixtures']} mixed")
    assert counts.keys() <= {"answers of the first", "answers of the second", "typed errors"}
    assert counts["answers of the first"] > 0
    assert counts["answers of the second"] > 0
