"""Models of a family on every target that runs here, against the model as transformers itself loads it.

    python benchmarks/families/parity.py FAMILY … [--seeds 10] [--quantized 3] [--engines 1] [--json FILE]

Families are exaone, exaone4_5 and exaone_moe. Each seed is another irregular shape (`models.shape`).

- float32, on `onnx`, `ort-cpu` and TensorRT's graph: logits within 1e-4 of their standard deviation at 100 positions,
  and 256 greedy tokens.
- Quantized, is the graph right: the weights are drawn so that the precision holds them exactly (`models.hold`), and
  PyTorch computes with the same numbers; where the graph rounds the inputs of a product to int8, so does PyTorch
  (`rounding_inputs`). What is left is float32's rounding, and that an input near the middle of two codes becomes the
  one or the other. Random weights would not do: rounded to int4 they lose half a nat in PyTorch as in the graph, and
  a random router chooses other experts for up to a quarter of the tokens, which costs as much again.
- Quantized, what does it cost: a model that was trained for a minute (`models.train`), on what it was trained for,
  within the limits of `exaone-export parity`.
- Engines are built by TensorRT-RTX's builder, which needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from models import VOCABULARY, group_size, save, sequences, train

from exaone_export.exporter.build.engine import build_engine
from exaone_export.exporter.export import export
from exaone_export.runtime.parity.compare import LIMITS, Limits, Side, compare, random_prompts
from exaone_export.runtime.parity.sides import TorchSide, artifact_side

TARGETS = ("onnx", "ort-cpu", "tensorrt-rtx")
QUANTIZED = (("ort-cpu", "int8"), ("ort-cpu", "int4"), ("ort-cpu", "int8-weights"), ("tensorrt-rtx", "int4"))
ENGINES = ("bfloat16", "int4")
SPARSE = "exaone_moe"
HELD = {"ort-cpu": Limits(logits=1.0, kl=1e-2, tokens=False), "tensorrt-rtx": LIMITS["float16"]}
"""Of a graph with the weights of PyTorch: its inputs are rounded to int8 on the CPU, and are float16 in TensorRT's."""


@contextmanager
def theirs(folder: Path, rounded: str | None = None) -> Iterator[Side]:
    """The model as transformers loads the folder, without any of this project's reading.

    Args:
        folder: Of the checkpoint.
        rounded: The precision of a graph for ONNX Runtime's quantized operators, which round inputs.
    """
    nested = json.loads((folder / "config.json").read_bytes())["model_type"] == "exaone4_5"
    kind = getattr(transformers, "Exaone4_5_ForConditionalGeneration" if nested else "AutoModelForCausalLM")
    model = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    body = model.model.language_model if hasattr(model.model, "language_model") else model.model
    for name in ("vocab_size", "sliding_window"):  # which are asked of the whole model's config
        setattr(model.config, name, getattr(body.config, name, None))
    if rounded is not None:
        rounding_inputs(model, [*body.named_modules(), ("lm_head", model.lm_head)], rounded)
    yield TorchSide(model, body.layers)


def rounding_inputs(model: Any, modules: list[tuple[str, Any]], precision: str) -> None:
    """Let products round their inputs to int8 as ONNX Runtime does: a scale a token and block of the weight."""
    for name, module in modules:
        if isinstance(module, torch.nn.Linear):
            group = group_size(model, name, module.in_features, precision)

            def rounds(_module: Any, inputs: tuple[torch.Tensor], group: int = group) -> torch.Tensor:
                groups = inputs[0].unflatten(-1, (-1, group))
                step = groups.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
                return ((groups / step).round() * step).flatten(-2)

            module.register_forward_pre_hook(rounds)


def compared(
    model: Path,
    work: Path,
    form: tuple[str, str],
    limits: Limits,
    prompts: list[torch.Tensor],
    new_tokens: int = 0,
    rounded: str | None = None,
) -> Iterator[dict[str, Any]]:
    """A row for every prompt of one target and precision."""
    target, precision = form
    chunk = {} if target in ("onnx", "ort-cpu") else {"prefill_chunk": 16}
    out = work / f"{model.name}-{target}-{precision}"
    export(model, out, target=target, precision=precision, max_length=400, plan_check=False, **chunk)
    sides: dict[str, Any] = {
        "transformers": (lambda: theirs(model, rounded), LIMITS["float32"]),
        f"{target} {precision}": (lambda: artifact_side(out), limits),
    }
    for row in compare(sides, prompts, new_tokens=new_tokens).rows:
        yield asdict(row)


def rows_of(family: str, seed: int, work: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every comparison of random models of one shape."""
    model, prompts = save(family, work / "model", seed), random_prompts(VOCABULARY, [100], seed=2)
    for target in TARGETS:
        yield from compared(model, work, (target, "float32"), LIMITS["float32"], prompts, new_tokens=256)
    for target, precision in quantized(family) if seed < options.quantized else ():
        held = save(family, work / f"held-{target}-{precision}", seed, held=precision)
        rounded = precision if target == "ort-cpu" else None
        for row in compared(held, work, (target, precision), HELD[target], prompts, rounded=rounded):
            yield row | {"side": f"{row['side']}, weights held"}
    precisions = ENGINES[:1] if family == SPARSE else ENGINES
    for precision in precisions if seed < options.engines else ():
        artifact = work / f"graph-{precision}"
        export(model, artifact, target="tensorrt-rtx", precision=precision, max_length=400, prefill_chunk=16)
        build_engine(artifact, work / f"engine-{precision}")
        yield {"side": f"tensorrt-rtx {precision} engine", "passed": True}


def quantized(family: str) -> list[tuple[str, str]]:
    """The quantized forms of a family; only ONNX Runtime's CPU has them of sparse layers."""
    return [form for form in QUANTIZED if family != SPARSE or form[0] == "ort-cpu"]


def trained_rows(family: str, work: Path) -> Iterator[dict[str, Any]]:
    """What every quantized form of a trained model costs."""
    model, prompts = train(family, work / "trained"), [*sequences(4, 100, seed=0)]
    for form in quantized(family):
        for row in compared(model, work, form, LIMITS[form[1]], prompts):
            yield row | {"side": f"{row['side']}, trained"}


def main() -> None:
    """Run, print a line for every comparison, and exit with 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="+", choices=("exaone", "exaone4_5", SPARSE))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--quantized", type=int, default=3, help="seeds that are quantized too; 0 trains no model")
    parser.add_argument("--engines", type=int, default=1, help="seeds of which engines are built too")
    parser.add_argument("--json", type=Path, help="write every row here")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows: list[dict[str, Any]] = []

    def note(family: str, seed: int | None, found: Iterator[dict[str, Any]]) -> None:
        for row in found:
            row |= {"family": family, "seed": seed}
            shown = " ".join(f"{key}={row[key]:.2g}" for key in ("logits", "kl") if row.get(key) is not None)
            tokens = f"{row['new_tokens']} tokens" if row.get("new_tokens") else ""
            verdict = "passed" if row["passed"] else "FAILED"
            print(
                f"{family:10} {'' if seed is None else seed:2} {row['side']:38} {verdict} {shown} {tokens}", flush=True
            )
            rows.append(row)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")

    for family in options.families:
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as name:
                note(family, seed, rows_of(family, seed, Path(name), options))
        if options.quantized:
            with tempfile.TemporaryDirectory() as name:
                note(family, None, trained_rows(family, Path(name)))
    print(f"{sum(row['passed'] for row in rows)} of {len(rows)} passed")
    sys.exit(not all(row["passed"] for row in rows))


if __name__ == "__main__":
    main()
