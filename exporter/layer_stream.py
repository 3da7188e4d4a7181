"""Prompts through the reference model in float32, with one layer's weights in memory at a time.

What is held besides is every prompt's hidden states, so memory does not depend on the number of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from exaone_export.cache_layout import CacheLayout
from exaone_export.exporter.checkpoint import Checkpoint
from exaone_export.exporter.model import Layer, Projection
from exaone_export.exporter.rope import rope_tables
from exaone_export.exporter.weights import read_weight, weight_sources
from exaone_export.spec import LayerSpec

__all__ = ["StreamedLayer", "stream_layers"]


@dataclass
class StreamedLayer:
    """One layer with its weights, before the prompts pass through it.

    Attributes:
        index: Of the layer.
        layer: Hooks may be put on its modules before `run`.
        hidden: Every prompt's hidden states, each ``[B, S, hidden_size]`` float32; `run` replaces them.
        rope: Cosine and sine.
        past: An empty cache's key or value, ``[1, num_key_value_heads, C, head_dim]``.
        done: Whether the prompts have passed.
    """

    index: int
    layer: Layer
    hidden: list[torch.Tensor]
    rope: tuple[torch.Tensor, torch.Tensor]
    past: torch.Tensor
    done: bool = field(default=False, init=False)

    @property
    def products(self) -> dict[str, Projection]:
        """The layer's products, by the names of `exaone_export.precision.PARTS`."""
        attention, mlp = self.layer.attention, self.layer.mlp
        return {"qkv": attention.qkv, "output": attention.output, "gate_up": mlp.gate_up, "down": mlp.down}

    def run(self, progress: Callable[[], None] | None = None) -> None:
        """Pass every prompt through the layer, one after the other, and report each."""
        with torch.inference_mode():
            for i, hidden in enumerate(self.hidden):
                batch, length, _ = hidden.shape
                past = self.past.expand(batch, -1, -1, -1)
                lengths = (torch.zeros(batch, dtype=torch.int64), torch.full((batch,), length))
                self.hidden[i], _ = self.layer(hidden, self.rope, (past, past), lengths)
                if progress is not None:
                    progress()
        self.done = True


def stream_layers(checkpoint: Checkpoint, prompts: Sequence[torch.Tensor]) -> Iterator[StreamedLayer]:
    """Give every layer in turn; the caller runs it before it asks for the next.

    Args:
        checkpoint: The model.
        prompts: ``[B, S]`` int64 each, without padding, so that everything that a layer computes counts.

    Yields:
        The layers in order. A layer's weights are dropped when the next one is asked for.

    Raises:
        CheckpointError: A tensor is damaged or holds a value that is not finite.
    """
    spec = checkpoint.spec
    longest = max([2, *(prompt.shape[1] for prompt in prompts)])
    layout = CacheLayout.plan(spec.layers, longest, slack=0)
    rope, hidden = rope_tables(spec, longest), _embed(checkpoint, prompts)
    for layer_spec, cache in zip(spec.layers, layout.layers, strict=True):
        past = torch.zeros(1, spec.num_key_value_heads, cache.rows, spec.head_dim)
        streamed = StreamedLayer(layer_spec.index, _load_layer(checkpoint, layer_spec), hidden, rope, past)
        yield streamed
        assert streamed.done, f"layer {streamed.index} was not run"
        streamed.layer.to("meta")  # whoever still holds the layer no longer holds its weights


def _embed(checkpoint: Checkpoint, prompts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    # The table stays on disk but for the rows that are looked up.
    table = checkpoint.read(weight_sources(checkpoint.spec)["body.embedding"].names[0])
    return [nn.functional.embedding(prompt, table).float() for prompt in prompts]


def _load_layer(checkpoint: Checkpoint, layer_spec: LayerSpec) -> Layer:
    with torch.device("meta"):
        layer = Layer(checkpoint.spec, layer_spec, torch.float32)
    prefix = f"body.layers.{layer_spec.index}."
    state = {
        name.removeprefix(prefix): read_weight(checkpoint, source, torch.float32)
        for name, source in weight_sources(checkpoint.spec).items()
        if name.startswith(prefix)
    }
    layer.load_state_dict(state, strict=True, assign=True)
    return layer
