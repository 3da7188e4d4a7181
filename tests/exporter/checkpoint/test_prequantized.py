"""Checkpoints that were published quantized: codes and scales come out as they went in, and what lies is refused.

The packing is written here a second time, a value after the other, from the formats' own descriptions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from exaone_export.errors import CheckpointError, ConfigError
from exaone_export.exporter.checkpoint.checkpoint import WEIGHTS_NAME, Checkpoint
from exaone_export.exporter.checkpoint.prequantized.packing import unpack
from exaone_export.exporter.reference.weights import load_reference
from exaone_export.model.spec import ModelSpec, RopeSpec
from exaone_export.model.tensors import expected_tensors, weight_table
from exaone_export.targets.cache_layout import CacheLayout

SPEC = ModelSpec(
    vocab_size=24,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    rms_norm_eps=1e-5,
    max_position_embeddings=64,
    layer_types=("sliding_attention", "full_attention"),
    sliding_window=8,
    rope=RopeSpec("default", 10_000.0),
    bos_token_id=1,
    eos_token_ids=(2,),
    pad_token_id=0,
)
DENSE = expected_tensors(SPEC)
LAYER_TENSORS = [name for name in DENSE if name.endswith("_proj.weight")]
DOWN = "model.layers.1.mlp.down_proj"
BLOCK = 16
FP8 = torch.float8_e4m3fn


@dataclass
class Weight:
    """One projection, as the numbers that it means: codes without a sign, or float8 values."""

    codes: torch.Tensor  # [out, in]
    scale: torch.Tensor  # [out, groups]
    zero: torch.Tensor  # [out, groups]
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def value(self) -> torch.Tensor:
        """``(code - zero) * scale``, one column of inputs after the other."""
        columns = []
        for column in range(self.codes.shape[1]):
            group = column * self.scale.shape[1] // self.codes.shape[1]
            columns.append((self.codes[:, column].float() - self.zero[:, group].float()) * self.scale[:, group].float())
        return torch.stack(columns, dim=1)


Make = Callable[[int, int, torch.Generator], Weight]


@dataclass(frozen=True)
class Case:
    """A form of checkpoint: its config, what makes a projection of it, and what is to be said of it."""

    config: dict[str, Any]
    make: Make
    weights: str
    block: int
    symmetric: bool
    activations: str | None = None


# The packing of each format


def words(values: np.ndarray, bits: int, order: Sequence[int] | None = None) -> torch.Tensor:
    """``[rows, n]`` to int32 ``[rows, ceil(n * bits / 32)]``, value ``order[i]`` at bit ``i * bits`` of its word."""
    per_word = 32 // bits
    rows, size = values.shape
    out = np.zeros((rows, -(-size // per_word)), dtype=np.uint32)
    for i in range(size):
        word, place = divmod(i, per_word)
        taken = word * per_word + (order[place] if order else place)
        out[:, word] |= values[:, taken].astype(np.uint32) << np.uint32(bits * place)
    return torch.from_numpy(out.view(np.int32).copy())


def scales(*shape: int, generator: torch.Generator, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return (torch.rand(shape, generator=generator) * 0.01 + 1e-3).to(dtype)


def gptq(bits: int = 4, group: int = BLOCK, *, symmetric: bool = True, version: int = 1, g_idx: bool = True) -> Make:
    def make(outputs: int, inputs: int, generator: torch.Generator) -> Weight:
        width = inputs if group == -1 else group
        shape = (outputs, inputs // width)
        codes = torch.randint(1 << bits, (outputs, inputs), generator=generator)
        zero = torch.randint(1, 1 << bits, shape, generator=generator)
        if symmetric:
            zero = torch.full(shape, 1 << bits - 1)
        scale = scales(*shape, generator=generator)
        tensors = {
            "qweight": words(codes.numpy(), bits).T,
            "qzeros": words(zero.T.numpy() - (1 if version == 1 else 0), bits),
            "scales": scale.T,
        }
        if g_idx:
            tensors["g_idx"] = torch.tensor([i // width for i in range(inputs)], dtype=torch.int32)
        return Weight(codes, scale, zero, tensors)

    return make


def awq(*, symmetric: bool = False, dtype: torch.dtype = torch.float16) -> Make:
    order = (0, 2, 4, 6, 1, 3, 5, 7)

    def make(outputs: int, inputs: int, generator: torch.Generator) -> Weight:
        shape = (outputs, inputs // BLOCK)
        codes = torch.randint(16, (outputs, inputs), generator=generator)
        zero = torch.full(shape, 8) if symmetric else torch.randint(16, shape, generator=generator)
        scale = scales(*shape, generator=generator, dtype=dtype)
        qweight, qzeros = words(codes.T.numpy(), 4, order), words(zero.T.numpy(), 4, order)
        return Weight(codes, scale, zero, {"qweight": qweight, "qzeros": qzeros, "scales": scale.T})

    return make


def scale_shape(strategy: str, outputs: int, inputs: int) -> tuple[int, ...]:
    return {
        "tensor": (1,),
        "channel": (outputs, 1),
        "group": (outputs, inputs // BLOCK),
        "block": (-(-outputs // 24), inputs // BLOCK),
    }[strategy]


def meant(stored: torch.Tensor, strategy: str, outputs: int) -> torch.Tensor:
    """What a stored scale means for each channel: ``[out, groups]``."""
    if strategy == "tensor":
        return torch.stack([stored.reshape(1)] * outputs)
    return torch.stack([stored[row // 24] for row in range(outputs)]) if strategy == "block" else stored


def integers(bits: int, strategy: str, *, packed: bool, symmetric: bool = True, static: bool = False) -> Make:
    def make(outputs: int, inputs: int, generator: torch.Generator) -> Weight:
        half = 1 << bits - 1
        shape = scale_shape(strategy, outputs, inputs)
        codes = torch.randint(1 << bits, (outputs, inputs), generator=generator)
        scale = scales(*shape, generator=generator, dtype=torch.bfloat16)
        zero = torch.full(shape, half) if symmetric else torch.randint(1 << bits, shape, generator=generator)
        tensors = {"weight_scale": scale}
        if packed:
            tensors |= {
                "weight_packed": words(codes.numpy(), bits),
                "weight_shape": torch.tensor([outputs, inputs]),
            }
        else:
            tensors["weight"] = (codes - half).to(torch.int8)
        if not symmetric:
            stored = words(zero.T.numpy(), bits).T if packed else (zero - half).to(torch.int8)
            tensors["weight_zero_point"] = stored
        if static:
            tensors["input_scale"] = scales(1, generator=generator, dtype=torch.float32)
        return Weight(codes, meant(scale, strategy, outputs), meant(zero, strategy, outputs), tensors)

    return make


def floats(strategy: str, *, scale_name: str = "weight_scale", static: bool = False, scalar: bool = False) -> Make:
    def make(outputs: int, inputs: int, generator: torch.Generator) -> Weight:
        values = (torch.randn(outputs, inputs, generator=generator) * 100).clamp(-448, 448).to(FP8)
        scale = scales(*scale_shape(strategy, outputs, inputs), generator=generator, dtype=torch.float32)
        tensors = {"weight": values, scale_name: scale.reshape(()) if scalar else scale}
        if static:
            tensors["input_scale"] = scales(1, generator=generator, dtype=torch.float32)[0]
        scale = meant(scale, strategy, outputs)
        return Weight(values.float(), scale, torch.zeros_like(scale), tensors)

    return make


def gptq_config(**changes: Any) -> dict[str, Any]:
    """What AutoGPTQ writes."""
    return {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": BLOCK,
        "sym": True,
        "desc_act": False,
        "damp_percent": 0.01,
        "static_groups": False,
        "true_sequential": True,
        "checkpoint_format": "gptq",
        "is_marlin_format": False,
    } | changes


def awq_config(**changes: Any) -> dict[str, Any]:
    """What AutoAWQ writes."""
    return {
        "quant_method": "awq",
        "bits": 4,
        "group_size": BLOCK,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    } | changes


def compressed_config(
    layout: str, weights: dict[str, Any], activations: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """What llm-compressor writes."""
    common = {"actorder": None, "dynamic": False, "group_size": None, "observer": "minmax", "observer_kwargs": {}}
    group = {
        "targets": ["Linear"],
        "weights": common | {"symmetric": True} | weights,
        "input_activations": activations and (common | {"symmetric": True, "observer": None} | activations),
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "config_groups": {"group_0": group},
    } | changes


def fp8_config(**changes: Any) -> dict[str, Any]:
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [24, BLOCK]} | changes


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": BLOCK}
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}
E4M3 = {"num_bits": 8, "type": "float", "strategy": "channel"}
STATIC = {"num_bits": 8, "strategy": "tensor", "dynamic": False}
DYNAMIC = {"num_bits": 8, "strategy": "token", "dynamic": True}
PER_TENSOR, PER_CHANNEL = {"strategy": "tensor", "group_size": None}, {"strategy": "channel", "group_size": None}
BLOCKS = {"strategy": "block", "block_structure": [24, BLOCK]}

CASES = {
    "gptq": Case(gptq_config(), gptq(), "int4", BLOCK, True),
    "gptq, zero points": Case(gptq_config(sym=False), gptq(symmetric=False), "int4", BLOCK, False),
    "gptq version 2": Case(gptq_config(checkpoint_format="gptq_v2"), gptq(version=2), "int4", BLOCK, True),
    "gptq version 2, zero points": Case(
        gptq_config(checkpoint_format=None, format="gptq_v2", sym=False, pack_dtype="int32", dynamic={"-:.*head": {}}),
        gptq(symmetric=False, version=2),
        "int4",
        BLOCK,
        False,
    ),
    "gptq of 8 bits": Case(gptq_config(bits=8), gptq(8), "int8", BLOCK, True),
    "gptq of 8 bits, zero points": Case(gptq_config(bits=8, sym=False), gptq(8, symmetric=False), "int8", BLOCK, False),
    "gptq per channel": Case(gptq_config(group_size=-1, desc_act=True), gptq(group=-1), "int4", 0, True),
    "gptq per channel, zero points": Case(
        gptq_config(group_size=-1, sym=False), gptq(group=-1, symmetric=False), "int4", 0, False
    ),
    "gptq without g_idx": Case(gptq_config(), gptq(g_idx=False), "int4", BLOCK, True),
    "gptq with static groups": Case(gptq_config(desc_act=True, static_groups=True), gptq(), "int4", BLOCK, True),
    "awq": Case(awq_config(), awq(), "int4", BLOCK, False),
    "awq, symmetric": Case(
        awq_config(zero_point=False, version="GEMM"), awq(symmetric=True, dtype=torch.bfloat16), "int4", BLOCK, True
    ),
    "int4 by groups": Case(
        compressed_config("pack-quantized", INT4), integers(4, "group", packed=True), "int4", BLOCK, True
    ),
    "int4 by groups, zero points": Case(
        compressed_config("pack-quantized", INT4 | {"symmetric": False, "actorder": "weight"}),
        integers(4, "group", packed=True, symmetric=False),
        "int4",
        BLOCK,
        False,
    ),
    "int4 per channel, zero points": Case(
        compressed_config("pack-quantized", INT4 | PER_CHANNEL | {"symmetric": False}),
        integers(4, "channel", packed=True, symmetric=False),
        "int4",
        0,
        False,
    ),
    "int8, packed": Case(
        compressed_config("pack-quantized", INT8 | {"strategy": "group", "group_size": BLOCK, "symmetric": False}),
        integers(8, "group", packed=True, symmetric=False),
        "int8",
        BLOCK,
        False,
    ),
    "int8, static": Case(
        compressed_config("int-quantized", INT8, STATIC | {"type": "int"}),
        integers(8, "channel", packed=False, static=True),
        "int8",
        0,
        True,
        "static",
    ),
    "int8, dynamic": Case(
        compressed_config("int-quantized", INT8 | {"symmetric": False}, DYNAMIC | {"type": "int"}),
        integers(8, "channel", packed=False, symmetric=False),
        "int8",
        0,
        False,
        "dynamic",
    ),
    "int8 per tensor": Case(
        compressed_config("naive-quantized", INT8 | PER_TENSOR), integers(8, "tensor", packed=False), "int8", 0, True
    ),
    "fp8, static": Case(
        compressed_config("float-quantized", E4M3 | PER_TENSOR, STATIC | {"type": "float"}),
        floats("tensor", static=True),
        "float8_e4m3fn",
        0,
        True,
        "static",
    ),
    "fp8, dynamic": Case(
        compressed_config("float-quantized", E4M3, DYNAMIC | {"type": "float"}),
        floats("channel"),
        "float8_e4m3fn",
        0,
        True,
        "dynamic",
    ),
    "fp8 by blocks": Case(
        compressed_config("float-quantized", E4M3 | BLOCKS), floats("block"), "float8_e4m3fn", BLOCK, True
    ),
    "method fp8": Case(
        fp8_config(modules_to_not_convert=["lm_head"]),
        floats("block", scale_name="weight_scale_inv"),
        "float8_e4m3fn",
        BLOCK,
        True,
        "dynamic",
    ),
    "method fp8, static": Case(
        fp8_config(activation_scheme="static", weight_block_size=None),
        floats("tensor", static=True, scalar=True),
        "float8_e4m3fn",
        0,
        True,
        "static",
    ),
}


@cache
def build(name: str, quantized: tuple[str, ...], seed: int) -> tuple[dict[str, Weight], dict[str, torch.Tensor]]:
    """What the projections of a checkpoint mean, and its tensors."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Weight] = {}
    tensors: dict[str, torch.Tensor] = {}
    for dense, shape in DENSE.items():
        if dense not in quantized:
            tensors[dense] = torch.randn(shape, generator=generator).to(torch.bfloat16)
            continue
        made[dense] = CASES[name].make(*shape, generator)
        module = dense.removesuffix("weight")
        tensors |= {f"{module}{suffix}": tensor.contiguous() for suffix, tensor in made[dense].tensors.items()}
    return made, tensors


