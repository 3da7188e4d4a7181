"""What a scales file for one precision holds: smoothing that changes nothing, weights, cache scales, kept layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import Exaone4ForCausalLM

from exaone_export.calibration.cache_scales import cache_scale
from exaone_export.calibration.number_formats import FORMATS
from exaone_export.calibration.ranges import METHODS
from exaone_export.calibration.weight_ranges import round_weight
from exaone_export.cli.main import cli
from exaone_export.errors import CalibrationError
from exaone_export.exporter.calibrate.batches import batches
from exaone_export.exporter.calibrate.data import Sample, read_samples
from exaone_export.exporter.calibrate.keep import layer_bytes
from exaone_export.exporter.calibrate.run import Options, calibrate
from exaone_export.exporter.calibrate.scales import file as scales_file
from exaone_export.exporter.calibrate.scales.file import ScalesFile
from exaone_export.exporter.calibrate.smoothing import weight_factors
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.export import plan_export
from exaone_export.exporter.quantize.packed_int4 import pack_int4, unpack_int4
from exaone_export.exporter.reference import weights
from exaone_export.exporter.reference.layer_stream import stream_layers
from exaone_export.exporter.reference.weights import read_weight
from exaone_export.model.tensors import PROJECTIONS, weight_name, weight_table
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.targets.recipe import Recipe
from tests.conftest import SaveModel
from tests.exporter.calibrate.calibration_models import CHAT, LINES, TOOLS, make_chatter, write_lines
from tests.exporter.quantized import recipe_readers

BLOCKS = {"qkv": 32, "output": 64, "gate_up": 32, "down": 16}


@pytest.fixture(scope="module")
def model(save_model: SaveModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chatter(save_model, tmp_path_factory.mktemp("chatter") / "model")


@pytest.fixture(scope="module")
def checkpoint(model: Path) -> Checkpoint:
    return Checkpoint.open(model)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "data.jsonl", *LINES)


@pytest.fixture(scope="module")
def made(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, ScalesFile]]:
    """``made("int4", …)``: the file and what is read from it, made once."""
    files: dict[Options, Path] = {}

    def make(*arguments: Any, **more: Any) -> tuple[Path, ScalesFile]:
        options = Options(*arguments, **more)
        if options not in files:
            files[options] = tmp_path_factory.mktemp("scales") / "scales.safetensors"
            calibrate(model, files[options], data=data, options=options)
        return files[options], ScalesFile.read(files[options], Checkpoint.open(model).spec)

    return make


def exact_weight(checkpoint: Checkpoint, layer: int, part: str) -> torch.Tensor:
    """``[out, in]``."""
    source = weight_table(checkpoint.spec)[weight_name(layer, part)]
    return read_weight(checkpoint, source, torch.float32).T


def smoothed_weight(checkpoint: Checkpoint, scales: ScalesFile, layer: int, part: str) -> torch.Tensor:
    rows, columns = weight_factors(checkpoint.spec, part, lambda part: scales.smoothing(layer, part))
    weight = exact_weight(checkpoint, layer, part)
    weight = weight if rows is None else weight / rows[:, None]
    return weight if columns is None else weight * columns


def logits(checkpoint: Checkpoint, prompts: list[torch.Tensor], weights: Callable[[int, str], torch.Tensor]) -> Any:
    """transformers' own, with the products' weights given ``[out, in]``."""
    model = Exaone4ForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32)
    spec = checkpoint.spec
    heads, keys = spec.num_attention_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
    with torch.no_grad():
        for i, layer in enumerate(model.model.layers):
            attention, mlp = layer.self_attn, layer.mlp
            q, k, v = weights(i, "qkv").split((heads, keys, keys))
            gate, up = weights(i, "gate_up").chunk(2)
            for projection, weight in (
                (attention.q_proj, q),
                (attention.k_proj, k),
                (attention.v_proj, v),
                (attention.o_proj, weights(i, "output")),
                (mlp.gate_proj, gate),
                (mlp.up_proj, up),
                (mlp.down_proj, weights(i, "down")),
            ):
                projection.weight.copy_(weight)
        return [model(prompt).logits[0] for prompt in prompts]


@pytest.fixture(scope="module")
def prompts(model: Path, data: Path) -> list[torch.Tensor]:
    found = read_samples(data, load_tokenizer(model), samples=9, seq_length=512)
    return [sample.tokens for sample in found]


# Weights.


@pytest.mark.parametrize(
    ("method", "signed"), [("nearest", False), ("nearest", True), ("gptq", False), ("gptq", True), ("awq", False)]
)
def test_int4_weights_are_near_the_checkpoints(
    method: str, signed: bool, made: Callable[..., Any], checkpoint: Checkpoint
) -> None:
    _, scales = made("int4", weights=method, signed_scales=signed)
    assert scales.precision == "int4"
    assert scales.formats == ()
    assert dict(scales.block) == BLOCKS == dict(Recipe.plan(checkpoint.spec, "int4", "float32").blocks)
    for layer in range(4):
        for part in PROJECTIONS:
            found = scales.weight(layer, part)
            exact = smoothed_weight(checkpoint, scales, layer, part)
            rows, columns = exact.shape
            assert found.values.dtype == torch.int8
            assert found.values.shape == exact.shape
            assert found.values.min() >= -8
            assert found.values.max() <= 7
            assert found.scale.dtype == torch.bfloat16
            assert found.scale.shape == (rows, columns // BLOCKS[part])
            assert bool((found.scale < 0).any()) == signed
            assert found.zero_point is None
            error = (found.dequantize() - exact).norm() / exact.norm()
            assert 0.01 < error < 0.2, (layer, part, error)
            assert (scales.smoothing(layer, part) is not None) == (method == "awq")
    scales.check_recipe(checkpoint, Recipe.plan(checkpoint.spec, "int4", "float32", kernels=True))
    if signed:
        with pytest.raises(CalibrationError, match=r"^the scales may be negative, which TensorRT does not take; make"):
            scales.check_recipe(checkpoint, Recipe.plan(checkpoint.spec, "int4", "float16"))
        return
    scales.check_recipe(checkpoint, Recipe.plan(checkpoint.spec, "int4", "float16"))
    with pytest.raises(
        CalibrationError, match=r"^the scales are for the weights of int4 alone, and the precision needs"
    ):
        scales.check_recipe(checkpoint, Recipe.plan(checkpoint.spec, "int8", "float16"))
    with pytest.raises(CalibrationError, match=r"^the scales are for int4, and the precision is int8-weights"):
        scales.check_recipe(checkpoint, Recipe.plan(checkpoint.spec, "int8-weights", "float16"))


def test_gptq_changes_the_answers_less_than_nearest(
    made: Callable[..., Any], checkpoint: Checkpoint, prompts: list[torch.Tensor]
) -> None:
    exact = torch.cat(logits(checkpoint, prompts, lambda layer, part: exact_weight(checkpoint, layer, part)))
    divergence = {}
    for method in ("nearest", "gptq"):
        _, scales = made("int4", weights=method)
        found = torch.cat(
            logits(checkpoint, prompts, lambda layer, part, file=scales: file.weight(layer, part).dequantize())
        )
        divergence[method] = kl(exact, found)
    assert divergence["gptq"] < 0.8 * divergence["nearest"]


def kl(exact: torch.Tensor, found: torch.Tensor) -> float:
    exact, found = exact.log_softmax(-1), found.log_softmax(-1)
    return (exact.exp() * (exact - found)).sum(-1).mean().item()


def test_int8_weights_have_a_scale_a_channel(made: Callable[..., Any], checkpoint: Checkpoint) -> None:
    path, scales = made("int8-weights")
    for part in PROJECTIONS:
        found, exact = scales.weight(1, part), exact_weight(checkpoint, 1, part)
        assert found.scale.shape == exact.shape[:1]
        assert (found.dequantize() - exact).norm() / exact.norm() < 0.01
    assert scales.weights.method == "nearest"
    assert scales.head() is None
    _, by_gptq = made("int8-weights", weights="gptq")
    assert by_gptq.head() is None
    assert not torch.equal(by_gptq.weight(1, "down").values, scales.weight(1, "down").values)
    assert made("int8")[1].weight(1, "qkv") is None
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    assert header["layers.1.qkv.values"]["dtype"] == "I8"


def test_the_head_is_rounded_by_what_comes_into_it(
    made: Callable[..., Any], checkpoint: Checkpoint, prompts: list[torch.Tensor]
) -> None:
    found = made("int4")[1].head()
    model = Exaone4ForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32)
    inputs: list[torch.Tensor] = []
    model.lm_head.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0][0]))
    with torch.inference_mode():
        for prompt in prompts:
            model(prompt)
    exact, seen = model.lm_head.weight.detach(), torch.cat(inputs)
    assert found.values.shape == exact.shape
    assert found.scale.shape == (len(exact), 1)
    nearest = round_weight(exact, FORMATS["int4"], block=32, scale_dtype=torch.bfloat16)
    error = (seen @ (found.dequantize() - exact).T).norm()
    assert 0 < error < 0.8 * (seen @ (nearest.dequantize() - exact).T).norm()
    assert made("int4", weights="nearest")[1].head() is None


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("precision", ["int4", "int8-weights"])
def test_the_graph_takes_them_some_rows_at_a_time(
    precision: str,
    kernels: bool,
    made: Callable[..., Any],
    checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scales = made(precision)[1]
    recipe = Recipe.plan(checkpoint.spec, precision, "float32", kernels=kernels)

    def data() -> dict[str, torch.Tensor]:
        readers = recipe_readers(checkpoint, recipe, scales)
        return {
            name: reader(torch.float32 if name.endswith("scale") else torch.uint8) for name, reader in readers.items()
        }

    whole = data()
    monkeypatch.setattr(weights, "_PART_BYTES", 6 * checkpoint.spec.hidden_size)
    sizes: list[int] = []
    monkeypatch.setattr(scales_file, "unpack_int4", lambda values: sizes.append(len(values)) or unpack_int4(values))
    parts = data()
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    assert max(sizes, default=0) == (6 if precision == "int4" else 0)


def test_int4_takes_half_a_byte(made: Callable[..., Any], generator: torch.Generator) -> None:
    values = torch.randint(-8, 8, (5, 48), generator=generator, dtype=torch.int8)
    packed = pack_int4(values)
    assert packed.shape == (5, 24)
    assert torch.equal(unpack_int4(packed), values)
    assert packed[0, 0].item() & 0xF == values[0, 0].item() & 0xF  # the first in the low half
    with safe_open(made("int4")[0], framework="pt") as file:
        assert file.get_slice("layers.0.qkv.values").get_shape() == [128, 16]


# Smoothing.


@pytest.mark.parametrize("options", [("int8", "fold"), ("int8", "explicit"), ("int4", "awq")])
def test_smoothing_changes_nothing_but_where_the_large_values_are(
    options: tuple[str, str], made: Callable[..., Any], checkpoint: Checkpoint, prompts: list[torch.Tensor]
) -> None:
    precision, how = options
    _, scales = made(precision, weights=how) if how == "awq" else made(precision, smooth=how)
    explicit = how != "fold"
    assert scales.smoothed == (tuple(PROJECTIONS) if explicit else ("output", "down"))
    model = Exaone4ForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32)
    for i, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        for part, projections in {
            "qkv": (attention.q_proj, attention.k_proj, attention.v_proj),
            "gate_up": (mlp.gate_proj, mlp.up_proj),
        }.items():
            factor = scales.smoothing(i, part)
            assert (factor is not None) == explicit
            for projection in projections if explicit else ():
                projection.register_forward_pre_hook(lambda _, inputs, factor=factor: (inputs[0] / factor,))
    exact = logits(checkpoint, prompts, lambda layer, part: exact_weight(checkpoint, layer, part))
    found = run_smoothed(model, checkpoint, scales, prompts)
    for got, wanted in zip(found, exact, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    for i in range(4):
        for part in scales.smoothed:
            factor = scales.smoothing(i, part)
            assert bool((factor > 0).all())
    assert any(scales.smoothing(i, "down").std() > 0.01 for i in range(4))


def run_smoothed(model: Any, checkpoint: Checkpoint, scales: ScalesFile, prompts: list[torch.Tensor]) -> Any:
    spec = checkpoint.spec
    heads, keys = spec.num_attention_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
    with torch.no_grad():
        for i, layer in enumerate(model.model.layers):
            weights = {part: smoothed_weight(checkpoint, scales, i, part) for part in PROJECTIONS}
            q, k, v = weights["qkv"].split((heads, keys, keys))
            gate, up = weights["gate_up"].chunk(2)
            attention, mlp = layer.self_attn, layer.mlp
            for projection, weight in zip(
                (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj),
                (q, k, v, weights["output"], gate, up),
                strict=True,
            ):
                projection.weight.copy_(weight)
            mlp.down_proj.weight.copy_(weights["down"])
        return [model(prompt).logits[0] for prompt in prompts]


def test_ranges_are_of_what_the_smoothed_products_take_in(made: Callable[..., Any]) -> None:
    _, plain = made("int8")
    for smooth in ("fold", "explicit"):
        _, scales = made("int8", smooth=smooth)
        for layer in range(4):
            for part in PROJECTIONS:
                factor, before = scales.smoothing(layer, part), plain.ranges[layer][part].channel_maximum
                found = scales.ranges[layer][part]
                torch.testing.assert_close(
                    found.channel_maximum, before if factor is None else before / factor, rtol=1e-3, atol=1e-5
                )
                assert found.range == found.channel_maximum.max().item()


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_other_methods_choose_smaller_ranges(method: str, precision: str, made: Callable[..., Any]) -> None:
    assert method in METHODS
    _, scales = made(precision, method=method)
    _, widest = made(precision)
    assert scales.method == method
    pairs = [
        (scales.ranges[layer][part].range, widest.ranges[layer][part].range)
        for layer in range(4)
        for part in PROJECTIONS
    ]
    assert all(0 < found <= reach for found, reach in pairs)
    # Of fp8's values, half lie below a 64th of the range, so entropy has no reason to clip these.
    assert any(found < reach for found, reach in pairs) or (method, precision) == ("entropy", "fp8")


# The cache.


def test_cache_scales_are_of_every_key_and_value(
    made: Callable[..., Any], model: Path, prompts: list[torch.Tensor]
) -> None:
    _, scales = made("int8", cache="int8")
    reference = Exaone4ForCausalLM.from_pretrained(model, dtype=torch.float32)
    maxima = [[torch.zeros(2, 16), torch.zeros(2, 16)] for _ in range(4)]
    with torch.inference_mode():
        for prompt in prompts:
            # A local layer's cache holds its last 7 tokens, and what it held earlier does not depend on what follows.
            for length in {*range(7, prompt.shape[1], 7), prompt.shape[1]}:
                past = reference(prompt[:, :length], use_cache=True).past_key_values
                for seen, layer in zip(maxima, past.layers, strict=True):
                    for which, tensor in enumerate((layer.keys, layer.values)):
                        seen[which] = torch.maximum(seen[which], tensor.abs().amax((0, 2)))
    number_format = FORMATS["int8"]
    assert scales.cache_format == number_format.name
    for layer in range(4):
        key, value = scales.cache(layer)
        torch.testing.assert_close(key, cache_scale(maxima[layer][0], number_format, layer < 3), rtol=1e-4, atol=0)
        torch.testing.assert_close(value, cache_scale(maxima[layer][1], number_format, False), rtol=1e-4, atol=0)
    assert made("int8")[1].cache(0) is None


def test_folding_divides_the_values_that_the_cache_holds(made: Callable[..., Any], checkpoint: Checkpoint) -> None:
    _, folded = made("int8", smooth="fold", cache="int8")
    _, plain = made("int8", cache="int8")
    factor = folded.smoothing(2, "output").reshape(2, 2, 16)[:, 0]
    torch.testing.assert_close(folded.cache(2)[1], plain.cache(2)[1] / factor, rtol=1e-3, atol=0)
    torch.testing.assert_close(folded.cache(2)[0], plain.cache(2)[0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("target_precision", ["float32", None])
@pytest.mark.parametrize(
    "options",
    [
        Options("int8", smooth="fold", cache="int8"),
        Options("int8", smooth="explicit", cache="int8", keep_layers="30%"),
        Options("int4", weights="awq", cache="int8", keep_layers="50%"),
        Options("int8-weights", weights="awq", cache="int8", keep_layers="30%"),
    ],
    ids=lambda options: f"{options.precision} {options.smooth} {options.weights} {options.keep_layers}",
)
def test_a_caches_scales_are_of_the_values_that_the_graph_computes(
    options: Options, target_precision: str | None, made: Callable[..., Any], model: Path
) -> None:
    """Smoothing belongs to the weights that it was folded into; where they are not, values are as the checkpoint's."""
    path, scales = made(**vars(options))
    _, plain = made("int8", cache="int8")
    precision = target_precision or options.precision
    plan = plan_export(model, precision=precision, cache_precision="int8", calibration=path)
    readers = recipe_readers(plan.checkpoint, plan.recipe, plan.scales)
    smoothed = {layer for layer in range(4) if plan.recipe.product(layer, "qkv") is not None}
    kept_float = {layer for layer, kept in scales.kept.items() if kept == "float"}
    assert smoothed == (set() if target_precision else set(range(4)) - kept_float)
    for layer in range(4):
        key, value = (readers[f"cache.{layer}.{which}.scale"](torch.float32)[0, :, 0] for which in ("key", "value"))
        torch.testing.assert_close(key, plain.cache(layer)[0], rtol=1e-3, atol=0)
        exact = plain.cache(layer)[1]
        if layer in smoothed:
            exact = exact / scales.smoothing(layer, "output").reshape(2, 2, 16)[:, 0]
        torch.testing.assert_close(value, exact, rtol=1e-3, atol=0)
    if target_precision:
        assert (plan.recipe.kept, plan.recipe.smoothed) == ({}, ())


