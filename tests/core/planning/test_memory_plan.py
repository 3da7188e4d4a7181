"""The arithmetic of a plan, against figures worked out by hand and against itself."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from exaone_export.errors import ConfigError
from exaone_export.model.heads import HeadSpec
from exaone_export.model.published import PUBLISHED
from exaone_export.model.tensors import num_parameters
from exaone_export.planning import process_memory
from exaone_export.planning.deployment import Deployment, choose_layout
from exaone_export.planning.fitting import fit, largest
from exaone_export.planning.memory_plan import MemoryPlan
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import TARGETS

GIB = 2**30


def deployment(
    shape: str = "32b", target: str = "ort-cuda", precision: str = "bfloat16", length: int = 131_072
) -> Deployment:
    spec, place = PUBLISHED[shape], TARGETS[target]
    recipe = Recipe.plan(spec, precision, place.check_compute_type(precision, None), kernels=place.kernels)
    return Deployment(spec, place, recipe, length)


def test_the_cache_of_the_32b_is_what_the_readme_says() -> None:
    cache = MemoryPlan.of(deployment()).cache
    assert (cache.local_layers, cache.global_layers) == (48, 16)
    assert (cache.local, cache.global_) == (48 * 4096 * 4096, 8 * GIB)
    assert cache.total == 8.75 * GIB
    assert cache.all_global == 32 * GIB


@pytest.mark.parametrize(("workers", "whole"), [(1, 535), (2, 802.5), (3, 872.5), (4, 942.5)])
def test_an_export_holds_whole_what_fits_its_room(monkeypatch: pytest.MonkeyPatch, workers: int, whole: float) -> None:
    """Of the 32B's products in bfloat16: 535, 267.5, 70 and 50 MiB, and no two of the first fit 1 GiB."""
    monkeypatch.setattr(process_memory, "export_workers", lambda: workers)
    wide = deployment("32b", "tensorrt-rtx", length=4096)
    spec = dataclasses.replace(wide.spec, vocab_size=1024)
    peak = process_memory.export_peak(dataclasses.replace(wide, spec=spec))
    assert peak == (425 + workers * 66 + whole) * 2**20


@pytest.mark.parametrize(
    ("head", "length", "numbers"),
    [
        (HeadSpec(), 4096, 102_400),
        (HeadSpec("sequence-classification", ("A", "B", "C")), 4096, 3),
        # Every token's, as the steps give them and in one.
        (HeadSpec("token-classification", ("A", "B", "C")), 4096, 2 * 4096 * 3),
        (HeadSpec("question-answering", bias=True), 4096, 2 * 4096 * 2),
        (HeadSpec("hidden-states"), 4096, 2 * 4096 * 2048),
        (HeadSpec("hidden-states", hidden_states=True), 4096, 2 * 4096 * 31 * 2048),
        (HeadSpec("hidden-states"), 100, 100 * 2048),  # one step
    ],
)
def test_outputs_are_held_for_every_token_that_has_them(head: HeadSpec, length: int, numbers: int) -> None:
    planned = deployment("1.2b", "ort-cpu", "float32", length)
    planned = dataclasses.replace(planned, spec=dataclasses.replace(planned.spec, head=head))
    step = planned.step_tokens * (6 * 4096 + 2 * 2048)
    for batch in (1, 3):
        found = process_memory.activations(dataclasses.replace(planned, batch=batch))
        assert found == 4 * batch * (step + numbers) + process_memory._RUN_STEP


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("shape", "length"), [("1.2b", 777), ("32b", 4000), ("32b", 4097), ("32b", 40_000)])
def test_the_cache_is_the_layouts_own_figure(target: str, shape: str, length: int) -> None:
    for batch in (1, 3):
        planned = dataclasses.replace(deployment(shape, target, TARGETS[target].precisions[0], length), batch=batch)
        spec, layout = planned.spec, planned.layout
        size = layout.num_bytes(spec.num_key_value_heads, spec.head_dim, planned.cache_item_bytes, batch)
        cache = MemoryPlan.of(planned).cache
        assert cache.total == size * (1 if TARGETS[target].in_place else 2)
        assert cache.total <= cache.all_global or planned.layout.longest_step is not None


def test_an_int8_cache_takes_a_quarter_of_a_float32_one() -> None:
    whole = deployment("1.2b", "ort-cpu", "int4", 4096)
    rounded = dataclasses.replace(whole, recipe=dataclasses.replace(whole.recipe, cache="int8"))
    assert MemoryPlan.of(rounded).cache.total * 4 == MemoryPlan.of(whole).cache.total


def test_weights_are_those_of_the_architecture() -> None:
    spec = PUBLISHED["32b"]
    plan = MemoryPlan.of(deployment())
    assert plan.weights["embedding"] == plan.weights["head"] == 102_400 * 5120 * 2
    assert plan.weights["norms"] == 4 * (64 * (2 * 5120 + 2 * 128) + 5120)
    assert plan.weights["rotary"] == 2 * 131_072 * 64 * 4
    assert plan.weights["scales"] == 0
    parameters = plan.weight_bytes - plan.weights["rotary"] - plan.weights["norms"] // 2
    assert parameters == 2 * num_parameters(spec)
    assert plan.weight_bytes < plan.disk < plan.weight_bytes + 8 * 2**20


