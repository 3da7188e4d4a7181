"""``exaone-export serve`` beside llama.cpp's server, on the 1.2B shape with random weights, asked the same over HTTP.

    python benchmarks/compare_servers.py [--concurrency 1 4 8] [--plot servers.png] [--json FILE]

What both run is made by ``make bench`` under --work, or named with --artifact and --gguf. llama.cpp's server is the
native one that --llama-server names, with as many slots as the most clients, else that of ``llama-cpp-python[server]``,
which answers one request at a time. The servers take turns at every number of clients, so that a slow spell of the
machine falls on both; the order turns with the rounds. ONNX Runtime GenAI has no server that pip installs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peers.environments import prepare

from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.bench.memory import peak_memory
from exaone_export.runtime.bench.serving.client import Server, ServerError
from exaone_export.runtime.bench.serving.measure import measure_levels
from exaone_export.runtime.bench.serving.plot import plot_serving
from exaone_export.runtime.bench.serving.report import Level, ServingReport
from exaone_export.runtime.bench.serving.run import started
from exaone_export.runtime.bench.serving.trace import make_trace
from exaone_export.runtime.runner.defaults import read_defaults
from exaone_export.runtime.runner.runner import open_tokenizer

ROOT = Path(__file__).parents[1]
OURS, THEIRS = "exaone-export serve", "llama.cpp's server"
START_SECONDS = 300


def llama_python(options: argparse.Namespace) -> Path:
    """The Python that has llama-cpp-python's server."""
    if options.llama_python is not None:
        return options.llama_python
    python = prepare("llama-cpp", ROOT / "build" / "peers")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "llama-cpp-python[server]==0.3.36"], check=True)
    return python


def gguf_with_vocabulary(options: argparse.Namespace) -> Path:
    """What ``make bench`` has made for llama.cpp has no vocabulary, and a server is asked texts."""
    source = options.work / "peers" / "llamacpp-q4_0" / "model.gguf"
    out = source.with_name("text.gguf")
    if source.exists() and not out.exists():
        script = Path(__file__).with_name("peers") / "gguf_files.py"
        command = [llama_python(options), script, source, options.artifact / "tokenizer.json", out]
        subprocess.run([str(word) for word in command], check=True)
    return out


def llama_command(options: argparse.Namespace, port: int, slots: int, room: int) -> list[str]:
    """What starts llama.cpp's server; every slot has room for a prompt and its answer."""
    if options.llama_server is not None:
        numbers = {"--ctx-size": slots * room, "--parallel": slots, "--threads": options.threads, "--port": port}
        words = [options.llama_server, "--model", options.gguf]
    else:
        numbers = {
            "--n_ctx": room,
            "--n_threads": options.threads,
            "--n_threads_batch": options.threads,
            "--port": port,
        }
        # Otherwise a request ends the one before it.
        words = [llama_python(options), "-m", "llama_cpp.server", "--interrupt_requests", "False"]
        words += ["--model", options.gguf]
    return [str(word) for word in (*words, *(each for pair in numbers.items() for each in pair))]


@contextlib.contextmanager
def llama_started(command: Sequence[str], port: int) -> Iterator[tuple[subprocess.Popen[bytes], Server]]:
    """Its process, once it answers."""
    server, begun = Server(f"http://127.0.0.1:{port}"), time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while True:
            with contextlib.suppress(ServerError):
                asyncio.run(server.read("/v1/models"))
                break
            if process.poll() is not None or time.monotonic() - begun > START_SECONDS:
                sys.exit(f"llama.cpp's server did not start: {' '.join(command)}")
            time.sleep(0.2)
        yield process, server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def joined(found: Sequence[Level]) -> Level:
    """The rounds of one level as one."""
    whole = Level(found[0].concurrency)
    for each in found:
        for name in ("seconds", "prompt_tokens", "answer_tokens", "first_tokens", "gaps", "answers", "failures"):
            setattr(whole, name, getattr(whole, name) + getattr(each, name))
    return whole


def table(reports: Sequence[ServingReport]) -> str:
    """In Markdown."""
    lines = [
        "| server | clients | t/s | TTFT ms p50 / p95 | TPOT ms p50 / p95 | failed |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for report in reports:
        for level in report.to_dict()["levels"]:
            times = [level["time_to_first_token"], level["time_per_output_token"]]
            shown = ["-" if each is None else f"{1e3 * each['p50']:.0f} / {1e3 * each['p95']:.0f}" for each in times]
            rate = f"{level['answer_tokens_per_second']:.1f}"
            cells = [report.server, str(level["concurrency"]), rate, *shown, str(level["failed"])]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--llama-server", type=Path)
    parser.add_argument("--llama-python", type=Path)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    options.artifact = options.artifact or options.work / "1.2b-int4"
    options.gguf = options.gguf or gguf_with_vocabulary(options)
    for path in (options.artifact, options.gguf):
        if not path.exists():
            sys.exit(f"{path} does not exist; run: make bench")
    opened = Artifact.open(options.artifact, weights_later=True)
    tokenizer, stop_ids = open_tokenizer(opened), read_defaults(opened).stop_ids
    shape: dict[str, Any] = {"prompt": options.prompt, "new": options.new, "pause": 0.0, "seed": 0}
    make = functools.partial(make_trace, **shape, length=lambda text: len(tokenizer.encode(text)))
    body = {"model": "model", "logit_bias": {str(token): -100 for token in stop_ids}}
    slots, port, room = max(options.concurrency), free_port(), options.prompt + options.new + 8
    ours = ("--model-name", "model", "--slots", str(slots), "--threads", str(options.threads), "--queue", "1000")
    with (
        started(str(options.artifact), *ours) as (our_process, our_server),
        llama_started(llama_command(options, port, slots, room), port) as (their_process, their_server),
    ):
        servers = {OURS: our_server, THEIRS: their_server}
        rounds: dict[tuple[str, int], list[Level]] = {}
        for number in range(options.rounds):
            for position, concurrency in enumerate(options.concurrency, 1):
                first = (number * len(options.concurrency) + position) * options.requests
                trace = make(options.requests, first=first)
                for name in sorted(servers, reverse=bool((number + concurrency) % 2)):
                    [level] = asyncio.run(measure_levels(servers[name], make(1), [(concurrency, trace)], body))
                    rounds.setdefault((name, concurrency), []).append(level)
                    print(f"{name}, {concurrency} at once: {level.rate:.1f} tokens/s", file=sys.stderr, flush=True)
        peaks = {OURS: peak_memory(our_process.pid), THEIRS: peak_memory(their_process.pid)}
    runs = {OURS: str(options.artifact.name), THEIRS: options.gguf.parent.name}
    reports = [
        ServingReport(
            name,
            [joined(rounds[name, concurrency]) for concurrency in options.concurrency],
            {"requests": options.requests, "rounds": options.rounds, **shape},
            {"model": runs[name], "threads": options.threads, "native": options.llama_server is not None},
            peaks[name],
        )
        for name in servers
    ]
    print(table(reports))
    if options.json is not None:
        options.json.write_text(json.dumps([report.to_dict() for report in reports], indent=2) + "\n")
    if options.plot is not None:
        plot_serving(reports, options.plot)


if __name__ == "__main__":
    main()