# Kept layers.


def test_the_worst_layers_are_kept_within_the_budget(made: Callable[..., Any], checkpoint: Checkpoint) -> None:
    _, scales = made("int4", keep_layers="50%")
    spec = checkpoint.spec
    extra = layer_bytes(spec, "int8-weights") - layer_bytes(spec, "int4")
    room = int(0.5 * 4 * layer_bytes(spec, "int4") / extra)
    assert 0 < room < 4
    losses = scales.sensitivity.layers
    assert scales.sensitivity.measure == "error"
    assert set(scales.kept) == set(sorted(range(4), key=lambda layer: -losses[layer])[:room])
    assert set(scales.kept.values()) == {"int8-weights"}
    for layer in range(4):
        found = scales.weight(layer, "down")
        assert found.scale.ndim == (1 if layer in scales.kept else 2)
        error = (found.dequantize() - exact_weight(checkpoint, layer, "down")).norm()
        assert (error < 0.1) == (layer in scales.kept)
    _, none = made("int4", keep_layers="1")
    assert none.kept == {}
    _, in_float = made("int8", keep_layers="30%")
    assert set(in_float.kept.values()) == {"float"}
    assert len(in_float.kept) == 1


def test_sensitivity_by_kl_is_that_of_the_whole_model(
    made: Callable[..., Any], checkpoint: Checkpoint, prompts: list[torch.Tensor]
) -> None:
    _, scales = made("int8-weights", keep_layers="50%", sensitivity="kl")
    exact = logits(checkpoint, prompts, lambda layer, part: exact_weight(checkpoint, layer, part))
    positions = [torch.linspace(0, len(rows) - 1, min(len(rows), 256 // 4)).round().long() for rows in exact]
    exact = torch.cat([rows[kept] for rows, kept in zip(exact, positions, strict=True)])
    for quantized in range(4):
        # Rounded as the file's would be, had the layer not been kept.
        found = logits(
            checkpoint,
            prompts,
            lambda layer, part, which=quantized: (
                made("int8-weights")[1].weight(layer, part).dequantize()
                if layer == which
                else exact_weight(checkpoint, layer, part)
            ),
        )
        divergence = kl(exact, torch.cat([rows[kept] for rows, kept in zip(found, positions, strict=True)]))
        assert scales.sensitivity.layers[quantized] == pytest.approx(divergence, rel=0.1)


# Slices.


def test_slices_are_kept_apart(model: Path, tmp_path: Path) -> None:
    lines = [
        {"text": "short", "slice": "own name", "language": "en"},
        {"messages": CHAT, "enable_thinking": True},
        {"messages": CHAT, "tools": TOOLS, "enable_thinking": True, "language": "ko"},
        {"messages": CHAT, "tools": []},
    ]
    data = write_lines(tmp_path / "data.jsonl", *lines)
    samples = read_samples(data, load_tokenizer(model), samples=9, seq_length=512)
    names = ["own name, en", "thinking", "tool call, ko", "plain"]
    assert [sample.slice for sample in samples] == names
    scales = calibrate(model, tmp_path / "scales", data=data)
    assert sorted(scales.slices) == sorted(names)
    for part in PROJECTIONS:
        for layer in range(4):
            reached = [found.reach[part][layer] for found in scales.slices.values()]
            assert max(reached) == scales.ranges[layer][part].range
    for sample in samples:
        alone = write_lines(tmp_path / "alone.jsonl", lines[names.index(sample.slice)])
        found = calibrate(model, tmp_path / "alone", data=alone, overwrite=True)
        assert scales.slices[sample.slice].tokens == sample.tokens.numel()
        for layer in range(4):
            reach = scales.slices[sample.slice].reach["down"][layer]
            assert reach == pytest.approx(found.ranges[layer]["down"].range, rel=1e-4)


def test_samples_of_one_slice_and_length_pass_together() -> None:
    tokens = [torch.full((1, length), length) for length in (5, 7, 5, 5, 7)]
    found = batches([Sample(one, label) for one, label in zip(tokens, "aabaa", strict=True)], most_tokens=14)
    assert [(batch.slice, tuple(batch.tokens.shape)) for batch in found] == [
        ("a", (2, 5)),
        ("a", (2, 7)),
        ("b", (1, 5)),
    ]
    assert [tuple(batch.tokens.shape) for batch in batches([Sample(tokens[1])] * 3, most_tokens=14)] == [(2, 7), (1, 7)]
    assert len(batches([Sample(tokens[1])] * 3, most_tokens=1)) == 3


def test_a_batch_passes_as_its_samples_alone(checkpoint: Checkpoint, generator: torch.Generator) -> None:
    prompts = torch.randint(3, 843, (3, 20), generator=generator)
    both = zip(stream_layers(checkpoint, [prompts]), stream_layers(checkpoint, prompts.split(1)), strict=True)
    for together, alone in both:
        cached, (key, _) = together.forward(together.hidden[0], keep_cache=True)
        assert key.shape == (3, 2, 20, 16)
        together.run()
        alone.run()
        torch.testing.assert_close(together.hidden[0], cached)
        torch.testing.assert_close(together.hidden[0], torch.cat(alone.hidden))


@pytest.mark.parametrize("value", [5, "", "x" * 41, "a\nb", None])
@pytest.mark.parametrize("key", ["slice", "language"])
def test_a_label_that_is_none_is_refused(key: str, value: object, model: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "data.jsonl", {"text": "x", key: value})
    with pytest.raises(CalibrationError, match=rf"^line 1 of .* has a '{key}' that is not a text of 1 to 40"):
        read_samples(data, load_tokenizer(model), samples=1, seq_length=9)


# What is refused.

BAD: list[tuple[Callable[[dict[str, torch.Tensor], dict[str, Any]], object], str]] = [
    (
        lambda tensors, _: tensors["layers.1.down.scale"][3, 1:2].fill_(0),
        "a scale of the weight of layer 1's down proj",
    ),
    (lambda tensors, _: tensors["layers.1.down.scale"][3, 1:2].fill_(torch.nan), "is not finite"),
    (lambda tensors, _: tensors["layers.1.cache.key_scale"][0, :1].fill_(0), "a key scale of layer 1's cache is 0"),
    (
        lambda tensors, _: tensors["layers.1.cache.value_scale"][0, :1].fill_(-1),
        "a value scale of layer 1's cache is -1",
    ),
    (
        lambda tensors, _: tensors["layers.1.down.smoothing"][:1].fill_(torch.inf),
        "a smoothing factor of layer 1's down",
    ),
    (lambda tensors, _: tensors["layers.1.down.smoothing"][:1].fill_(-2), "is -2, and it must be above 0"),
    (lambda tensors, _: tensors.pop("layers.1.down.values"), "lacks the values of layer 1's down projection"),
    (lambda tensors, _: tensors.pop("layers.1.down.scale"), "lacks the scale of layer 1's down projection"),
    (lambda tensors, _: tensors.pop("layers.1.down.smoothing"), "lacks the smoothing of layer 1's down projection"),
    (lambda tensors, _: tensors.pop("layers.1.cache.key_scale"), "lacks the key scale of layer 1's cache"),
    (
        lambda tensors, _: tensors.update({"layers.1.down.scale": tensors["layers.1.down.scale"].float()}),
        "is F32 [32, 3] in place of BF16 [32, 3]",
    ),
    (
        lambda tensors, _: tensors.update({"layers.1.down.zero_point": torch.zeros(32, 3, dtype=torch.int8)}),
        "has 'layers.1.down.zero_point', which the model has no place for",
    ),
    (lambda _, about: about.update(precision="float16"), "has 'float16' at precision, which is not of the form int8|"),
    (lambda _, about: about.update(formats=["int8"]), "cannot be used: formats must be given unless"),
    (lambda _, about: about.update(smoothed=["down"]), "cannot be used: smoothed must name"),
    (lambda _, about: about.update(kept={"4": "float"}), "has 'layers"),
    (lambda _, about: about.update(kept={"01": "float"}), "has a key in kept that is not int"),
    (
        lambda _, about: about.update(kept={"1": "float16"}),
        "has 'float16' at kept[...], which is not of the form float|",
    ),
    (lambda _, about: about["weights"].update(blocks={"qkv": 32}), "cannot be used: weights: blocks must name"),
    (lambda _, about: about["weights"]["blocks"].update(qkv=16), "is BF16 [128, 1] in place of BF16 [128, 2]"),
    (lambda _, about: about["weights"].update(method="gptq"), "lacks the values of the vocabulary projection"),
    (lambda _, about: about["weights"].update(method="gptq", blocks={}), "in place of BF16"),
    (lambda _, about: about.update(weights=None), "has 'layers.0.down.scale', which the model has no place for"),
    (lambda _, about: about["slices"]["plain"]["reach"]["qkv"].pop(), "is not what a calibration writes"),
    (lambda _, about: about["sensitivity"]["layers"].append(1.0), "is not what a calibration writes"),
    (
        lambda _, about: about["sensitivity"].update(layers=[1, 2, 3, "x"]),
        "has 'x' at sensitivity.layers[3], which is not float",
    ),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_a_file_that_cannot_be_right_is_refused(
    change: Callable[..., object], words: str, made: Callable[..., Any], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path, _ = made("int4", weights="awq", cache="int8", keep_layers="1")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        about = json.loads(file.metadata()["exaone_export"])
    change(tensors, about)
    if "4" in about["kept"]:
        words = "is not what a calibration writes"
    save_file(tensors, tmp_path / "damaged", {"exaone_export": json.dumps(about)})
    with pytest.raises(CalibrationError) as caught:
        found = ScalesFile.read(tmp_path / "damaged", checkpoint.spec)
        for layer in range(4):
            for part in PROJECTIONS:
                found.weight(layer, part)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_file_that_is_read_and_written_is_the_same(made: Callable[..., Any], tmp_path: Path) -> None:
    path, scales = made("int4", weights="awq", cache="int8", keep_layers="50%")
    written = scales.write(tmp_path / "again")
    with safe_open(path, framework="pt") as first, safe_open(tmp_path / "again", framework="pt") as second:
        assert first.metadata() == second.metadata()
        assert set(first.keys()) == set(second.keys())
        for name in first.keys():  # noqa: SIM118
            assert torch.equal(first.get_tensor(name), second.get_tensor(name))
    assert len(written.sha256) == 64


# The command.


def test_the_command_reports_slices_and_kept_layers(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "scales.safetensors"
    arguments = ["calibrate", str(model), str(out), "--data", str(data), "--precision", "int4", "--keep-layers", "40%"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    summary, slices, end = (part.splitlines() for part in result.stdout.split("\n\n"))
    assert summary[5].split(maxsplit=1) == ["weights", "rounded to int4 by gptq"]
    assert summary[6].startswith("layers ") and "kept in int8-weights: " in summary[6]
    assert slices[0].split() == ["slice", "samples", "tokens", *PROJECTIONS]
    assert [line.split("  ")[0] for line in slices[1:]] == ["plain", "tool call"]
    assert slices[1].split()[1] == "3"
    assert (slices[1] + slices[2]).count("100%") >= len(PROJECTIONS)  # one of them reaches each range
    assert end[1] == f"next   exaone-export export {model} OUT --calibration {out} --precision int4"

    as_json = CliRunner().invoke(cli, [*arguments, "--overwrite", "--json"])
    answer = json.loads(as_json.stdout)
    assert answer["weights"] == {"method": "gptq", "blocks": BLOCKS, "signed": False}
    assert answer["slices"]["plain"]["samples"] == 3
    assert len(answer["sensitivity"]["layers"]) == 4
    assert set(answer["kept"].values()) == {"int8-weights"}
