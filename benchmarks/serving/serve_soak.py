"""Whether the server loses an answer, a slot or memory when it is used for long.

    python benchmarks/serving/serve_soak.py [ARTIFACT] [--minutes 10] [--plot rss.png] [--json FILE]

Three parts, each on a server of its own:

1. 64 streams at once for two minutes: every text and every number of tokens must be that of the same request alone.
2. Clients that go while all slots are busy: from the end of a connection until `/metrics` shows a slot less in use,
   in milliseconds and in steps of the model; asking for the page takes a few steps itself.
3. Mixed load for ten minutes: chats, completions, tools, schemas, log-probabilities, requests that are refused, and a
   third of all clients that go before their answer ends. The server's memory must not grow once it is warm, which
   takes minutes, because the pages of a slot's cache count when a conversation first fills them: at the end it may be
   at most 3% above what it was after two thirds.

The default artifact is the trained checkpoint in examples/, exported to build/.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tiny_artifact import ROOT, ensure_exported

from exaone_export.runtime.bench.report import percentile
from exaone_export.runtime.bench.serving.client import Server, ServerError
from exaone_export.runtime.bench.serving.run import started

STREAMS, STREAM_SECONDS = 64, 120
SLOTS, VANISHING = 8, 40
CLIENTS, PATIENCE = 24, 300
GROWTH = 0.03
SAMPLE_SECONDS = 5.0
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NUMBER = {"name": "n", "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}


def long_text(number: int, tokens: int, stop: int) -> dict[str, Any]:
    """A completion that does not end by itself."""
    more = {"max_tokens": tokens, "temperature": 0, "logit_bias": {str(stop): -100}}
    return {"model": "tiny", "prompt": f"{number} is a number that", "stream_options": {"include_usage": True}, **more}


async def streamed(server: Server, body: dict[str, Any]) -> tuple[str, int]:
    """The text of a stream, and its number of tokens."""
    text, tokens = "", 0
    async for event in server.events("/v1/completions", body):
        text += "".join(choice["text"] for choice in event["choices"])
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    return text, tokens


async def keep_streaming(server: Server, stop: int) -> dict[str, Any]:
    """Part 1."""
    asked = [long_text(number, 24 + number % 40, stop) for number in range(40)]
    alone = [await streamed(server, {**body, "stream_options": {"include_usage": True}}) for body in asked]
    end, counts = time.monotonic() + STREAM_SECONDS, {"streams": 0, "tokens": 0, "other answers": 0, "lost": 0}

    async def client(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < end:
            which = chance.randrange(len(asked))
            try:
                found = await streamed(server, asked[which])
            except ServerError as error:
                counts["lost"] += 1
                print(error, file=sys.stderr)
                continue
            counts["streams"] += 1
            counts["tokens"] += found[1]
            counts["other answers"] += found != alone[which]

    await asyncio.gather(*(client(number) for number in range(STREAMS)))
    return {"at once": STREAMS, "seconds": STREAM_SECONDS, **counts}


async def numbers(server: Server) -> tuple[int, int]:
    """Requests that have a slot, and steps of the model so far."""
    page = (await server.read("/metrics")).decode()
    found = [re.search(rf"^exaone_{name} ([\d.]+)", page, re.MULTILINE) for name in ("running", "steps_total")]
    return tuple(int(float(each[1])) for each in found if each is not None)  # type: ignore[return-value]


async def vanish(server: Server, stop: int) -> dict[str, Any]:
    """Part 2."""
    delays, counted, lengths = list[float](), list[int](), list[float]()
    for number in range(VANISHING):
        streams = [server.events("/v1/completions", long_text(100 * number + each, 400, stop)) for each in range(SLOTS)]
        for stream in streams:
            await anext(stream)
        first, begun = await numbers(server), time.perf_counter()
        await asyncio.sleep(0.1)
        before, now = await numbers(server), time.perf_counter()
        lengths.append((now - begun) / max(before[1] - first[1], 1))
        begun = time.perf_counter()
        await streams[0].aclose()
        while (after := await numbers(server))[0] >= before[0]:
            pass
        delays.append(time.perf_counter() - begun)
        counted.append(after[1] - before[1])
        for stream in streams[1:]:
            await stream.aclose()
        while (await numbers(server))[0]:
            await asyncio.sleep(0.01)
    return {
        "clients that went": VANISHING,
        "slots": SLOTS,
        "ms of a step": round(1e3 * statistics.median(lengths), 2),
        "ms until the slot was free, p50": round(1e3 * percentile(delays, 0.5), 2),
        "ms until the slot was free, p95": round(1e3 * percentile(delays, 0.95), 2),
        "steps until it was seen to be free, p50": percentile(counted, 0.5),
    }


def mixed(chance: random.Random, stop: int) -> tuple[str, dict[str, Any]]:
    """Some request, right or wrong."""
    chat = {"model": "tiny", "messages": [{"role": "user", "content": f"What is {chance.randrange(50)} + 7?"}]}
    number = chance.randrange(1_000_000)
    return chance.choice(
        [
            ("/v1/chat/completions", chat),
            ("/v1/chat/completions", {**chat, "tools": [WEATHER], "tool_choice": "required"}),
            ("/v1/chat/completions", {**chat, "response_format": {"type": "json_schema", "json_schema": NUMBER}}),
            ("/v1/chat/completions", {**chat, "logprobs": True, "top_logprobs": 3, "n": 2, "seed": number}),
            ("/v1/chat/completions", {**chat, "temperature": "hot"}),
            ("/v1/completions", long_text(number, 60, stop)),
            ("/v1/completions", {"model": "tiny", "prompt": "word " * chance.randrange(1, 900), "max_tokens": 8}),
            ("/v1/completions", {"model": "other", "prompt": "x"}),
        ]
    )


async def mix(
    server: Server, process: int, minutes: float, stop: int
) -> tuple[dict[str, Any], list[tuple[float, int]]]:
    """Part 3."""
    begun = time.monotonic()
    end, counts, samples = (
        begun + 60 * minutes,
        {"answered": 0, "refused": 0, "left": 0, "lost": 0},
        list[tuple[float, int]](),
    )

    async def client(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < end:
            path, body = mixed(chance, stop)
            leaves = chance.random() < 1 / 3
            try:
                async with asyncio.timeout(chance.uniform(0.005, 0.5) if leaves else PATIENCE):
                    if chance.random() < 0.5:
                        async with contextlib.aclosing(server.events(path, body)) as events:
                            async for _ in events:
                                pass
                    else:
                        await server.read(path, {key: each for key, each in body.items() if key != "stream_options"})
                counts["answered"] += 1
            except ServerError as error:
                counts["refused"] += 1
                assert 400 <= error.status < 500, error
            except TimeoutError:
                counts["left" if leaves else "lost"] += 1
                if not leaves:
                    print(
                        f"no answer within {PATIENCE} seconds: {path} {body}, {await numbers(server)}", file=sys.stderr
                    )

    async def sample() -> None:
        while time.monotonic() < end:
            found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
            assert found is not None
            samples.append((time.monotonic() - begun, int(found[1]) << 10))
            await asyncio.sleep(SAMPLE_SECONDS)

    await asyncio.gather(sample(), *(client(number) for number in range(CLIENTS)))
    assert (await numbers(server))[0] == 0, "a slot is in use, and nobody waits for it"
    sizes = [size / 2**20 for _, size in samples]
    tenth, warm = max(len(sizes) // 10, 1), 2 * len(sizes) // 3
    means = [statistics.mean(sizes[at : at + tenth]) for at in (0, len(sizes) // 3, warm, len(sizes) - tenth)]
    found = {
        "minutes": minutes,
        "clients": CLIENTS,
        **counts,
        "MiB at the beginning, after one and two thirds, and at the end": [round(mean, 1) for mean in means],
        "growth in the last third": round(means[3] / means[2] - 1, 4),
    }
    return found, samples


def plot(samples: list[tuple[float, int]], path: Path) -> None:
    """The server's memory over time."""
    from exaone_export.files.images import new_figure

    figure = new_figure(path, 7, 4)
    axes = figure.add_subplot()
    axes.plot([seconds / 60 for seconds, _ in samples], [size / 2**20 for _, size in samples])
    axes.set_xlabel("minutes of mixed load")
    axes.set_ylabel("memory of the server, MiB")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", nargs="?", type=Path, default=ROOT / "build" / "soak-tiny")
    parser.add_argument("--parts", type=int, nargs="+", choices=(1, 2, 3), default=(1, 2, 3))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    stop = ensure_exported(options.artifact)
    found: dict[str, Any] = {}

    def serve(slots: int) -> Any:
        return started(str(options.artifact), "--model-name", "tiny", "--threads", "1", "--slots", str(slots))

    samples = list[tuple[float, int]]()
    if 1 in options.parts:
        with serve(STREAMS) as (_, server):
            found["streams"] = asyncio.run(keep_streaming(server, stop))
        print(json.dumps(found["streams"], indent=2), flush=True)
    if 2 in options.parts:
        with serve(SLOTS) as (_, server):
            found["clients that go"] = asyncio.run(vanish(server, stop))
        print(json.dumps(found["clients that go"], indent=2), flush=True)
    if 3 in options.parts:
        with serve(SLOTS) as (process, server):
            found["mixed load"], samples = asyncio.run(mix(server, process.pid, options.minutes, stop))
        print(json.dumps(found["mixed load"], indent=2))
    if options.plot is not None and samples:
        plot(samples, options.plot)
    if options.json is not None:
        options.json.write_text(json.dumps({**found, "memory": samples}, indent=2) + "\n")
    streams, load = found.get("streams", {}), found.get("mixed load", {})
    if streams.get("lost") or streams.get("other answers") or load.get("lost"):
        sys.exit("an answer was lost, or was not the one that is given alone")
    if load.get("growth in the last third", 0) > GROWTH:
        sys.exit("the server's memory has grown")


if __name__ == "__main__":
    main()
