"""``predict`` on the command line: where texts come from, and what is printed and written."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exaone_export.cli.main import cli
from exaone_export.model.heads import (
    HIDDEN_STATES,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from exaone_export.runtime.predict import run as prediction
from tests.conftest import TINY
from tests.runtime.predict.head_models import TEXTS, save_head_model


@pytest.fixture(scope="module")
def artifact(shared: Callable[..., Path], export_artifact: Callable[..., Path]) -> Callable[[str], Path]:
    """The artifact of a head, the same as that of tests/runtime/predict."""
    return lambda kind: export_artifact(save_head_model(shared, kind), "ort-cpu", max_length=128)


def predict(*arguments: str | Path, data: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["predict", *map(str, arguments)], input=data)


def results(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_every_head_gives_a_line_of_json_for_a_line(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text('{"question": "Who?", "context": "미나 lives in Seoul.", "id": "값"}\n')
    given = {
        SEQUENCE_CLASSIFICATION: ("--text", "서울", "--top-k", 2),
        TOKEN_CLASSIFICATION: ("--text", "Mina", "--aggregation", "none"),
        HIDDEN_STATES: ("--text", "A", "--pooling", "mean", "--normalize"),
        QUESTION_ANSWERING: ("--input", tmp_path / "questions.jsonl", "--top-k", 1, "--max-answer-tokens", 1),
    }
    keys = {
        SEQUENCE_CLASSIFICATION: {"label", "score", "scores"},
        TOKEN_CLASSIFICATION: {"entities"},
        HIDDEN_STATES: {"vector"},
        QUESTION_ANSWERING: {"answer", "score", "start", "end", "answers"},
    }
    for kind, options in given.items():
        ran = predict(artifact(kind), *options, "--threads", 1)
        (found,) = results(ran)
        assert found.keys() == {"id", *keys[kind]}
        assert found["id"] == ("값" if kind == QUESTION_ANSWERING else 1)
        assert ran.stderr.splitlines() == ["encode", "load", "predict"]


def test_texts_from_everywhere_are_the_same(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    folder = artifact(SEQUENCE_CLASSIFICATION)
    expected = results(predict(folder, *(word for text in TEXTS for word in ("--text", text))))
    plain = "\n".join(TEXTS).encode()
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    for name, data, options in (
        ("plain.txt", plain, ()),
        ("lines.jsonl", lines, ()),
        ("lines.txt", lines, ("--input-format", "jsonl")),
        ("-", plain, ()),
        ("-", lines, ()),
        ("-", plain, ("--input-format", "text")),
    ):
        if name != "-":
            (tmp_path / name).write_bytes(data)
        path = name if name == "-" else tmp_path / name
        assert results(predict(folder, "--input", path, *options, data=data if name == "-" else b"")) == expected
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(lines,))
    writer.start()
    assert results(predict(folder, "--input", tmp_path / "pipe")) == expected
    writer.join()


def test_a_long_file_keeps_its_order(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    words = [str(number) * (number % 7 + 1) for number in range(150)]
    (tmp_path / "in.txt").write_text("\n".join(words))
    options = ("--batch", 2, "--output", tmp_path / "out.jsonl")
    ran = predict(artifact(HIDDEN_STATES), "--input", tmp_path / "in.txt", *options)
    assert ran.exit_code == 0 and ran.stdout == "" and ran.stderr.splitlines()[-1] == "predict 150/150 texts"
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [result["id"] for result in found] == list(range(1, 151))
    picked = results(predict(artifact(HIDDEN_STATES), *(word for text in words[60:68] for word in ("--text", text))))
    for ours, alone in zip(found[60:68], picked, strict=True):
        assert ours["vector"] == pytest.approx(alone["vector"], abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.jsonl"]


def test_a_run_that_fails_leaves_the_output_as_it_was(
    artifact: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.jsonl").write_text("before")
    (tmp_path / "in.jsonl").write_text('{"text": "A"}\n{"text": "A", "note": 1}\n')
    folder = artifact(HIDDEN_STATES)
    bad = predict(folder, "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert bad.exit_code == 2 and bad.stdout == ""
    assert f"error: line 2 of {tmp_path / 'in.jsonl'} gives 'text' and 'note', and hidden-states takes" in bad.stderr
    result_of = prediction.result_of

    def failing(*arguments: Any) -> Any:
        result = result_of(*arguments)

        def give(text: Any, output: Any, row: int) -> Any:
            if text.id == 4:
                raise MemoryError
            return result(text, output, row)

        return give

    monkeypatch.setattr(prediction, "result_of", failing)
    monkeypatch.setattr(prediction, "_WINDOW", 1)
    words = [word for text in "ABCDE" for word in ("--text", text)]
    ran = predict(folder, *words, "--batch", 1, "--output", tmp_path / "out.jsonl")
    assert ran.exit_code == 1 and "out of memory" in ran.stderr
    assert (tmp_path / "out.jsonl").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "pass texts with --text, or a file of them with --input; run: "),
        (("--text", "a", "--input", "-"), "pass texts with --text, or a file of them with --input; run: "),
        (("--text", "a", "--input-format", "text"), "--input-format says how --input is read; leave it out"),
        (("--text", ""), "text 1 has an empty 'text'; write a text there."),
        (("--text", "caf\udce9"), "text 1 cannot be encoded: the prompt holds the byte 0xe9, which is not UTF-8"),
        (("--input", "-"), "stdin has no line that is not blank; write one text a line"),
        (("--input", "missing.txt"), "invalid value for '--input': File 'missing.txt' does not exist"),
        (("--text", "a", "--output", "/dev/null"), "/dev/null is not a regular file; leave it out for stdout"),
        (("--text", "a", "--pooling", "mean"), "--pooling is for hidden-states, and the head of"),
        (("--text", "a", "--max-answer-tokens", "2000"), "is not in the range 1<=x<=1024"),
        (("--text", "a", "--batch", "0"), "is not in the range x>=1"),
    ],
)
def test_what_is_refused(artifact: Callable[[str], Path], options: tuple[str, ...], sentence: str) -> None:
    ran = predict(artifact(SEQUENCE_CLASSIFICATION), *options)
    assert ran.exit_code == 2 and ran.stdout == ""
    (error,) = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert sentence in error and "defect" not in error and "load" not in ran.stderr.splitlines()


def test_a_causal_language_model_and_a_checkpoint(export_artifact: Callable[..., Path]) -> None:
    folder = export_artifact(TINY, "ort-cpu", max_length=512)
    ran = predict(folder, "--text", "a")
    assert ran.exit_code == 2 and ran.stderr == (
        f"error: {folder} is of Exaone4ForCausalLM, which gives the next token; run: exaone-export generate {folder}, "
        f"or for vectors of texts export the checkpoint again with --head hidden-states.\n"
    )
    assert "so it is not an artifact" in predict(TINY, "--text", "a").stderr


def test_stdin_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from exaone_export.cli import predict as command

    monkeypatch.setattr(command.sys, "stdin", None)  # type: ignore[attr-defined]
    with (
        pytest.raises(command.PromptError, match="stdin is closed; pass a file with --input FILE"),
        command._given((), Path("-"), None, HIDDEN_STATES),
    ):
        pass
