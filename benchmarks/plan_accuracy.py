"""How near a plan comes to what processes take: peak resident memory of exports, builds and answers, measured.

Random checkpoints in the sizes of the published models, some with fewer layers or a smaller vocabulary, are exported,
built and run in child processes; the system counts the most memory that each held. From the repository's root:

    python benchmarks/plan_accuracy.py build/plan --json build/plan/accuracy.json

``--only NAME`` chooses configurations. Folders that are there already are used again, and ``--keep`` leaves them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SMALL_VOCABULARY = 1024
NEW_TOKENS = 4
TOLERANCE = 0.1

# Imports stay inside the children: the system counts what a parent holds into its child's peak.
CHECKPOINT = """
import dataclasses, sys
from exaone_export.exporter.checkpoint.random_checkpoint import write_random_checkpoint
from exaone_export.model.published import PUBLISHED
out, shape, layers, vocab_size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
spec = PUBLISHED[shape]
types = spec.layer_types[: layers or None]
spec = dataclasses.replace(
    spec, num_hidden_layers=len(types), layer_types=types, vocab_size=vocab_size or spec.vocab_size
)
write_random_checkpoint(out, spec)
"""
ANSWER = """
import sys, torch
from exaone_export import ExaoneForCausalLM
folder, rows, tokens, new = sys.argv[1], *map(int, sys.argv[2:])
with ExaoneForCausalLM.from_pretrained(folder) as model:
    prompt = torch.randint(3, 1000, (rows, tokens), generator=torch.Generator().manual_seed(0))
    model.generate(input_ids=prompt, max_new_tokens=new, min_new_tokens=new, do_sample=False)
"""
PLAN = """
import json, sys
from exaone_export.exporter.plan.deployment import read_deployment
from exaone_export.planning.memory_plan import MemoryPlan
options = json.loads(sys.argv[2])
print(json.dumps(MemoryPlan.of(read_deployment(sys.argv[1], **options)).to_dict()))
"""


@dataclass(frozen=True)
class Configuration:
    """What is exported and run.

    Attributes:
        name: In the table, and of the folders.
        shape: A published size.
        target: Where it runs.
        precision: Of the weights.
        max_length: Tokens of a row; an answer fills them.
        layers: How many are kept; 0 for all.
        vocab_size: 0 for the published one.
        batch: Rows of an answer.
    """

    name: str
    shape: str
    target: str
    precision: str
    max_length: int
    layers: int = 0
    vocab_size: int = 0
    batch: int = 1

    @property
    def checkpoint(self) -> str:
        """Folder of the random weights; configurations of the same sizes share it."""
        return f"{self.shape}-{self.layers}-{self.vocab_size}"


CONFIGURATIONS = (
    Configuration("1.2b-int4", "1.2b", "ort-cpu", "int4", 1024),
    Configuration("1.2b-int8", "1.2b", "ort-cpu", "int8", 1024),
    Configuration("1.2b-float32", "1.2b", "ort-cpu", "float32", 1024),
    Configuration("1.2b-rtx", "1.2b", "tensorrt-rtx", "bfloat16", 8192),
    Configuration("32b-int4", "32b", "ort-cpu", "int4", 512, layers=4),
    Configuration("32b-rtx", "32b", "tensorrt-rtx", "bfloat16", 8192, layers=4, vocab_size=SMALL_VOCABULARY),
)
SMALLER = (
    Configuration("small-int4", "1.2b", "ort-cpu", "int4", 1024, layers=4),
    Configuration("small-int8", "1.2b", "ort-cpu", "int8", 1024, layers=4),
    Configuration("small-float32", "1.2b", "ort-cpu", "float32", 1024, layers=4),
    Configuration("small-rows", "1.2b", "ort-cpu", "int4", 1024, layers=8, vocab_size=SMALL_VOCABULARY, batch=4),
    Configuration("small-rtx", "1.2b", "tensorrt-rtx", "bfloat16", 8192, layers=8, vocab_size=SMALL_VOCABULARY),
    Configuration("small-rtx-int4", "1.2b", "tensorrt-rtx", "int4", 1024, layers=8, vocab_size=SMALL_VOCABULARY),
    Configuration("wide-int4", "32b", "ort-cpu", "int4", 512, layers=1, vocab_size=SMALL_VOCABULARY),
)
"""Minutes in place of an hour, for when a constant is changed."""

ON_H100 = (
    (Configuration("1.2b-cuda-float16", "1.2b", "ort-cuda", "float16", 2048), 3.88),
    (Configuration("1.2b-cuda-int4", "1.2b", "ort-cuda", "int4", 2048), 1.88),
)
"""GiB in use on an H100 80GB HBM3 as its driver counts them, which need a GPU to be measured: `benchmarks/gpu.py`."""


@dataclass(frozen=True)
class Row:
    """One comparison, in bytes."""

    configuration: str
    process: str
    planned: int
    measured: int

    @property
    def error(self) -> float:
        """Of the plan, relative to what was measured."""
        return self.planned / self.measured - 1


def peak(*arguments: str | Path) -> int:
    """Run Python with these arguments; the most bytes that it held in memory, pages of mapped files included.

    Raises:
        RuntimeError: It failed.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{' '.join(map(str, arguments))[-200:]}: {log.read()[-2000:].decode(errors='replace')}")
    return usage.ru_maxrss * 1024


