"""Steps of an artifact's two graphs, in turn in one process: from how many tokens on the one for prompts is faster.

    python benchmarks/steps/graph_steps.py ARTIFACT [--rounds 9] [--context 256] [--out FILE.json]

The artifact is one of ``export --prefill-precision``. The figures say where ``--prefill-threshold`` belongs on a
machine, and whether ``serve --batch-graph`` pays there. Both sessions stop their threads behind a step, so that neither
takes from the other's time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.core.buffers import CacheBuffers
from exaone_export.runtime.core.steps import Step
from exaone_export.runtime.sessions.onnxruntime import OnnxRuntimeSession

SHAPES = ((1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (1, 8), (1, 16), (1, 32), (1, 128))
"""Rows and tokens of each."""


def main() -> None:
    """Measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--context", type=int, default=256, help="Tokens of a row before the step.")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="Where the JSON is written too.")
    options = parser.parse_args()
    answers = Artifact.open(options.artifact)
    prompts = answers.of_prompts
    if prompts is None:
        parser.error("the artifact has one graph; export it with --prefill-precision int8")
    sessions = {
        name: OnnxRuntimeSession(artifact, threads=options.threads, takes_turns=True)
        for name, artifact in (("answers", answers), ("prompts", prompts))
    }
    buffers = CacheBuffers(sessions["answers"].geometry, max(rows for rows, _ in SHAPES))
    for tensor in buffers.tensors:
        tensor[:, :, : options.context] = 0
    generator, results = np.random.default_rng(0), []
    for rows, width in SHAPES:
        tokens = generator.integers(3, sessions["answers"].vocab_size, (rows, width))
        step = Step(tokens, [options.context] * rows, [width] * rows)
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for number in range(options.rounds + 1):
            for name, session in sessions.items():
                began = time.perf_counter()
                session.step(step, buffers.part(0, rows))
                if number:  # the first one warms up
                    times[name].append(1e3 * (time.perf_counter() - began))
        found = {
            name: {"median ms": statistics.median(each), "min ms": min(each), "max ms": max(each)}
            for name, each in times.items()
        }
        results.append({"rows": rows, "tokens": width, **found})
    text = json.dumps({"artifact": options.artifact.name, "context": options.context, "steps": results}, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