def test_a_tied_matrix_is_stored_once_in_floating_point_and_twice_in_kernels() -> None:
    tied = MemoryPlan.of(deployment("1.2b", "ort-cpu", "float32", 4096)).weights
    assert (tied["embedding"], tied["head"]) == (102_400 * 2048 * 4, 0)
    kernels = MemoryPlan.of(deployment("1.2b", "ort-cpu", "int4", 4096)).weights
    assert (kernels["embedding"], kernels["head"]) == (102_400 * 2048, 102_400 * 2048 // 2)


def test_only_tensorrt_has_an_engine() -> None:
    for target in TARGETS:
        plan = MemoryPlan.of(deployment("1.2b", target, TARGETS[target].precisions[0], 4096))
        has_engine = target.startswith("tensorrt")
        assert (plan.build_peak is not None) == (plan.engine_disk is not None) == has_engine
        assert plan.deployment.on_gpu == (has_engine or target == "ort-cuda")


@pytest.mark.parametrize(
    ("used", "taken"),
    [(0, 0), (1, 1), (2, 3), (3, 3), (4, 7), (833, 1023), (1023, 1023), (1024, 2047), (2441, 3071), (3072, 4095)],
)
def test_an_arena_doubles_its_regions_up_to_a_gibibyte(used: int, taken: int) -> None:
    assert process_memory._arena(used << 20) == taken << 20


def test_the_parts_of_a_plan_are_its_peak() -> None:
    for precision in ("float16", "int4"):
        plan = MemoryPlan.of(deployment("1.2b", "ort-cuda", precision, 2048))
        assert plan.run_peak == plan.weights_held + plan.cache.total + plan.activations + plan.workspace


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt-rtx", "ort-cuda"])
def test_what_fits_is_the_largest_that_fits(target: str) -> None:
    planned = deployment("32b", target, "int4", 8192)
    memory = 24 * GIB
    found = fit(planned, memory)
    assert found.longest_context is not None
    assert found.largest_batch is not None
    assert 2 < found.longest_context < planned.spec.max_position_embeddings
    for longest, next_one in (
        (planned.with_length(found.longest_context), planned.with_length(found.longest_context + 1)),
        (planned.with_batch(found.largest_batch), planned.with_batch(found.largest_batch + 1)),
    ):
        assert MemoryPlan.of(longest).run_peak <= memory < MemoryPlan.of(next_one).run_peak
    assert found.fits == (MemoryPlan.of(planned).run_peak <= memory)


def test_a_memory_may_hold_nothing_or_everything() -> None:
    planned = deployment("1.2b", "ort-cpu", "int4", 4096)
    nothing, everything = fit(planned, 2**20), fit(planned, 2**45)
    assert (nothing.fits, nothing.longest_context, nothing.largest_batch) == (False, None, None)
    assert everything.fits
    assert everything.longest_context == planned.spec.max_position_embeddings


@pytest.mark.parametrize("edge", range(11))
def test_the_search_finds_every_edge(edge: int) -> None:
    assert largest(lambda number: number < edge, 0, 9) == (None if edge == 0 else min(edge - 1, 9))


def test_more_takes_more() -> None:
    """The search for what fits rests on it."""
    for target in ("ort-cpu", "tensorrt-rtx", "onnx", "ort-cuda"):
        base = deployment("32b", target, TARGETS[target].precisions[0], 2)
        lengths = [2, 511, 512, 4096, 4223, 4224, 4735, 4736, 20_000, 131_072]
        peaks = [MemoryPlan.of(base.with_length(length)).run_peak for length in lengths]
        assert peaks == sorted(peaks)


def test_lengths_and_chunks_that_cannot_be_are_refused() -> None:
    spec = PUBLISHED["1.2b"]
    with pytest.raises(ConfigError, match=r"max length is 65537, and the model knows 65536 positions"):
        choose_layout(spec, TARGETS["ort-cpu"], 65_537)
    with pytest.raises(ConfigError, match="takes steps of any length; leave --prefill-chunk out"):
        choose_layout(spec, TARGETS["ort-cpu"], 64, 16)
    with pytest.raises(ConfigError, match="prefill chunk is 0"):
        choose_layout(spec, TARGETS["tensorrt-rtx"], 64, 0)
    hybrid = choose_layout(PUBLISHED["32b"], TARGETS["tensorrt-rtx"], 10_000, 16)
    assert hybrid == CacheLayout.plan(PUBLISHED["32b"].layers, 10_000, 127, 16)


def test_planning_loads_neither_torch_nor_a_runtime() -> None:
    code = (
        "import sys; from exaone_export.exporter.plan.deployment import read_deployment, what_fits\n"
        "from exaone_export.planning.memory_plan import MemoryPlan\n"
        "s = read_deployment('32b', max_length=4096); MemoryPlan.of(s); what_fits(s, memory='24GiB')\n"
        "print(sorted({'torch', 'onnxruntime', 'transformers', 'onnx', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
