"""Weights that are rounded when they are written: from one reading, some rows at a time, and none kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from exaone_export.calibration.number_formats import FORMATS
from exaone_export.calibration.weight_ranges import round_weight
from exaone_export.errors import CheckpointError
from exaone_export.exporter.calibrate.scales.file import ScalesFile
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.reference import weights
from exaone_export.exporter.reference.weights import WeightReader, read_weight
from exaone_export.graphs.passes.quantize_products import input_scale_name, quantized_name, scale_name
from exaone_export.model.tensors import PROJECTIONS, weight_name, weight_table
from exaone_export.targets.precision import PRECISIONS
from exaone_export.targets.recipe import Recipe
from tests.conftest import TINY
from tests.exporter.quantized import random_scales, recipe_readers

NAMES = {name: weight_name(1, name) for name in PROJECTIONS}
QUANTIZED = [name for name, precision in PRECISIONS.items() if precision.weights is not None]


@pytest.fixture(scope="module")
def scales(tmp_path_factory: pytest.TempPathFactory) -> ScalesFile:
    path = random_scales(TINY, tmp_path_factory.mktemp("scales") / "tiny.safetensors")
    return ScalesFile.read(path, Checkpoint.open(TINY).spec)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each tensor was read."""
    read, counts = Checkpoint.read_rows, Counter[str]()

    def counting(self: Checkpoint, name: str, rows: int) -> Iterator[torch.Tensor]:
        counts[name] += 1
        return read(self, name, rows)

    monkeypatch.setattr(Checkpoint, "read_rows", counting)
    return counts


def readers(
    precision: str, scales: ScalesFile, compute_type: str = "float32"
) -> tuple[dict[str, WeightReader], Recipe]:
    checkpoint = Checkpoint.open(TINY)
    recipe = Recipe.plan(checkpoint.spec, precision, compute_type)
    return recipe_readers(checkpoint, recipe, scales), recipe


def unpacked(values: torch.Tensor, precision: str) -> torch.Tensor:
    """``[in, out]``: of an int4 byte, the low half comes first."""
    if precision != "int4":
        return values.float()
    halves = torch.stack((values << 4 >> 4, values >> 4), -1)
    return halves.flatten(1).float()


@pytest.mark.parametrize("rows", [None, 7])  # 7 leaves a rest
@pytest.mark.parametrize("precision", QUANTIZED)
def test_a_stored_weight_is_the_whole_weight_rounded(
    precision: str, rows: int | None, scales: ScalesFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint.open(TINY)
    if rows is not None:
        monkeypatch.setattr(weights, "_PART_BYTES", 4 * 128 * rows)
    made, recipe = readers(precision, scales)
    for part, name in NAMES.items():
        whole = read_weight(checkpoint, weight_table(checkpoint.spec)[name], torch.float32).T
        rounded = round_weight(
            whole, FORMATS[recipe.weights], block=recipe.blocks.get(part, 0), search=precision == "int4"
        )
        wanted, wanted_scale = rounded.values, rounded.scale
        values = made[quantized_name(name)](wanted.dtype)
        scale = made[scale_name(name)](torch.float32)
        assert values.is_contiguous()
        assert scale.is_contiguous()
        assert torch.equal(unpacked(values, precision), wanted.float().T)
        assert torch.equal(scale, wanted_scale.T if recipe.blocks else wanted_scale)


@pytest.mark.parametrize("first", ["values", "scale"])
@pytest.mark.parametrize("precision", QUANTIZED)
def test_both_come_from_one_reading_and_none_is_kept(
    precision: str, first: str, scales: ScalesFile, reads: Counter[str]
) -> None:
    made, _ = readers(precision, scales)
    for name in NAMES.values():
        value, scale = made[quantized_name(name)], made[scale_name(name)]
        for reader, dtype in ((value, torch.int8), (scale, torch.float32))[:: 1 if first == "values" else -1]:
            reader(dtype)
        assert value.source is scale.source
        assert value.source._kept == {}  # type: ignore[attr-defined]
    assert set(reads.values()) == {1}
    assert len(reads) == 3 + 1 + 2 + 1


def test_two_threads_share_one_reading(scales: ScalesFile, reads: Counter[str]) -> None:
    made, _ = readers("int8", scales)
    with ThreadPoolExecutor(2) as pool:
        for name in NAMES.values():
            both = (
                pool.submit(made[quantized_name(name)], torch.int8),
                pool.submit(made[scale_name(name)], torch.float32),
            )
            assert both[0].result().dtype == torch.int8
            assert both[1].result().dtype == torch.float32
    assert set(reads.values()) == {1}


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_scale_of_inputs_is_the_range_over_the_largest_value(precision: str, scales: ScalesFile) -> None:
    made, recipe = readers(precision, scales)
    for part, name in NAMES.items():
        found = made[input_scale_name(name)](torch.float32)
        assert found.shape == ()
        largest = FORMATS[str(recipe.precision.activations)].largest
        assert found.item() == pytest.approx(scales.ranges[1][part].range / largest, rel=1e-7)


@pytest.mark.parametrize("compute_type", ["float16", "bfloat16"])
def test_scales_have_the_compute_type_where_inputs_are_not_rounded(compute_type: str, scales: ScalesFile) -> None:
    for precision, wanted in (("int4", compute_type), ("int8-weights", compute_type), ("int8", "float32")):
        made, _ = readers(precision, scales, compute_type)
        dtype = getattr(torch, wanted)
        assert made[scale_name(NAMES["down"])](dtype).dtype == dtype


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_a_float_recipe_adds_nothing(precision: str) -> None:
    checkpoint = Checkpoint.open(TINY)
    assert recipe_readers(checkpoint, Recipe.plan(checkpoint.spec, precision, precision), None) == {}


def test_a_block_is_the_longest_power_of_two_that_divides_the_inputs() -> None:
    recipe = Recipe.plan(Checkpoint.open(TINY).spec, "int4", "float16")
    assert recipe.blocks == {"qkv": 128, "output": 128, "gate_up": 128, "down": 64}


def test_a_scale_that_float16_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch, scales: ScalesFile) -> None:
    made, _ = readers("int8-weights", scales, "float16")
    read = Checkpoint.read_rows

    def large(self: Checkpoint, name: str, rows: int) -> Iterator[torch.Tensor]:
        yield from (part * 1e9 for part in read(self, name, rows))

    monkeypatch.setattr(Checkpoint, "read_rows", large)
    with pytest.raises(CheckpointError, match=r"^the scales of model\.layers\.1\.self_attn\.o_proj\.weight do not fit"):
        made[scale_name(NAMES["output"])](torch.float16)
