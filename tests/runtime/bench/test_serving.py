"""``exaone-export bench --serve``, over a real server, and its parts."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exaone_export.cli.main import cli
from exaone_export.runtime.bench.serving.client import Server, ServerError
from exaone_export.runtime.bench.serving.trace import make_trace
from tests.conftest import TINY, without_package


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["bench", *map(str, arguments), "--threads", "1"])


@pytest.fixture(scope="module")
def artifact(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=512)


def test_every_level_answers_the_same_trace(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "serving.png"
    options = ("--concurrency", "1", "--concurrency", "3", "--requests", "4", "--prompt", "24", "--new", "6")
    result = run(artifact, "--serve", *options, "--json", "--plot", plot)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    one, three = found["levels"]
    assert (one["concurrency"], three["concurrency"], found["slots"]) == (1, 3, 3)
    assert one["requests"] == three["requests"] == 4 and one["failed"] == three["failed"] == 0
    assert one["answer_tokens"] == three["answer_tokens"] and 4 * 3 <= one["answer_tokens"] <= 4 * 6
    # The prompts of the second number of clients are others, which no cache holds, and as long but for their number.
    assert abs(one["prompt_tokens"] - three["prompt_tokens"]) <= 4 and three["prompt_tokens"] <= 4 * 24
    assert 0 < one["time_to_first_token"]["p50"] <= one["time_to_first_token"]["p95"] < one["seconds"]
    assert one["time_per_output_token"]["p50"] > 0 and found["peak_memory_bytes"] > 1 << 20
    assert plot.stat().st_size > 10_000


def test_what_does_not_fit_or_belong_is_refused(artifact: Path) -> None:
    assert "do not fit the 512" in run(artifact, "--serve", "--prompt", "500").stderr
    assert "--depth is not for --serve" in run(artifact, "--serve", "--depth", "3").stderr
    assert "--concurrency is for --serve" in run(artifact, "--concurrency", "3").stderr


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "httpx2"])
def test_a_missing_extra_is_named(artifact: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    without_package(monkeypatch, package)
    for module in ("run", "client"):
        monkeypatch.delitem(sys.modules, f"exaone_export.runtime.bench.serving.{module}", raising=False)
    result = run(artifact, "--serve")
    assert result.exit_code == 1 and "pip install 'exaone-export[serve]'" in result.stderr


def test_a_trace_is_made_of_its_seed() -> None:
    def make(seed: int, first: int = 0) -> Any:
        words = {"length": lambda text: len(text.split()), "first": first}
        return make_trace(30, prompt=20, new=8, pause=0.5, seed=seed, **words)

    trace = make(3)
    assert trace == make(3) != make(4)
    assert all(10 <= len(asked.prompt.split()) <= 20 and 4 <= asked.tokens <= 8 for asked in trace)
    assert len({asked.prompt.split()[0] for asked in trace}) == 30
    later = make(3, first=30)
    assert [asked.prompt.split()[1:] for asked in later] == [asked.prompt.split()[1:] for asked in trace]
    assert not {asked.prompt.split()[0] for asked in later} & {asked.prompt.split()[0] for asked in trace}
    assert 0.2 < sum(asked.pause for asked in trace) / 30 < 1


@pytest.mark.parametrize(
    ("response", "status", "events"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\ndata: {\"a\": 1}\n\n: waiting\n\ndata: [DONE]\n\n", None, [{"a": 1}]),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\ndata: {\"\r\n8\r\na\": 1}\n\n\r\n"
            b"E\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
            None,
            [{"a": 1}],
        ),
        (b"HTTP/1.1 200 OK\r\n\r\ndata: {\"a\": 1}\n\n", 0, [{"a": 1}]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\ndata", 0, []),
        (b"HTTP/1.1 200 OK\r\n\r\ndata: {\"error\": {\"message\": \"lost\"}}\n\n", 200, []),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\nwait", 429, []),
        (b"", 0, []),
        (
            'HTTP/1.1 200 OK\r\n\r\ndata: {"a": "1\u20282\x85"}\n\ndata: [DONE]\n\n'.encode(),
            None,
            [{"a": "1\u20282\x85"}],
        ),
        (b"HTTP/1.1 200 OK\r\n\r\ndata: {\"a\": 1}\n\ndata: {\"a\"", 0, [{"a": 1}]),
    ],
)  # fmt: skip
def test_a_stream_is_read_to_its_end_and_one_that_breaks_off_is_told(
    response: bytes, status: int | None, events: list[Any]
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        await writer.drain()
        writer.close()

    async def ask() -> tuple[list[Any], int | None]:
        server = await asyncio.start_server(serve, "127.0.0.1")
        found: list[Any] = []
        stream: AsyncIterator[Any] = Server(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "key").events(
            "/", {}
        )
        async with server:
            try:
                async for each in stream:
                    found += [each]
            except ServerError as error:
                return found, error.status
        return found, None

    assert asyncio.run(ask()) == (events, status)
