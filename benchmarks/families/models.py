"""Small models of the families beside EXAONE 4, saved by transformers' own classes (5.24 or later).

`save` draws the weights, for a precision also so that it holds them exactly; `train` trains them.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import torch
import transformers

from exaone_export.model.published import PUBLISHED

VOCABULARY = 97
VISION = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "num_key_value_heads": 1,
    "patch_size": 4,
    "window_size": 16,
    "fullatt_block_indexes": [0],
}


def shape(seed: int, *, windows: bool) -> dict[str, Any]:
    """An irregular shape: head sizes, groups, layers, windows and RoPE differ from seed to seed."""
    draw = random.Random(seed)
    kv_heads, layers = draw.choice((1, 2, 3)), draw.choice((2, 3, 4, 5))
    found: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16 * draw.randint(2, 7),
        "intermediate_size": 16 * draw.randint(2, 9),
        "num_hidden_layers": layers,
        "num_attention_heads": kv_heads * draw.choice((1, 2, 3, 5)),
        "num_key_value_heads": kv_heads,
        "head_dim": draw.choice((32, 48, 64, 80)),
        "max_position_embeddings": 512,
        "rms_norm_eps": draw.choice((1e-5, 1e-6)),
        "rope_parameters": draw.choice((_LLAMA3, _PLAIN, _LINEAR)),
        "tie_word_embeddings": draw.random() < 0.5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if windows:
        kinds = ["sliding_attention" if draw.random() < 0.6 else "full_attention" for _ in range(layers)]
        kinds[draw.randrange(layers)] = "sliding_attention"
        found |= {
            "layer_types": kinds,
            "sliding_window": draw.choice((2, 5, 8, 31, 64)),
            "sliding_window_pattern": None,
        }
    return found


_PLAIN = {"rope_type": "default", "rope_theta": 10_000.0}
_LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
# The published scaling, from a length that short tests pass.
_LLAMA3 = PUBLISHED["1.2b"].rope.to_config() | {"rope_theta": 10_000.0, "original_max_position_embeddings": 64}


def sparse(seed: int, sizes: dict[str, Any]) -> dict[str, Any]:
    """The same with sparse layers: which they are, experts, groups and what their scores become differ."""
    draw = random.Random(1000 + seed)
    layers, groups, each = sizes["num_hidden_layers"], draw.choice((1, 2, 4)), draw.choice((2, 3, 5, 8))
    chosen = draw.randint(1, groups)
    kinds = [draw.choice(("dense", "sparse")) for _ in range(layers)]
    kinds[draw.randrange(layers)] = "sparse"
    return {
        "mlp_layer_types": kinds,
        "num_experts": groups * each,
        "n_group": groups,
        "topk_group": chosen,
        "num_experts_per_tok": draw.randint(1, min(chosen * each, 8)),
        "moe_intermediate_size": 16 * draw.randint(1, 4),
        "num_shared_experts": draw.choice((1, 2)),
        "norm_topk_prob": draw.random() < 0.7,
        "routed_scaling_factor": draw.choice((1.0, 2.5)),
        **sizes,
    }


def save(
    family: str, folder: Path, seed: int, head: str = "ForCausalLM", held: str | None = None, **changes: Any
) -> Path:
    """Save a random model of ``exaone``, ``exaone4_5`` or ``exaone_moe`` as transformers does: under its files' names.

    Args:
        family: Which.
        folder: Where to.
        seed: Of the shape and the weights.
        head: The class, behind the family's name.
        held: A precision that is to hold the weights exactly (default: any weights).
        changes: Of the shape.
    """
    torch.manual_seed(seed)
    model = build(family, shape(seed, windows=family != "exaone") | changes, seed, head)
    with torch.no_grad():
        for name, bias in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                bias.normal_(std=0.1)
        for name, weight in model.named_parameters():
            if "norm" in name or "ln_" in name:
                weight.uniform_(0.5, 1.5)
                continue
            weight.normal_(std=1.0 if "embed" in name else weight.shape[-1] ** -0.5)
            if held is not None and weight.dim() > 1 and not name.endswith("gate.weight"):
                hold(weight, group_size(model, name, weight.shape[-1], held))
    model.save_pretrained(folder)
    return folder


def build(family: str, sizes: dict[str, Any], seed: int, head: str = "ForCausalLM") -> Any:
    """A model of a family with transformers' own first weights.

    Args:
        family: As `save`'s.
        sizes: Of the language model.
        seed: Of what a sparse layer is, where ``sizes`` do not say.
        head: As `save`'s.
    """
    if family == "exaone":
        step = math.lcm(16, sizes["num_attention_heads"])  # which transformers wants to divide the hidden size
        sizes = {**sizes, "hidden_size": -(-sizes["hidden_size"] // step) * step}
        return getattr(transformers, f"Llama{head}")(transformers.ExaoneConfig(**sizes))
    if family == "exaone_moe":
        return getattr(transformers, f"ExaoneMoe{head}")(transformers.ExaoneMoeConfig(**sparse(seed, sizes)))
    tied = sizes["tie_word_embeddings"]
    text = {**sizes, "model_type": "exaone4", "tie_word_embeddings": not tied}  # what is said outside decides
    vision = VISION | {"out_hidden_size": sizes["hidden_size"]}
    config = transformers.Exaone4_5_Config(text_config=text, vision_config=vision, tie_word_embeddings=tied)
    return transformers.Exaone4_5_ForConditionalGeneration(config)


def hold(weight: torch.Tensor, group: int) -> None:
    """Replace a weight ``[…, in]`` by one that every format holds whose scales are shared by ``group`` inputs.

    A group has two values: zero, and one of its own. Rounded symmetrically, or between its lowest and its highest
    weight, both are codes.
    """
    groups = weight.unflatten(-1, (-1, group))
    value = groups[..., :1].sign() * groups.abs().mean(-1, keepdim=True) * 1.5
    weight.copy_((value * (torch.rand_like(groups) < 0.5)).flatten(-2))


def group_size(model: Any, name: str, inputs: int, precision: str) -> int:
    """How many inputs of a weight share a scale: the longest power of two up to 128 that divides them, or all.

    Args:
        model: Has the weight.
        name: Of the weight.
        inputs: Its last dimension.
        precision: Of the artifact.
    """
    experts = ".experts." in name and "shared" not in name
    if precision == "int8" or (experts and precision == "int8-weights"):
        return inputs
    config = getattr(model.config, "text_config", model.config)
    both = math.gcd(config.hidden_size, config.moe_intermediate_size) if experts else inputs
    return math.gcd(both, 128)


TABLE = 12
"""Tokens that a trained model has seen."""

_TRAINED = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "rope_parameters": _PLAIN,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_TRAINED_WINDOWS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 16}
_TRAINED_EXPERTS = {
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 64,
    "num_shared_experts": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}


def sequences(rows: int, length: int, seed: int) -> torch.Tensor:
    """Sequences ``[rows, length]`` in which two tokens say the next, but for one in twenty, which is any."""
    table = torch.randint(TABLE, (TABLE, TABLE), generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(seed)
    found = torch.randint(TABLE, (rows, length), generator=draw)
    told = torch.rand(rows, length, generator=draw) > 0.05
    for place in range(2, length):
        following = table[found[:, place - 2], found[:, place - 1]]
        found[:, place] = torch.where(told[:, place], following, found[:, place])
    return found


def train(family: str, folder: Path, steps: int = 300) -> Path:
    """Save a model of a family that was trained to continue `sequences`.

    Raises:
        RuntimeError: It has not learned to.
    """
    torch.manual_seed(0)
    sizes = _TRAINED | (_TRAINED_WINDOWS if family != "exaone" else {})
    model = build(family, sizes | (_TRAINED_EXPERTS if family == "exaone_moe" else {}), 0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or "ln_" in name:  # those on the outputs would drown the embedding
                weight.fill_(0.3 if family == "exaone4_5" and "layernorm" in name else 1.0)
            else:
                weight.normal_(std=1.0 if "embed" in name else weight.shape[-1] ** -0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for step in range(steps):
        tokens = sequences(32, 48, seed=step + 1)
        logits = model(tokens, use_cache=False).logits[:, 1:-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        tokens = sequences(16, 100, seed=0)
        right = model.eval()(tokens, use_cache=False).logits[:, 1:-1].argmax(-1) == tokens[:, 2:]
    if (share := right.float().mean().item()) < 0.8:
        raise RuntimeError(f"{family} continues {share:.0%} of the sequences after {steps} steps; train it longer")
    model.save_pretrained(folder)
    return folder
