"""What the tests of quantized exports share: scales from random prompts, and checkpoints of size alone."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch

from exaone_export.exporter import export as pipeline
from exaone_export.exporter.calibrate.run import measure_ranges
from exaone_export.exporter.calibrate.scales.file import CalibrationData, ProductRange, ScalesFile
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.quantize.quantized_weights import quantized_readers
from exaone_export.exporter.reference import tracing
from exaone_export.exporter.reference.weights import WeightReader
from exaone_export.graphs.pipelines import lower
from exaone_export.graphs.wanted import wanted
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import expected_tensors, input_sizes
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import TARGETS

FORMS = ("bfloat16", "float16", "fp8", "int4", "int8")
"""Precisions that an engine can be built in, those of one compute type behind each other."""


def random_scales(model: Path, out: Path, tokens: int = 48) -> Path:
    """A scales file of random tokens, for models without a tokenizer."""
    checkpoint = Checkpoint.open(model)
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, checkpoint.spec.vocab_size, (1, tokens), generator=generator)
    return _write(checkpoint, measure_ranges(checkpoint, [prompt]), out)


def constant_scales(model: Path, out: Path, reach: float = 4.0) -> Path:
    """A scales file that says the same of every product, for models whose weights do not matter."""
    checkpoint = Checkpoint.open(model)
    sizes, layers = input_sizes(checkpoint.spec), range(checkpoint.spec.num_hidden_layers)
    ranges = [{part: ProductRange(reach, torch.full((n,), reach)) for part, n in sizes.items()} for _ in layers]
    return _write(checkpoint, tuple(ranges), out)


def _write(checkpoint: Checkpoint, ranges: tuple[dict[str, ProductRange], ...], out: Path) -> Path:
    source = {"name": checkpoint.name, "revision": checkpoint.revision, "fingerprint": checkpoint.fingerprint()}
    ScalesFile("max", ("float8_e4m3fn", "int8"), source, CalibrationData("0" * 64, 1, 1, 1), ranges).write(out)
    return out


def write_zero_checkpoint(out: Path, spec: ModelSpec) -> Path:
    """A checkpoint in bfloat16 whose weights are holes in the file, so that size costs nothing."""
    out.mkdir()
    header: dict[str, Any] = {}
    end = 0
    for name, shape in expected_tensors(spec).items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (out / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (out / "config.json").write_text(json.dumps(dataclasses.replace(spec, dtype="bfloat16").to_config()))
    return out


def recipe_readers(checkpoint: Checkpoint, recipe: Recipe, scales: ScalesFile | None) -> dict[str, WeightReader]:
    """By name, what makes the tensors that the passes of a recipe add."""
    spec = checkpoint.spec
    target = TARGETS["ort-cpu" if recipe.kernels or recipe.cache else "tensorrt"]
    layout = CacheLayout.plan(spec.layers, 64, target.cache_slack, target.cache_headroom)
    graph = lower(pipeline.trace(spec, layout, tracing.DTYPES[recipe.compute_type]), target, layout, spec, recipe)
    return quantized_readers(checkpoint, recipe, scales, wanted(graph))
