"""What is measured of every system, and how: the one definition that all peers are held to.

A peer is a file beside this one that knows how to make its model of a checkpoint and how to answer with it. It runs in
an environment of its own, so that this file takes nothing but the standard library.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

VOCABULARY = 102_400
PROMPT, NEW, WARM_UP = 512, 64, 16
CONTEXT = 1024
"""Tokens that a peer is told to hold, where it allocates its cache for so many."""


class System(Protocol):
    """A model that is loaded."""

    def answer(self, tokens: list[int], new: int) -> tuple[float, float]:
        """Answer a prompt, starting from an empty cache.

        Returns:
            Seconds from the call to the logits behind the prompt, and seconds of the next ``new`` steps, each of which
            runs the model on one token and picks the likeliest.
        """


def threads() -> int:
    """Cores that this process may use; every peer is given so many threads."""
    return len(os.sched_getaffinity(0))


def prompt(seed: int, length: int) -> list[int]:
    """Random words; no two seeds share a prefix that a cache of prompts could find."""
    return random.Random(seed).choices(range(400, VOCABULARY), k=length)


def peak_memory() -> int:
    """Bytes that this process has held at most, pages of mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def measure(load: Callable[[Path], System], folder: Path, seed: int) -> dict[str, float]:
    """Load a system in this process, warm it up, and time one prompt and its answer."""
    start = time.perf_counter()
    system = load(folder)
    loaded = time.perf_counter() - start
    system.answer(prompt(-seed - 1, WARM_UP), 2)  # first touches of memory, in every system alike
    prefill, decode = system.answer(prompt(seed, PROMPT), NEW)
    return {
        "prefill tok/s": PROMPT / prefill,
        "decode tok/s": NEW / decode,
        "peak bytes": peak_memory(),
        "load s": loaded,
    }


def main(
    load: Callable[[Path], System],
    weights: Callable[[Path], int],
    build: Callable[[str, Path, Path], None],
    packages: Iterable[str],
) -> None:
    """The command line of a peer: ``build VARIANT CHECKPOINT OUT``, ``weights FOLDER``, ``measure FOLDER SEED``.

    The last two print one line of JSON.
    """
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("build", "weights", "measure"):
        command = commands.add_parser(name)
        if name == "build":
            command.add_argument("variant")
            command.add_argument("checkpoint", type=Path)
        command.add_argument("folder", type=Path)
        if name == "measure":
            command.add_argument("seed", type=int)
    options = parser.parse_args()
    if options.command == "build":
        build(options.variant, options.checkpoint, options.folder)
        return
    if options.command == "weights":
        versions = {name: importlib.metadata.version(name) for name in packages}
        print(json.dumps({"weight bytes": weights(options.folder), "versions": versions}))
        return
    print(json.dumps(measure(load, options.folder, options.seed)), flush=True)
    os._exit(0)  # what a runtime takes to fall apart is not measured
