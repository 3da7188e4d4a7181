"""One step of an artifact's graph on the CPU under ONNX Runtime's profiler: where its time goes, by operator.

Run `python benchmarks/steps/profile_step.py ARTIFACT --tokens 1 --context 512`. The fastest of the steps is shown;
profiling itself adds a few microseconds to every operator. Tokens and the content of the cache are random, of a size
that keys and values have: larger ones would give probabilities that are denormal numbers, which Intel computes slowly.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from exaone_export.artifact.reader import Artifact

_TYPES = {"tensor(float)": np.float32, "tensor(int8)": np.int8}
_INT8_STEPS = 32  # in one standard deviation


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--tokens", type=int, default=1, help="of the step")
    parser.add_argument("--context", type=int, default=512, help="tokens that the cache holds before it")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    artifact = Artifact.open(options.artifact)
    with tempfile.TemporaryDirectory() as folder:
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = options.threads
        session_options.enable_mem_pattern = False
        session_options.enable_profiling = True
        session_options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(artifact.model_path, session_options)
        binding = bind(session, artifact.spec.vocab_size, options.tokens, options.context)
        for _ in range(options.steps):
            session.run_with_iobinding(binding)
        events = json.loads(Path(session.end_profiling()).read_text())
    show(fastest(events))


def bind(session: Any, vocab_size: int, tokens: int, context: int) -> Any:
    """A step's inputs, and caches that are updated in place."""
    generator, total = np.random.default_rng(0), context + tokens
    step = {
        "input_ids": generator.integers(0, vocab_size, (1, tokens)),
        "attention_mask": np.array([[total]]),  # such a graph only sums it
        "position_ids": np.arange(context, total)[None],
        "logits_to_keep": np.array([0]),
    }
    binding = session.io_binding()
    for name, array in step.items():
        binding.bind_cpu_input(name, array.astype(np.int64))
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            rows = generator.standard_normal((1, *value.shape[1:]), np.float32)
            if value.type == "tensor(int8)":
                rows = np.rint(rows * _INT8_STEPS)
            rows = rows.astype(_TYPES[value.type])
            cache = onnxruntime.OrtValue.ortvalue_from_numpy(rows)
            binding.bind_ortvalue_input(value.name, cache)
            binding.bind_ortvalue_output(value.name.replace("past_key_values", "present"), cache)
    binding.bind_output("logits")
    return binding


def fastest(events: list[dict[str, Any]]) -> list[tuple[str, float, int]]:
    """Operator, milliseconds and calls of the fastest step, the slowest operator first."""
    steps = [event for event in events if event["name"] == "model_run"]
    best = min(steps, key=lambda event: event["dur"])
    times, calls = Counter[str](), Counter[str]()
    for event in events:
        inside = best["ts"] <= event["ts"] < best["ts"] + best["dur"]
        if inside and event["cat"] == "Node" and event["name"].endswith("kernel_time"):
            times[event["args"]["op_name"]] += event["dur"]
            calls[event["args"]["op_name"]] += 1
    return [(name, microseconds / 1e3, calls[name]) for name, microseconds in times.most_common()]


def show(rows: list[tuple[str, float, int]]) -> None:
    """As a Markdown table; what takes less than a hundredth is summed up."""
    total = sum(time for _, time, _ in rows)
    shown = [row for row in rows if row[1] >= total / 100]
    rest = [row for row in rows if row[1] < total / 100]
    print("| operator | ms | share | calls |\n| --- | --- | --- | --- |")
    for name, time, calls in [*shown, ("all others", sum(row[1] for row in rest), sum(row[2] for row in rest))]:
        print(f"| {name} | {time:.1f} | {time / total:.0%} | {calls} |")
    print(f"| all | {total:.1f} | 100% | {sum(row[2] for row in rows)} |")


if __name__ == "__main__":
    main()
