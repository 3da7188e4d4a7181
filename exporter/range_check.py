"""Whether a model's activations fit float16, measured on the reference in float32, one layer in memory at a time."""

from __future__ import annotations

import torch
from torch import nn

from exaone_export.cache_layout import CacheLayout
from exaone_export.errors import ConfigError
from exaone_export.exporter.checkpoint import Checkpoint
from exaone_export.exporter.model import Layer, Norm, Projection
from exaone_export.exporter.rope import rope_tables
from exaone_export.exporter.weights import read_weight, weight_sources

FLOAT16_LIMIT = 3e4
"""Largest magnitude that is let into float16, half of what it holds: a longer prompt may reach further."""

_PROMPT_TOKENS = 64


def largest_activations(checkpoint: Checkpoint, input_ids: torch.Tensor) -> list[float]:
    """Largest magnitude that any projection, norm or residual sum of each layer puts out.

    Args:
        checkpoint: The model.
        input_ids: ``[B, S]`` int64.

    Returns:
        One figure a layer.
    """
    spec, sources = checkpoint.spec, weight_sources(checkpoint.spec)
    batch, length = input_ids.shape
    layout = CacheLayout.plan(spec.layers, max(length, 2), slack=0)
    rope = rope_tables(spec, max(length, 2))
    lengths = (torch.zeros(batch, dtype=torch.int64), torch.full((batch,), length))
    embedding = read_weight(checkpoint, sources["body.embedding"], torch.float32)
    hidden = nn.functional.embedding(input_ids, embedding)
    del embedding
    largest = []
    for layer_spec, cache in zip(spec.layers, layout.layers, strict=True):
        with torch.device("meta"):
            layer = Layer(spec, layer_spec)
        prefix = f"body.layers.{layer_spec.index}."
        state = {
            name.removeprefix(prefix): read_weight(checkpoint, source, torch.float32)
            for name, source in sources.items()
            if name.startswith(prefix)
        }
        layer.load_state_dict(state, strict=True, assign=True)
        seen = _watch(layer)
        past = torch.zeros(batch, spec.num_key_value_heads, cache.capacity, spec.head_dim)
        with torch.inference_mode():
            hidden, _ = layer(hidden, rope, (past, past), lengths)
        largest.append(max(*seen, hidden.abs().max().item()))
    return largest


def refuse_float16_overflow(checkpoint: Checkpoint, *, seed: int = 0) -> None:
    """Run random tokens through the model and refuse float16 where an activation passes `FLOAT16_LIMIT`.

    Raises:
        ConfigError: Naming the layer and its largest activation.
    """
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(checkpoint.spec.vocab_size, (1, _PROMPT_TOKENS), generator=generator)
    for index, largest in enumerate(largest_activations(checkpoint, input_ids)):
        # Written so that a NaN is refused.
        if not largest <= FLOAT16_LIMIT:
            raise ConfigError(
                f"layer {index} reaches {largest:.3g}, and float16 is used up to {FLOAT16_LIMIT:.0f} only: "
                f"pass --precision float32 or bfloat16."
            )


def _watch(layer: Layer) -> list[float]:
    """Collect the largest magnitude of everything that the layer's products and norms put out."""
    seen: list[float] = []

    def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        seen.append(output.abs().max().item())

    for module in layer.modules():
        if isinstance(module, Projection | Norm):
            module.register_forward_hook(hook)
    return seen