def write(folder: Path, name: str, quantized: Sequence[str] = tuple(LAYER_TENSORS), seed: int = 0) -> dict[str, Weight]:
    """Write a checkpoint, and give what its projections mean."""
    made, tensors = build(name, tuple(quantized), seed)
    save_file(tensors, folder / WEIGHTS_NAME)
    (folder / "config.json").write_text(json.dumps(SPEC.to_config() | {"quantization_config": CASES[name].config}))
    return made


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS_NAME)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_NAME)


def sentence(error: BaseException) -> str:
    text = str(error)
    assert text.endswith(".")
    assert "\n" not in text
    return text


# What is read


@pytest.mark.parametrize("name", CASES)
def test_codes_and_scales_are_those_stored(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    made = write(tmp_path, name)
    checkpoint = Checkpoint.open(tmp_path)
    for projection, weight in made.items():
        outputs, inputs = DENSE[projection]
        read = checkpoint.read_quantized([projection])
        half = 0 if case.weights == "float8_e4m3fn" else 1 << (3 if case.weights == "int4" else 7)
        assert read.values.dtype == (torch.int8 if half else FP8)
        assert torch.equal(read.values.float(), weight.codes.float() - half)
        assert read.scale.shape == ((outputs, inputs // case.block) if case.block else (outputs,))
        assert read.scale.dtype == weight.scale.dtype
        assert torch.equal(read.scale, weight.scale.reshape(read.scale.shape))
        assert (read.zero_point is None) == case.symmetric
        if read.zero_point is not None:
            assert read.zero_point.dtype == torch.int8
            assert torch.equal(read.zero_point.int(), weight.zero.int().reshape(read.scale.shape) - half)
        assert torch.equal(read.dequantize(), weight.value())
        assert torch.equal(checkpoint.read(projection), weight.value())


@pytest.mark.parametrize("name", CASES)
def test_packed_products_are_their_parts_one_below_the_other(name: str, tmp_path: Path) -> None:
    made = write(tmp_path, name, seed=1)
    checkpoint = Checkpoint.open(tmp_path)
    for source in weight_table(SPEC).values():
        if source.names[0] in made:
            read = checkpoint.read_quantized(source.names)
            assert torch.equal(read.dequantize(), torch.cat([made[one].value() for one in source.names]))


@pytest.mark.parametrize("name", CASES)
def test_the_description(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    write(tmp_path, name)
    found = Checkpoint.open(tmp_path).quantization
    assert found is not None
    assert (found.method, found.weights, found.block) == (case.config["quant_method"], case.weights, case.block)
    assert (found.symmetric, found.activations, found.unquantized) == (case.symmetric, case.activations, ())


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.activations == "static"])
def test_static_scales_are_the_largest_of_the_parts(name: str, tmp_path: Path) -> None:
    made = write(tmp_path, name)
    checkpoint = Checkpoint.open(tmp_path)
    names = weight_table(SPEC)["body.layers.0.attention.qkv.weight"].names
    scale = checkpoint.read_input_scale(names)
    assert scale is not None
    assert scale.dtype == torch.float32
    assert scale == max(made[one].tensors["input_scale"].item() for one in names)


def test_no_static_scales(tmp_path: Path) -> None:
    write(tmp_path, "fp8, dynamic")
    assert Checkpoint.open(tmp_path).read_input_scale([f"{DOWN}.weight"]) is None


def test_the_reference_has_the_weights_that_the_codes_mean(tmp_path: Path) -> None:
    made = write(tmp_path, "awq")
    checkpoint = Checkpoint.open(tmp_path)
    state = load_reference(checkpoint, CacheLayout.plan(SPEC.layers, 32, 0)).state_dict()
    down, head = state["body.layers.1.mlp.down.weight"], state["head.weight"]
    assert torch.equal(down.T, made[f"{DOWN}.weight"].value())
    assert torch.equal(head.T, checkpoint.read("lm_head.weight").float())


def test_what_is_left_in_floating_point(tmp_path: Path) -> None:
    quantized = [name for name in LAYER_TENSORS if DOWN not in name]
    write(tmp_path, "awq", quantized)
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.quantization is not None
    assert checkpoint.quantization.unquantized == (DOWN,)
    assert checkpoint.read(f"{DOWN}.weight").dtype == torch.bfloat16
    with pytest.raises(CheckpointError, match=r"does not have model\.layers\.1\.mlp\.down_proj\.weight quantized"):
        checkpoint.read_quantized([f"{DOWN}.weight"])


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_a_head_in_floating_point_has_any_number_of_rows(name: str, tmp_path: Path) -> None:
    """A vocabulary that tokens were added to is no multiple of what a word of a quantized head holds."""
    write(tmp_path, name)
    rows = SPEC.vocab_size + 3
    edit(
        tmp_path,
        lambda tensors: tensors.update(
            {each: torch.ones(rows, SPEC.hidden_size) for each in ("lm_head.weight", "model.embed_tokens.weight")}
        ),
    )
    config = SPEC.to_config() | {"vocab_size": rows, "quantization_config": CASES[name].config | {"lm_head": False}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.shape("lm_head.weight") == (rows, SPEC.hidden_size)
    assert checkpoint.quantization is not None
    assert checkpoint.quantization.unquantized == ()


def test_a_quantized_head(tmp_path: Path) -> None:
    made = write(tmp_path, "gptq", [*LAYER_TENSORS, "lm_head.weight"])
    checkpoint = Checkpoint.open(tmp_path)
    assert torch.equal(checkpoint.read("lm_head.weight"), made["lm_head.weight"].value())


def test_a_checkpoint_that_is_not_quantized(tmp_path: Path) -> None:
    write(tmp_path, "awq", ())
    (tmp_path / "config.json").write_text(json.dumps(SPEC.to_config()))
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.quantization is None
    with pytest.raises(CheckpointError, match="is not quantized; read it in floating point"):
        checkpoint.read_quantized(LAYER_TENSORS[:1])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("bits", [4, 8])
def test_unpacking_of_random_shapes(seed: int, bits: int) -> None:
    generator = np.random.default_rng(seed)
    rows, columns = int(generator.integers(1, 9)), 32 // bits * int(generator.integers(1, 9))
    values = generator.integers(1 << bits, size=(rows, columns))
    packed, expected = words(values, bits), torch.from_numpy(values) - (1 << bits - 1)
    assert torch.equal(unpack(packed, bits).long(), expected)


def test_unpacking_of_one_word_down_a_column() -> None:
    """A dimension of one may have any stride, and the tensor is contiguous all the same."""
    column = torch.tensor([[0x76543210, 0x7]], dtype=torch.int32).T
    assert column.stride() == (1, 2)
    assert unpack(column, 4).tolist() == [[-8, -7, -6, -5, -4, -3, -2, -1], [-1, *[-8] * 7]]


# What is refused


def put(suffix: str, value: torch.Tensor | None) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors.update({f"{DOWN}.{suffix}": value})


def at(suffix: str, index: Any, value: Any) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors[f"{DOWN}.{suffix}"].__setitem__(index, value)


def drop(*suffixes: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: [tensors.pop(f"{DOWN}.{suffix}") for suffix in suffixes]


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("gptq", drop("qweight"), f"lacks {DOWN}.qweight, which its config.json calls for"),
        ("gptq", drop("qzeros"), f"lacks {DOWN}.qzeros"),
        ("gptq", drop("scales"), f"lacks {DOWN}.scales"),
        ("gptq with static groups", drop("g_idx"), f"lacks {DOWN}.g_idx"),
        ("gptq", drop("qweight", "qzeros", "scales", "g_idx"), f"lacks {DOWN}.weight"),
        ("gptq", put("bias", torch.zeros(32)), f"has {DOWN}.bias, which its config.json has no place for"),
        ("gptq", put("weight", torch.zeros(32, 48)), f"has {DOWN}.weight, which its config.json has no place for"),
        ("gptq", put("qweight", torch.zeros(12, 32).int()), f"{DOWN}.qweight [12, 32] in place of [6, 32]"),
        ("gptq", put("qweight", torch.zeros(6, 32)), f"{DOWN}.qweight F32 in place of I32"),
        ("gptq", put("qzeros", torch.zeros(6, 4).int()), f"{DOWN}.qzeros [6, 4] in place of [3, 4]"),
        ("gptq", put("scales", torch.ones(3, 32).int()), f"{DOWN}.scales I32 in place of F32 or BF16 or F16"),
        ("gptq", put("g_idx", torch.zeros(48).long()), f"{DOWN}.g_idx I64 in place of I32"),
        ("awq", put("qweight", torch.zeros(6, 32).int()), f"{DOWN}.qweight [6, 32] in place of [48, 4]"),
        ("awq", put("qweight", torch.zeros(48, 4).to(torch.uint8)), "qweight in model.safetensors is U8, and only"),
        ("awq", put("g_idx", torch.zeros(48).int()), f"has {DOWN}.g_idx"),
        ("int4 by groups", drop("weight_packed"), f"lacks {DOWN}.weight_packed"),
        ("int4 by groups", put("weight_shape", torch.ones(3).long()), f"{DOWN}.weight_shape [3] in place of [2]"),
        ("int4 by groups, zero points", drop("weight_zero_point"), f"lacks {DOWN}.weight_zero_point"),
        ("int4 by groups", put("weight_zero_point", torch.zeros(4, 3).int()), f"has {DOWN}.weight_zero_point"),
        ("fp8, dynamic", drop("weight_scale"), f"lacks {DOWN}.weight_scale"),
        ("fp8, dynamic", put("weight", torch.zeros(32, 48)), f"{DOWN}.weight F32 in place of F8_E4M3"),
        ("fp8, dynamic", put("weight", torch.zeros(32, 48).to(torch.float8_e5m2)), "weight in model.safetensors is F8"),
        ("fp8, dynamic", put("weight_scale", torch.ones(32)), f"{DOWN}.weight_scale [32] in place of [32, 1]"),
        ("fp8, static", drop("input_scale"), f"lacks {DOWN}.input_scale"),
        ("int8, static", put("weight", torch.zeros(32, 48).to(FP8)), f"{DOWN}.weight F8_E4M3 in place of I8"),
        ("method fp8", drop("weight_scale_inv"), f"lacks {DOWN}.weight_scale_inv"),
        ("awq", lambda tensors: tensors.update({"model.norm.weight": torch.zeros(32).int()}), "model.norm.weight I32"),
    ],
)
def test_tensors_that_do_not_fit(case: str, change: Callable[..., Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, case)
    edit(tmp_path, change)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(tmp_path)
    assert message in sentence(caught.value)


REORDERED = torch.arange(48, dtype=torch.int32).flip(0) // BLOCK
NAN, NEGATIVE_NAN = torch.tensor([0x7F, 0xFF], dtype=torch.uint8).view(FP8)


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("gptq", put("g_idx", REORDERED), f"{DOWN}.g_idx separates inputs of one group (desc_act)"),
        ("gptq", at("g_idx", 0, -1), f"{DOWN}.g_idx separates inputs of one group"),
        ("gptq", at("g_idx", 47, 1 << 30), f"{DOWN}.g_idx separates inputs of one group"),
        ("gptq", at("qzeros", (0, 0), 0x77777767), f"{DOWN}.qzeros has zero points, and the config says sym"),
        ("gptq version 2", at("qzeros", (0, 0), 0x77777777), f"{DOWN}.qzeros has zero points, and the config says sym"),
        ("gptq, zero points", at("qzeros", (2, 3), -1), f"{DOWN}.qzeros has a zero point that overflowed"),
        ("gptq of 8 bits, zero points", at("qzeros", (2, 3), -1), f"{DOWN}.qzeros has a zero point that overflowed"),
        ("awq, symmetric", at("qzeros", (0, 0), 0), f"{DOWN}.qzeros has zero points, and the config says zero_point"),
        ("awq", at("scales", (1, 5), float("inf")), f"{DOWN}.scales in model.safetensors is inf at [1, 5]"),
        ("awq", at("scales", (1, 5), float("nan")), f"{DOWN}.scales in model.safetensors is nan at [1, 5]"),
        ("awq", at("scales", (1, 5), 0), f"{DOWN} has the scale 0, which must be positive"),
        ("awq", at("scales", (1, 5), -0.5), f"{DOWN} has the scale -0.5, which must be positive"),
        ("int4 by groups", at("weight_shape", 0, 1 << 62), f"{DOWN}.weight_shape is [{1 << 62}, 48] instead of"),
        ("int4 by groups", at("weight_shape", 1, -1), f"{DOWN}.weight_shape is [32, -1] instead of [32, 48]"),
        ("fp8, dynamic", at("weight", (7, 40), NAN), f"{DOWN}.weight in model.safetensors is nan at [7, 40]"),
        ("fp8, dynamic", at("weight", (7, 40), NEGATIVE_NAN), f"{DOWN}.weight in model.safetensors is nan at [7, 40]"),
    ],
)
def test_values_that_cannot_be(case: str, change: Callable[..., Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, case)
    edit(tmp_path, change)
    checkpoint = Checkpoint.open(tmp_path)
    for read in (checkpoint.read, lambda name: checkpoint.read_quantized([name])):
        with pytest.raises(CheckpointError) as caught:
            read(f"{DOWN}.weight")
        assert message in sentence(caught.value)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_static_scales_that_cannot_be(value: float, tmp_path: Path) -> None:
    write(tmp_path, "fp8, static")
    edit(tmp_path, put("input_scale", torch.tensor([value])))
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(tmp_path).read_input_scale([f"{DOWN}.weight"])
    assert f"{DOWN}.input_scale" in sentence(caught.value)


def test_a_static_scale_of_one_is_a_scale_like_others(tmp_path: Path) -> None:
    write(tmp_path, "fp8, static")
    edit(tmp_path, put("input_scale", torch.tensor([1.0])))
    assert Checkpoint.open(tmp_path).read_input_scale([f"{DOWN}.weight"]) == 1


def test_parts_whose_scales_differ_in_type(tmp_path: Path) -> None:
    write(tmp_path, "awq")
    names = [f"model.layers.0.mlp.{one}_proj.weight" for one in ("gate", "up")]
    edit(tmp_path, lambda t: t.update({names[0].replace("weight", "scales"): torch.ones(2, 48)}))
    with pytest.raises(CheckpointError, match="differ in type"):
        Checkpoint.open(tmp_path).read_quantized(names)


def test_a_config_without_quantized_tensors(tmp_path: Path) -> None:
    write(tmp_path, "awq", ())
    with pytest.raises(CheckpointError, match="quantization_config is set, and no projection is quantized"):
        Checkpoint.open(tmp_path)


def group(**changes: Any) -> dict[str, Any]:
    """A config of compressed-tensors whose only group is changed."""
    config = compressed_config("float-quantized", E4M3, DYNAMIC | {"type": "float"})
    for key, value in changes.items():
        inner, _, outer = key.partition("__")
        target = config["config_groups"]["group_0"]
        (target[inner] if outer else target)[outer or inner] = value
    return config


TWO_GROUPS = compressed_config("float-quantized", E4M3)
TWO_GROUPS["config_groups"]["group_1"] = group()["config_groups"]["group_0"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("gptq", "quantization_config is 'gptq', not an object"),
        ({}, "quantization_config.quant_method is missing"),
        (
            {"quant_method": "bitsandbytes"},
            "quant_method is 'bitsandbytes', and only 'gptq', 'awq', 'compressed-tensors'",
        ),
        ({"quant_method": ["gptq"]}, "quant_method is ['gptq'], and only"),
        (gptq_config(bits=3), "quantization_config.bits is 3, and only 4, 8 can be exported"),
        (gptq_config(bits=True), "quantization_config.bits is True"),
        (gptq_config(bits=4.0), "quantization_config.bits is 4.0"),
        (gptq_config(group_size=0), "quantization_config.group_size is 0, not a positive integer"),
        (gptq_config(group_size=24), "quantization_config.group_size is 24, not a power of two from 16 on"),
        (gptq_config(group_size=8), "quantization_config.group_size is 8, not a power of two from 16 on"),
        (gptq_config(group_size=1 << 80), "q_proj has 32 inputs, and its quantization needs a multiple of"),
        (gptq_config(group_size=32), "down_proj has 48 inputs, and its quantization needs a multiple of 32"),
        (gptq_config(sym=None), "quantization_config.sym is missing"),
        (gptq_config(checkpoint_format="marlin"), "checkpoint_format is 'marlin', and only 'gptq', 'gptq_v2'"),
        (gptq_config(format="gptq_v2"), "checkpoint_format and format differ"),
        (gptq_config(is_marlin_format=True), "is_marlin_format is True, which cannot be exported"),
        (gptq_config(dynamic={"+:.*down.*": {"bits": 8}}), "dynamic quantizes '+:.*down.*' differently"),
        (gptq_config(adapter={"name": "lora"}), "quantization_config.adapter is {'name': 'lora'}"),
        (awq_config(bits=8), "quantization_config.bits is 8, and only 4 can be exported"),
        (awq_config(version="gemv"), "quantization_config.version is 'gemv'"),
        (awq_config(zero_point="yes"), "quantization_config.zero_point is 'yes'"),
        (compressed_config("nvfp4-pack-quantized", E4M3), "quantization_config.format is 'nvfp4-pack-quantized'"),
        (compressed_config("float-quantized", E4M3, kv_cache_scheme={"num_bits": 8}), "kv_cache_scheme is {'num_bits'"),
        (compressed_config("float-quantized", E4M3, transform_config={"R1": {}}), "transform_config is {'R1': {}}"),
        (
            compressed_config("float-quantized", E4M3, sparsity_config={"format": "24"}),
            "sparsity_config.format is '24'",
        ),
        (compressed_config("float-quantized", E4M3, quantization_status="frozen"), "quantization_status is 'frozen'"),
        (compressed_config("float-quantized", E4M3, config_groups={}), "config_groups is {}, not an object of objects"),
        (compressed_config("float-quantized", E4M3, config_groups={"W8A8": ["Linear"]}), "config_groups.W8A8 is"),
        (compressed_config("float-quantized", INT4), "weights.type is 'int', and only 'float'"),
        (compressed_config("pack-quantized", INT4 | {"num_bits": 3}), "weights.num_bits is 3, and only 4, 8"),
        (compressed_config("pack-quantized", INT4 | {"actorder": "group"}), "weights.actorder is 'group'"),
        (TWO_GROUPS, "config_groups differ, and only one form for all modules can be exported"),
        (group(weights=None), "config_groups.group_0.weights is missing"),
        (group(weights__strategy="tensor_group"), "weights.strategy is 'tensor_group'"),
        (group(weights__strategy="block"), "weights.block_structure is missing"),
        (group(weights__symmetric=False), "weights has zero points, which float-quantized cannot store"),
        (group(output_activations={"num_bits": 8}), "output_activations is {'num_bits': 8}"),
        (group(input_activations__num_bits=4), "input_activations.num_bits is 4, and only 8"),
        (group(input_activations__type="int"), "input_activations.type is 'int', and only 'float'"),
        (group(input_activations__dynamic="local"), "input_activations.dynamic is 'local'"),
        (group(input_activations__dynamic=False), "input_activations.strategy is 'token', and only 'tensor'"),
        (fp8_config(activation_scheme="static"), "has both weight_block_size and static activations"),
        (fp8_config(weight_block_size=[128]), "weight_block_size is [128], not two positive integers"),
        (fp8_config(weight_block_size=[0, 128]), "weight_block_size is [0, 128], not two positive integers"),
        (fp8_config(weight_block_size=[128, 24]), "weight_block_size is 24, not a power of two"),
        (fp8_config(scale_fmt="ue8m0"), "scale_fmt is 'ue8m0'"),
    ],
)
def test_configs_that_cannot_be_exported(config: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path, "gptq")
    (tmp_path / "config.json").write_text(json.dumps(SPEC.to_config() | {"quantization_config": config}))
    with pytest.raises(ConfigError) as caught:
        Checkpoint.open(tmp_path)
    assert message in sentence(caught.value)
