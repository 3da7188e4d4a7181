"""A Qwen3 checkpoint in the shape of an EXAONE 4 one, for tools that do not know EXAONE 4.

The two have the same projections, QK norms and two norms a layer, which stand before the sublayers in one and behind
them in the other. So the weights are taken as they are under Qwen3's names, and every product has the same size.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

RENAMED = {"post_attention_layernorm": "input_layernorm", "post_feedforward_layernorm": "post_attention_layernorm"}
KEPT = (
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "rms_norm_eps",
    "tie_word_embeddings",
    "vocab_size",
)


def write_stand_in(checkpoint: Path, out: Path) -> None:
    """Write the checkpoint's weights as a Qwen3 model into the folder ``out``, with its tokenizer."""
    staging = out.with_name(f".{out.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    config = json.loads((checkpoint / "config.json").read_text())
    theta = config["rope_parameters"]["rope_theta"]
    stand_in = {name: config[name] for name in KEPT} | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "rope_theta": theta,
        "torch_dtype": config["dtype"],
        "use_sliding_window": False,
    }
    (staging / "config.json").write_text(json.dumps(stand_in, indent=2))
    for path in (checkpoint / name for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json")):
        shutil.copyfile(path, staging / path.name)
    with (checkpoint / "model.safetensors").open("rb") as source, (staging / "model.safetensors").open("wb") as target:
        header = json.loads(source.read(struct.unpack("<Q", source.read(8))[0]))
        renamed = json.dumps({_name(name): entry for name, entry in header.items()}).encode()
        target.write(struct.pack("<Q", len(renamed)) + renamed)
        shutil.copyfileobj(source, target, 1 << 24)
    staging.rename(out)


def _name(name: str) -> str:
    return ".".join(RENAMED.get(part, part) for part in name.split("."))
