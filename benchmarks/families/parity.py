"""Random models of a family on every target that runs here, against the model as transformers itself loads it.

    python benchmarks/families/parity.py FAMILY … [--seeds 10] [--quantized 3] [--engines 1] [--json FILE]

Families are exaone, exaone4_5 and exaone_moe.

Each seed is another irregular shape (`models.shape`). float32 is compared on `onnx`, `ort-cpu` and TensorRT's
graph: logits within 1e-4 of their standard deviation at 100 positions, and 256 greedy tokens. Quantized forms are
judged by their Kullback-Leibler divergence, engines are built by TensorRT-RTX's builder, which needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from models import VOCABULARY, save

from exaone_export.exporter.build.engine import build_engine
from exaone_export.exporter.export import export
from exaone_export.runtime.parity.compare import LIMITS, Side, compare, random_prompts
from exaone_export.runtime.parity.sides import TorchSide, artifact_side

TARGETS = ("onnx", "ort-cpu", "tensorrt-rtx")
QUANTIZED = (("ort-cpu", "int8"), ("ort-cpu", "int4"), ("ort-cpu", "int8-weights"), ("tensorrt-rtx", "int4"))
ENGINES = ("bfloat16", "int4")
# To int4, random weights of these sizes lose half a nat by rounding alone, in PyTorch as in a graph.
ALLOWED = {**LIMITS, "int4": replace(LIMITS["int4"], kl=1.0)}
SPARSE = "exaone_moe"
"""Quantized, a random router chooses other experts where two score alike, so that its divergence says little."""


@contextmanager
def theirs(folder: Path) -> Iterator[Side]:
    """The model as transformers loads the folder, without any of this project's reading."""
    nested = json.loads((folder / "config.json").read_bytes())["model_type"] == "exaone4_5"
    kind = getattr(transformers, "Exaone4_5_ForConditionalGeneration" if nested else "AutoModelForCausalLM")
    model = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    body = model.model.language_model if hasattr(model.model, "language_model") else model.model
    for name in ("vocab_size", "sliding_window"):  # which are asked of the whole model's config
        setattr(model.config, name, getattr(body.config, name, None))
    yield TorchSide(model, body.layers)


def compared(model: Path, work: Path, forms: list[tuple[str, str]], new_tokens: int) -> list[dict[str, Any]]:
    """One row for every target and precision."""
    sides: dict[str, Any] = {"transformers": (lambda: theirs(model), LIMITS["float32"])}
    for target, precision in forms:
        chunk = {} if target in ("onnx", "ort-cpu") else {"prefill_chunk": 16}
        out = work / f"{target}-{precision}"
        export(model, out, target=target, precision=precision, max_length=400, plan_check=False, **chunk)
        sides[f"{target} {precision}"] = (lambda out=out: artifact_side(out), ALLOWED[precision])
    report = compare(sides, random_prompts(VOCABULARY, [100], seed=2), new_tokens=new_tokens)
    return [asdict(row) for row in report.rows]


def rows_of(family: str, seed: int, work: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every comparison of one model."""
    model = save(family, work / "model", seed)
    yield from compared(model, work, [(target, "float32") for target in TARGETS], 256)
    if seed < options.quantized and family != SPARSE:
        yield from compared(model, work, list(QUANTIZED), 0)
    precisions = ENGINES[:1] if family == SPARSE else ENGINES
    for precision in precisions if seed < options.engines else ():
        artifact = work / f"graph-{precision}"
        export(model, artifact, target="tensorrt-rtx", precision=precision, max_length=400, prefill_chunk=16)
        build_engine(artifact, work / f"engine-{precision}")
        yield {"side": f"tensorrt-rtx {precision} engine", "passed": True}


def main() -> None:
    """Run, print a line for every comparison, and exit with 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="+", choices=("exaone", "exaone4_5", SPARSE))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--quantized", type=int, default=3, help="seeds that are quantized too")
    parser.add_argument("--engines", type=int, default=1, help="seeds of which engines are built too")
    parser.add_argument("--json", type=Path, help="write every row here")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows: list[dict[str, Any]] = []
    for family in options.families:
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as name:
                for row in rows_of(family, seed, Path(name), options):
                    row |= {"family": family, "seed": seed}
                    shown = " ".join(f"{key}={row[key]:.2g}" for key in ("logits", "kl") if row.get(key) is not None)
                    tokens = f"{row['new_tokens']} tokens" if row.get("new_tokens") else ""
                    verdict = "passed" if row["passed"] else "FAILED"
                    print(f"{family:9} {seed:2} {row['side']:26} {verdict} {shown} {tokens}", flush=True)
                    rows.append(row)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{sum(row['passed'] for row in rows)} of {len(rows)} passed")
    sys.exit(not all(row["passed"] for row in rows))


if __name__ == "__main__":
    main()
