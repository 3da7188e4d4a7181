"""``exaone-export batch``: answers of the server's paths, nothing twice and nothing lost whatever ends a run."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exaone_export.cli.main import cli
from tests.conftest import TINY

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["batch", *map(str, arguments), "--threads", "1", "--model-name", "tiny"])


def line(custom_id: str, url: str = CHAT, method: str = "POST", **body: Any) -> dict[str, Any]:
    if url == CHAT:
        body.setdefault("messages", [{"role": "user", "content": "What is 27 + 45?"}])
    return {"custom_id": custom_id, "method": method, "url": url, "body": {"model": "tiny", **body}}


def sums(count: int) -> list[dict[str, Any]]:
    asked = [
        [{"role": "user", "content": f"What is {11 + number % 5} + {40 - number % 5}?"}] for number in range(count)
    ]
    return [line(f"sum {number}", messages=messages, temperature=0) for number, messages in enumerate(asked)]


def written(folder: Path, lines: Sequence[dict[str, Any] | str]) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(each if isinstance(each, str) else json.dumps(each) + "\n" for each in lines))
    return path


def answers(out: Path) -> dict[str, Any]:
    found = [json.loads(each) for each in out.read_text().splitlines()]
    assert len({each["custom_id"] for each in found}) == len(found)
    return {each["custom_id"]: each for each in found}


def said(out: Path) -> dict[str, str]:
    bodies = {name: each["response"]["body"] for name, each in answers(out).items()}
    return {name: body["choices"][0]["message"]["content"] for name, body in bodies.items()}


@pytest.fixture(scope="session")
def tiny(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=512)


def test_answers_have_openais_form_and_a_refusal_is_one_too(tiny: Path, tmp_path: Path) -> None:
    given = written(
        tmp_path,
        [
            line("a"),
            line("b", TEXT, prompt=["Hi", "Hello"], max_tokens=3),
            line("c", "/v1/responses", input="What is 27 + 45?"),
            line("long", max_tokens=600),
            line("held", structured_outputs={"choice": ["yes"]}),
        ],
    )
    threads = set(threading.enumerate())
    result = run(tiny, given, tmp_path / "out.jsonl")
    assert result.exit_code == 1, result.output
    left = [each for each in set(threading.enumerate()) - threads if each.name.startswith("exaone-grammars")]
    for thread in left:
        thread.join(10)
        assert not thread.is_alive()
    found = answers(tmp_path / "out.jsonl")
    assert found.keys() == {"a", "b", "c", "long", "held"}
    assert found["held"]["response"]["body"]["choices"][0]["message"]["content"] == "yes"
    for each in found.values():
        assert each.keys() == {"id", "custom_id", "response", "error"} and each["error"] is None
        assert each["response"].keys() == {"status_code", "request_id", "body"}
    whole = found["a"]["response"]
    assert (whole["status_code"], whole["body"]["choices"][0]["message"]["content"]) == (200, "72")
    assert found["c"]["response"]["body"]["output"][0]["content"][0]["text"] == "72"
    assert [choice["index"] for choice in found["b"]["response"]["body"]["choices"]] == [0, 1]
    assert found["long"]["response"]["status_code"] == 400
    assert "512" in found["long"]["response"]["body"]["error"]["message"]
    assert "5 answers, 1 of them refused, 5 in" in result.stderr.splitlines()[-1]


def test_every_bad_line_is_told_by_its_number_before_anything_is_loaded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exaone_export.runtime.batch import run as batch_run

    monkeypatch.setattr(batch_run, "opened_app", lambda *_: pytest.fail("it was loaded"))
    given = written(
        tmp_path,
        [
            line("a"),
            "{\n",
            "\n",
            line("a"),
            line("b", method="GET"),
            line("c", "/v1/embeddings", input="x"),
            line("d", temperature=9),
            line("e", stream=True),
            line("f", model="other"),
            line(""),
            {**line("g"), "more": 1},
            '{"custom_id": "h", "custom_id": "i"}\n',
            json.dumps(line("\ud800")) + "\n",
            line("j", bogus=1),
        ],
    )
    given.write_bytes(codecs.BOM_UTF8 + given.read_bytes())  # as Windows' editors do, which is no fault of line 1
    result = run(tiny, given, tmp_path / "out.jsonl")
    assert result.exit_code == 2
    told = {int(each.split()[1].rstrip(":")): each for each in result.stderr.splitlines() if each.startswith("line")}
    assert sorted(told) == [2, *range(4, 15)]
    assert "of line 1" in told[4] and "GET" in told[5] and CHAT in told[6] and "temperature" in told[7]
    assert "stream" in told[8] and "'other'" in told[9] and "custom_id" in told[10] and "'more'" in told[11]
    assert "bogus" in told[14]
    assert "12 of the 13 lines" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out.jsonl").exists()


def test_a_killed_run_is_gone_on_with_nothing_twice_and_nothing_lost(tiny: Path, tmp_path: Path) -> None:
    asked = sums(150)
    given, out = written(tmp_path, asked), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "exaone_export", "batch", str(tiny), str(given), str(out)]
    process = subprocess.Popen([*command, "--threads", "1", "--model-name", "tiny"], stderr=subprocess.DEVNULL)
    while not out.exists() or out.read_bytes().count(b"\n") < 20:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    stood = out.read_bytes()
    assert 20 <= stood.count(b"\n") < 150
    out.write_bytes(stood + b'{"id": "batch_req_0123')  # as if it had died within a line
    result = run(tiny, given, out)
    assert result.exit_code == 0, result.output
    assert out.read_bytes().startswith(stood[: stood.rindex(b"\n") + 1])
    assert f"{150 - stood.count(bytes([10]))} in" in result.stderr.splitlines()[-1]
    assert said(out) == {each["custom_id"]: str(51) for each in asked}
    whole = out.read_bytes()
    assert run(tiny, given, out).exit_code == 0 and out.read_bytes() == whole


def test_an_interruption_leaves_a_file_to_go_on_with(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exaone_export.runtime.batch.results import Results

    given, out, write = written(tmp_path, sums(12)), tmp_path / "out.jsonl", Results.write

    def interrupted(self: Results, *arguments: Any) -> None:
        write(self, *arguments)
        if len(self.answered) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Results, "write", interrupted)
    result = run(tiny, given, out)
    assert result.exit_code == 130
    assert "5 of 12 answered; run the same command again to go on." in result.stderr
    monkeypatch.undo()
    assert run(tiny, given, out).exit_code == 0
    assert set(said(out).values()) == {"51"} and len(answers(out)) == 12


def test_a_failure_of_the_model_is_no_answer_and_another_run_asks_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exaone_export.runtime.core.answering.loop import Answering

    given, out, prefill, begun = written(tmp_path, sums(6)), tmp_path / "out.jsonl", Answering.prefill, list[int]()

    def failing(self: Answering) -> None:
        begun.append(1)
        if len(begun) in (2, 5):
            raise MemoryError
        prefill(self)

    monkeypatch.setattr(Answering, "prefill", failing)
    result = run(tiny, given, out)
    assert result.exit_code == 1 and len(answers(out)) == 4
    assert "2 of 6 requests failed and have no line in" in result.stderr.splitlines()[-1]
    monkeypatch.undo()
    result = run(tiny, given, out)
    assert result.exit_code == 0 and "2 in" in result.stderr.splitlines()[-1]
    assert set(said(out).values()) == {"51"} and len(answers(out)) == 6


def test_a_request_that_fails_alone_too_is_answered_with_its_error(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exaone_export.runtime.core.answering.loop import Answering

    given, out, prefill, begun = written(tmp_path, sums(4)), tmp_path / "out.jsonl", Answering.prefill, list[Any]()

    def failing(self: Answering) -> None:
        begun.append(list(self.prompt))
        if begun[-1] == begun[0] or len(begun) == 3:
            raise ValueError("of the model")
        prefill(self)

    monkeypatch.setattr(Answering, "prefill", failing)
    result = run(tiny, given, out)
    assert result.exit_code == 1 and "4 answers, 1 of them refused" in result.stderr.splitlines()[-1]
    [bad] = [each["response"] for each in answers(out).values() if each["response"]["status_code"] != 200]
    assert (bad["status_code"], bad["body"]["error"]["code"]) == (500, "server_failed")
    count = len(begun)
    assert run(tiny, given, out).exit_code == 1 and len(begun) == count


def test_a_file_of_something_else_is_left_as_it_is(tiny: Path, tmp_path: Path) -> None:
    given, out = written(tmp_path, sums(2)), tmp_path / "out.jsonl"
    for content in (b"my notes", b"my notes\n", b'{"custom_id": "x"}\n', b'{"id": "batch_req_0"}\n'):
        out.write_bytes(content)
        result = run(tiny, given, out)
        assert (result.exit_code, out.read_bytes()) == (2, content)
        assert "line 1 of" in result.stderr
    out.unlink()
    assert run(tiny, given, out).exit_code == 0
    whole = out.read_bytes()
    for change in (
        [line("other")],
        [{**sums(1)[0], "url": TEXT, "body": {"model": "tiny", "prompt": "x"}}, sums(2)[1]],
    ):
        result = run(tiny, written(tmp_path, change), out)
        assert (result.exit_code, out.read_bytes()) == (2, whole)
        assert "answers another request than IN has, or is another artifact's" in result.stderr
    out.write_bytes(whole + whole)
    assert "a second time" in run(tiny, written(tmp_path, sums(2)), out).stderr
    assert out.read_bytes() == whole + whole


def test_a_pipe_a_dash_and_a_compressed_file_are_told_what_to_do(tiny: Path, tmp_path: Path) -> None:
    given, pipe, packed = written(tmp_path, sums(1)), tmp_path / "pipe", tmp_path / "my in.gzip"
    os.mkfifo(pipe)
    packed.write_bytes(gzip.compress(given.read_bytes()))
    for source, out, says in (
        (given, pipe, "is not a regular file; choose another OUT"),
        (given, "-", "answers are appended to a file"),
        (packed, tmp_path / "out.jsonl", f"is compressed with gzip; run: gunzip -c '{packed}' > OTHER, and pass OTHER"),
    ):
        result = run(tiny, source, out)
        assert result.exit_code == 2 and says in result.stderr
    assert not Path("-").exists() and not (tmp_path / "out.jsonl").exists()


def test_another_artifact_does_not_go_on_and_two_processes_do_not_write_one_file(tiny: Path, tmp_path: Path) -> None:
    from exaone_export.artifact.reader import Artifact
    from exaone_export.errors import BatchError
    from exaone_export.runtime.batch.requests import read_requests
    from exaone_export.runtime.batch.results import Results
    from exaone_export.runtime.batch.run import identity_of

    given, out = written(tmp_path, sums(1)), tmp_path / "out.jsonl"

    def requests(artifact: str) -> Any:
        return read_requests(given, head="causal-lm", artifact=artifact, model_name="tiny", notice=print)

    ours = identity_of(Artifact.open(tiny, weights_later=True))
    with Results(out, requests(ours)) as results:
        [request] = requests(ours).values()
        results.write(request, 200, {})
        results.write(request, 200, {})
        with pytest.raises(BatchError, match="written by another process"):
            Results(out, requests(ours))
    assert out.read_bytes().count(b"\n") == 1
    with pytest.raises(BatchError, match="another artifact's"):
        Results(out, requests("of another"))
    Results(out, requests(ours)).close()
    with pytest.raises(BatchError, match="not a regular file"):
        Results(Path(os.devnull), requests(ours))


def test_vectors_of_a_batch(export_artifact: Callable[..., Path], tmp_path: Path) -> None:
    artifact = export_artifact(TINY, "ort-cpu", max_length=512, head="hidden-states")
    given, out = written(tmp_path, [line("v", "/v1/embeddings", input=["Hello", "Hi"])]), tmp_path / "out.jsonl"
    assert run(artifact, given, out).exit_code == 0
    vectors = [each["embedding"] for each in answers(out)["v"]["response"]["body"]["data"]]
    assert len(vectors) == 2 and vectors[0] != vectors[1]


def test_a_process_of_ray_data_answers_as_one_alone_does(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from exaone_export.artifact.reader import Artifact
    from exaone_export.errors import ArtifactError
    from exaone_export.runtime.batch.on_ray import _Answerer
    from exaone_export.runtime.batch.run import identity_of
    from exaone_export.runtime.serve.loading import Loading

    options = {"model_name": "tiny", "loading": Loading(slots=2, threads=1), "pooling": "last"}
    identity = identity_of(Artifact.open(tiny, weights_later=True))
    body = json.dumps(sums(1)[0]["body"]).encode()
    answerer = _Answerer(str(tiny), None, identity, **options)
    found = answerer({"custom_id": "a", "url": CHAT, "body": body})
    assert (found["custom_id"], found["status"]) == ("a", 200)
    assert json.loads(found["body"])["choices"][0]["message"]["content"] == "51"
    copied = tmp_path / "copied"
    shutil.copytree(tiny, copied)
    with pytest.raises(ArtifactError, match="another artifact"):
        _Answerer(str(copied), None, "of another", **options)
