"""No answer is lost while a replica is killed: two replicas on this machine, 500 requests, one SIGKILL.

    python benchmarks/serving/ray_replicas.py [ARTIFACT] [--requests 500] [--clients 16]

Every request is answered once before, and the answers must be the same. A quarter of them are streamed; a stream that
has begun on the replica that is killed ends with an error event, and its client asks again, which is counted. Then a
batch is run on Ray Data while one of its processes is killed, and again from what a killed command has left. The
default artifact is the trained checkpoint in examples/, exported to build/.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tiny_artifact import ROOT, ensure_exported

from exaone_export.runtime.bench.serving.client import Server, ServerError
from exaone_export.runtime.bench.serving.run import started

STREAMED = 4  # every fourth
KILL_AFTER = 0.3  # of all answers


def bodies(count: int, stop: int) -> list[dict[str, Any]]:
    """Sums, whose answers are short, and texts of 48 tokens."""
    found: list[dict[str, Any]] = []
    for number in range(count):
        if number % 2:
            chat = [{"role": "user", "content": f"What is {number % 50} + {number // 7}?"}]
            found.append({"messages": chat, "temperature": 0})
        else:
            more = {"max_tokens": 48, "temperature": 0, "logit_bias": {str(stop): -100}}
            found.append({"prompt": f"{number} is a number", **more})
    return found


def path_of(body: dict[str, Any]) -> str:
    """Where it is sent."""
    return "/v1/chat/completions" if "messages" in body else "/v1/completions"


def text_of(choice: dict[str, Any]) -> str:
    """Of an answer, or of a part of one."""
    inner = choice.get("message") or choice.get("delta") or choice
    return inner.get("content") or inner.get("text") or ""


async def ask(server: Server, body: dict[str, Any], streamed: bool) -> str:
    """The text of an answer."""
    path = path_of(body)
    if not streamed:
        return text_of(json.loads(await server.read(path, body))["choices"][0])
    events = [event async for event in server.events(path, body)]
    return "".join(text_of(each["choices"][0]) for each in events if each["choices"])


async def ask_all(
    server: Server, asked: list[dict[str, Any]], clients: int, on_answer: Any = lambda _: None
) -> tuple[list[str], list[str]]:
    """All answers, and why some were sent again."""
    answers, again, left = [""] * len(asked), list[str](), iter(range(len(asked)))
    done = 0

    async def client() -> None:
        nonlocal done
        for number in left:
            streamed = number % STREAMED == 0
            while True:
                try:
                    answers[number] = await ask(server, asked[number], streamed)
                    break
                except ServerError as error:
                    again.append(f"{'stream' if streamed else 'whole'}: {error}")
                    if len(again) > len(asked):
                        raise
            done += 1
            on_answer(done)

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers, again


async def leave(server: Server, stop: int) -> float:
    """Seconds from the end of four connections until no replica answers any more."""
    more = {"max_tokens": 400, "temperature": 0, "logit_bias": {str(stop): -100}}
    streams = [
        server.events("/v1/completions", {"model": "tiny", "prompt": f"{number} is", **more}) for number in range(4)
    ]
    for stream in streams:
        await anext(stream)
    for stream in streams:
        await stream.aclose()
    begun = time.monotonic()
    while True:
        page = (await server.read("/metrics")).decode()
        if not sum(float(each) for each in re.findall(r"^exaone_running\{.*\} (\S+)$", page, re.MULTILINE)):
            return time.monotonic() - begun
        assert time.monotonic() - begun < 60, "nobody waits, and slots are in use"


def replicas_below(process: int, title: str) -> list[int]:
    """Processes of that title among the descendants of one."""
    parents, titles = dict[int, int](), dict[int, str]()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(folder.name)] = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue

    def below(each: int) -> bool:
        while each > 1:
            if each == process:
                return True
            each = parents.get(each, 0)
        return False

    return sorted(each for each, text in titles.items() if title in text and below(each))


def check_serving(artifact: Path, count: int, clients: int, stop: int) -> dict[str, Any]:
    """Two replicas, of which one is killed."""
    asked = [{"model": "tiny", **body} for body in bodies(count, stop)]
    options = ("--ray", "--replicas", "2", "--threads", "1", "--model-name", "tiny", "--queue", str(count))
    begun = time.monotonic()
    with started(str(artifact), *options) as (process, server):
        loaded = time.monotonic() - begun
        expected, _ = asyncio.run(ask_all(server, asked, clients))
        killed = list[int]()

        def kill(done: int) -> None:
            if done >= KILL_AFTER * count and not killed:
                killed.append(replicas_below(process.pid, "ServeReplica:exaone-export:replica")[0])
                os.kill(killed[0], signal.SIGKILL)

        begun = time.monotonic()
        found, again = asyncio.run(ask_all(server, asked, clients, kill))
        seconds = time.monotonic() - begun
        while len(replicas_below(process.pid, "ServeReplica:exaone-export:replica")) < 2:
            time.sleep(0.1)
            assert time.monotonic() - begun < 120, "the replica was not replaced"
        replaced = time.monotonic() - begun
        assert killed, "no replica was killed"
        freed = asyncio.run(leave(server, stop))
    return {
        "requests": count,
        "answers": sum(bool(text) for text in found),
        "equal to those before": sum(before == after for before, after in zip(expected, found, strict=True)),
        "streams that ended with an error event": sum(each.startswith("stream") for each in again),
        "whole answers that failed": [each for each in again if each.startswith("whole")],
        "seconds to start": round(loaded, 1),
        "seconds": round(seconds, 1),
        "seconds until there were two again": round(replaced, 1),
        "seconds until streams whose clients went had no slot": round(freed, 2),
    }


def check_batch(artifact: Path, count: int, stop: int) -> dict[str, Any]:
    """A batch of which first a process is killed, then the command."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        with given.open("w") as file:
            for number, body in enumerate(bodies(count, stop)):
                line = {
                    "custom_id": str(number),
                    "method": "POST",
                    "url": path_of(body),
                    "body": {"model": "tiny", **body},
                }
                file.write(json.dumps(line) + "\n")
        command = [sys.executable, "-m", "exaone_export", "batch", str(artifact), str(given), str(out)]
        command += ["--ray", "--replicas", "2", "--threads", "1", "--model-name", "tiny"]

        def lines() -> int:
            return out.read_bytes().count(b"\n") if out.exists() else 0

        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until(lambda: lines() > count // 10, process)
        os.kill(replicas_below(process.pid, "MapWorker")[0], signal.SIGKILL)
        reached = lines()
        until(lambda: lines() > reached + count // 5, process)
        process.kill()
        process.wait()
        stood = lines()
        assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
        names = [json.loads(line)["custom_id"] for line in out.read_text().splitlines()]
    return {
        "requests": count,
        "stood when the command was killed": stood,
        "answers": len(names),
        "twice": len(names) - len(set(names)),
        "lost": count - len(set(names)),
    }


def until(holds: Any, process: subprocess.Popen[bytes]) -> None:
    """Wait while the process runs."""
    while not holds() and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it was killed"


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", nargs="?", type=Path, default=ROOT / "build" / "ray-tiny")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--only", choices=("serve", "batch"))
    options = parser.parse_args()
    stop = ensure_exported(options.artifact)
    found: dict[str, Any] = {}
    if options.only != "batch":
        found["serve --ray"] = check_serving(options.artifact, options.requests, options.clients, stop)
        print(json.dumps(found, indent=2), flush=True)
    if options.only != "serve":
        found["batch --ray"] = check_batch(options.artifact, options.requests, stop)
        print(json.dumps({"batch --ray": found["batch --ray"]}, indent=2))
    served, batch = found.get("serve --ray"), found.get("batch --ray")
    lost = served is not None and served["equal to those before"] < served["requests"]
    lost = lost or (batch is not None and (batch["lost"] or batch["twice"]))
    sys.exit("an answer was lost" if lost else 0)


if __name__ == "__main__":
    main()
