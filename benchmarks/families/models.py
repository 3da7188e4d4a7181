"""Small random models of the families beside EXAONE 4, saved by transformers' own classes (5.24 or later)."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import torch
import transformers

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
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


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


def save(family: str, folder: Path, seed: int, head: str = "ForCausalLM", **changes: Any) -> Path:
    """Save a model of ``exaone``, ``exaone4_5`` or ``exaone_moe`` as transformers does: under its files' names."""
    torch.manual_seed(seed)
    sizes = shape(seed, windows=family != "exaone") | changes
    if family == "exaone":
        step = math.lcm(16, sizes["num_attention_heads"])  # which transformers wants to divide the hidden size
        sizes["hidden_size"] = -(-sizes["hidden_size"] // step) * step
        model = getattr(transformers, f"Llama{head}")(transformers.ExaoneConfig(**sizes))
    elif family == "exaone_moe":
        model = getattr(transformers, f"ExaoneMoe{head}")(transformers.ExaoneMoeConfig(**sparse(seed, sizes)))
    else:
        tied = sizes["tie_word_embeddings"]
        text = {**sizes, "model_type": "exaone4", "tie_word_embeddings": not tied}  # what is said outside decides
        vision = VISION | {"out_hidden_size": sizes["hidden_size"]}
        config = transformers.Exaone4_5_Config(text_config=text, vision_config=vision, tie_word_embeddings=tied)
        model = transformers.Exaone4_5_ForConditionalGeneration(config)
    with torch.no_grad():
        for name, bias in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                bias.normal_(std=0.1)
        for name, weight in model.named_parameters():
            if "norm" in name or "ln_" in name:
                weight.uniform_(0.5, 1.5)
            elif "embed" in name:
                weight.normal_()
            else:
                weight.normal_(std=weight.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    return folder