def measure(configuration: Configuration, folder: Path) -> list[Row]:
    """Export, then build or answer, each in a process of its own."""
    checkpoint, out = folder / configuration.checkpoint, folder / configuration.name
    if not checkpoint.exists():
        sizes = (str(configuration.layers), str(configuration.vocab_size))
        peak("-c", CHECKPOINT, checkpoint, configuration.shape, *sizes)
    planned = plan(configuration, checkpoint)["peak"]
    options = ("--target", configuration.target, "--precision", configuration.precision)
    length = ("--max-length", str(configuration.max_length))
    export = peak("-m", "exaone_export", "export", checkpoint, out, *options, *length, "--overwrite", "--no-plan-check")
    rows = [Row(configuration.name, "export", planned["export"], export)]
    if planned["build"] is not None:
        engine = folder / f"{configuration.name}-engine"
        built = peak("-m", "exaone_export", "build", out, engine, "--overwrite", "--no-plan-check")
        rows.append(Row(configuration.name, "build", planned["build"], built))
        shutil.rmtree(engine)
    else:
        sizes = (configuration.batch, configuration.max_length - NEW_TOKENS, NEW_TOKENS)
        answered = peak("-c", ANSWER, out, *map(str, sizes))
        rows.append(Row(configuration.name, "run", planned["run"], answered))
    return rows


def plan(configuration: Configuration, checkpoint: Path) -> Any:
    """The plan from ``config.json`` alone."""
    names = ("target", "precision", "max_length", "batch")
    options = json.dumps({name: getattr(configuration, name) for name in names})
    command = [sys.executable, "-c", PLAN, str(checkpoint), options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def recorded() -> list[Row]:
    """Comparisons with what was measured on a GPU once."""
    return [
        Row(known.name, "run on an H100", plan(known, Path(known.shape))["peak"]["run"], int(measured * 2**30))
        for known, measured in ON_H100
    ]


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = ["| configuration | process | planned GiB | measured GiB | error |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row.configuration} | {row.process} | {row.planned / 2**30:.2f} | {row.measured / 2**30:.2f} | "
        f"{row.error:+.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and say by the exit status whether every plan was near enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for checkpoints and artifacts; 30 GB for all")
    parser.add_argument("--small", action="store_true", help="a few layers of each")
    parser.add_argument("--only", action="append", help="the name of a configuration; may be given again")
    parser.add_argument("--json", type=Path, dest="json_file", help="write the comparisons there")
    parser.add_argument("--keep", action="store_true", help="leave the artifacts")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for configuration in SMALLER if arguments.small else CONFIGURATIONS:
        if arguments.only and configuration.name not in arguments.only:
            continue
        rows += measure(configuration, arguments.folder)
        print(table(rows[-2:]), flush=True)
        if not arguments.keep:
            shutil.rmtree(arguments.folder / configuration.name)
    rows += recorded()
    print(f"\n{table(rows)}")
    if arguments.json_file is not None:
        content = [{**asdict(row), "error": row.error} for row in rows]
        arguments.json_file.write_text(json.dumps(content, indent=2) + "\n")
    return 0 if all(abs(row.error) <= TOLERANCE for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
