"""Prompts through the reference model in float32, with one layer's weights in memory at a time.

What is held besides is every prompt's hidden states, so memory does not depend on the number of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from exaone_export.exporter.checkpoint import Checkpoint
from exaone_export.exporter.model import Layer, LayerCacheTensors, Projection
from exaone_export.exporter.rope import rope_tables
from exaone_export.exporter.weights import read_weight, weight_sources
from exaone_export.spec import LayerSpec, ModelSpec

__all__ = ["StreamedLayer", "embed", "stream_layers"]


@dataclass
class StreamedLayer:
    """One layer with its weights, before the prompts pass through it.

    Attributes:
        spec: The architecture.
        index: Of the layer.
        layer: Hooks may be put on its modules before `run`.
        hidden: Every prompt's hidden states, each ``[B, S, hidden_size]`` float32; `run` replaces them.
        rope: Cosine and sine.
        done: Whether the prompts have passed.
    """

    spec: ModelSpec
    index: int
    layer: Layer
    hidden: list[torch.Tensor]
    rope: tuple[torch.Tensor, torch.Tensor]
    done: bool = field(default=False, init=False)

    @property
    def products(self) -> dict[str, Projection]:
        """The layer's products, by the names of `exaone_export.precision.PARTS`."""
        attention, mlp = self.layer.attention, self.layer.mlp
        return {"qkv": attention.qkv, "output": attention.output, "gate_up": mlp.gate_up, "down": mlp.down}

    def forward(
        self, hidden: torch.Tensor, *, keep_cache: bool = False
    ) -> tuple[torch.Tensor, LayerCacheTensors | None]:
        """Pass prompts of one length through the layer.

        Args:
            hidden: ``[B, S, hidden_size]`` float32, without padding.
            keep_cache: Whether keys and values are wanted.

        Returns:
            Hidden states of the same shape; and every position's key, after norm and rotation, and value, each
            ``[B, num_key_value_heads, S, head_dim]``.
        """
        batch, length, _ = hidden.shape
        # The prompts start on an empty cache and none of it is read, so one row does; attention is over both.
        rows = length if keep_cache else 1
        past = torch.zeros(1, self.spec.num_key_value_heads, rows, self.spec.head_dim).expand(batch, -1, -1, -1)
        lengths = (torch.zeros(batch, dtype=torch.int64), torch.full((batch,), length))
        with torch.inference_mode():
            output, present = self.layer(hidden, self.rope, (past, past), lengths)
        return output, present if keep_cache else None

    def run(self, progress: Callable[[], None] | None = None) -> None:
        """Pass every prompt through the layer, one after the other, and report each."""
        for i, hidden in enumerate(self.hidden):
            self.hidden[i], _ = self.forward(hidden)
            if progress is not None:
                progress()
        self.done = True


def stream_layers(
    checkpoint: Checkpoint, prompts: Sequence[torch.Tensor], resumed: tuple[int, list[torch.Tensor]] | None = None
) -> Iterator[StreamedLayer]:
    """Give every layer in turn; the caller runs it before it asks for the next.

    Args:
        checkpoint: The model.
        prompts: ``[B, S]`` int64 each, without padding, so that everything that a layer computes counts.
        resumed: The layer to begin with, and the hidden states that enter it, where an earlier run came so far.

    Yields:
        The layers in order. A layer's weights are dropped when the next one is asked for.

    Raises:
        CheckpointError: A tensor is damaged or holds a value that is not finite.
    """
    spec = checkpoint.spec
    first, hidden = resumed or (0, embed(checkpoint, prompts))
    rope = rope_tables(spec, max([2, *(prompt.shape[1] for prompt in prompts)]))
    for layer_spec in spec.layers[first:]:
        streamed = StreamedLayer(spec, layer_spec.index, _load_layer(checkpoint, layer_spec), hidden, rope)
        yield streamed
        assert streamed.done, f"layer {streamed.index} was not run"
        streamed.layer.to("meta")  # whoever still holds the layer no longer holds its weights


def embed(checkpoint: Checkpoint, prompts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The hidden states that enter the first layer, float32."""
    # The table stays on disk but for the rows that are looked up.
    table = checkpoint.read(weight_sources(checkpoint.spec)["body.embedding"].names[0])
    return [nn.functional.embedding(prompt, table).float() for prompt in prompts]


def _load_layer(checkpoint: Checkpoint, layer_spec: LayerSpec) -> Layer:
    """One layer in float32."""
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
