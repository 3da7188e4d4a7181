"""The README's table: export the 1.2B shape, then prefill and decode beside transformers, in turn, in one run.

    make bench

Every figure of speed comes from a process of its own; the systems take turns, so that a slow spell of the machine
falls on all of them. Written to benchmarks/results/, and into the README between its markers.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "bench"
CHECKPOINT, ARTIFACT = WORK / "1.2b", WORK / "1.2b-ort-cpu"
RESULTS = ROOT / "benchmarks" / "results"
PROMPT, NEW, MAX_LENGTH = 512, 64, 4096
SYSTEMS = {
    "exaone-export ort-cpu, float32": ("artifact", "float32"),
    "transformers, float32": ("transformers", "float32"),
    "transformers, bfloat16": ("transformers", "bfloat16"),
}
BEGIN, END = "<!-- begin: make bench -->", "<!-- end: make bench -->"


def measure(kind: str, dtype: str) -> dict[str, float]:
    """Load one system in this process; prefill `PROMPT` tokens, then decode `NEW`."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    start = time.perf_counter()
    if kind == "artifact":
        from exaone_export.runtime.generation import ExaoneForCausalLM

        model: Any = ExaoneForCausalLM.from_pretrained(ARTIFACT, verify=False)
    else:
        from transformers import Exaone4ForCausalLM

        model = Exaone4ForCausalLM.from_pretrained(CHECKPOINT, dtype=getattr(torch, dtype))
    load = time.perf_counter() - start
    tokens = torch.randint(3, 102_400, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model(tokens[:, :16], logits_to_keep=1)  # both pay for first touches here
        start = time.perf_counter()
        step = model(tokens, logits_to_keep=1, use_cache=True)
        prefill = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(NEW):
            token = step.logits[:, -1].argmax(-1, keepdim=True)
            step = model(token, past_key_values=step.past_key_values, use_cache=True)
        decode = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"load s": load, "prefill tok/s": PROMPT / prefill, "decode tok/s": NEW / decode, "peak GB": peak / 1e9}


def export() -> dict[str, float]:
    """Run the export as a user does, as a process of its own."""
    command = [Path(sys.executable).with_name("exaone-export"), "export", CHECKPOINT, ARTIFACT]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--max-length", str(MAX_LENGTH), "--overwrite"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("the export failed")
    return {"s": time.perf_counter() - start, "peak GB": usage.ru_maxrss * 1024 / 1e9}


def one_process(system: str) -> dict[str, float]:
    """Measure one system in a process of its own."""
    result = subprocess.run(
        [sys.executable, __file__, "--measure", system], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return json.loads(result.stdout)


def machine() -> str:
    """The processor, as far as it decides the speed."""
    flags = Path("/proc/cpuinfo").read_text().split() if sys.platform == "linux" else []
    features = [name for name in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if name in flags]
    return f"{platform.machine()} ({', '.join(features)}), {len(os.sched_getaffinity(0))} cores"


def spread(values: list[float]) -> str:
    """Median (lowest to highest)."""
    digits = 1 if max(values) < 100 else 0
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def table(result: dict[str, Any]) -> str:
    """The README's tables."""
    first = next(iter(result["systems"].values()))
    rows = [f"| {' | '.join(['system', *first])} |", "|" + " --- |" * (len(first) + 1)]
    rows += [
        f"| {' | '.join([name, *(spread(values) for values in figures.values())])} |"
        for name, figures in result["systems"].items()
    ]
    exported = (
        f"Export to `ort-cpu`: {spread(result['export']['s'])} s, {spread(result['export']['peak GB'])} GB of memory."
    )
    note = (
        f"1.2B shape, random weights, prompt {PROMPT}, {NEW} new tokens, batch 1; median (lowest to highest) of "
        f"{result['rounds']} processes in turn. {result['machine']}."
    )
    return "\n".join([note, "", *rows, "", exported])


def show(result: dict[str, Any]) -> None:
    """Print the tables, and put them into the README."""
    text = table(result)
    print(text)
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    """Measure, print the table, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--show", type=Path, help="Only put an earlier result into the README.")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.show:
        show(json.loads(options.show.read_text()))
        return
    if options.measure:
        print(json.dumps(measure(*SYSTEMS[options.measure])))
        return
    if not CHECKPOINT.exists():
        program = Path(sys.executable).with_name("exaone-export")
        subprocess.run([program, "random-checkpoint", CHECKPOINT, "--shape", "1.2b"], check=True)
    exports, runs = [], {name: [] for name in SYSTEMS}
    for number in range(options.rounds):
        exports.append(export())
        for name in SYSTEMS:
            runs[name].append(one_process(name))
            print(f"round {number + 1}: {name}: {runs[name][-1]}", file=sys.stderr, flush=True)
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "onnxruntime")},
        "rounds": options.rounds,
        "export": {key: [run[key] for run in exports] for key in exports[0]},
        "systems": {name: {key: [run[key] for run in found] for key in found[0]} for name, found in runs.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{result['date']}-1.2b-cpu.json").write_text(json.dumps(result, indent=2) + "\n")
    show(result)


if __name__ == "__main__":
    main()
