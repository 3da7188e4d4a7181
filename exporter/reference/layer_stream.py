"""Run prompts through the reference model in float32, with one layer's weights, or some of their rows, in memory.

Beside them, every prompt's hidden states are in memory, so that memory does not depend on the number of layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn

from exaone_export.model.spec import LayerSpec, ModelSpec
from exaone_export.model.tensors import EMBEDDING, PROJECTIONS, Weight, layer_prefix, weight_table

from ..checkpoint.checkpoint import Checkpoint
from .experts import Experts, route
from .model import Layer, LayerCacheTensors, Projection
from .rope import rope_tables
from .weights import read_weight, stack, weight_rows

__all__ = ["PassingExperts", "StreamedLayer", "embed", "stream_layers"]


@dataclass
class StreamedLayer:
    """One layer with its weights, and the prompts' hidden states.

    Attributes:
        spec: The architecture.
        index: Of the layer.
        layer: Hooks may be put on its modules before `run`.
        hidden: Every prompt's hidden states, each ``[B, S, hidden_size]`` float32; `run` replaces them.
        rope: Cosine and sine.
        done: Whether the prompts have run through the layer.
    """

    spec: ModelSpec
    index: int
    layer: Layer
    hidden: list[torch.Tensor]
    rope: tuple[torch.Tensor, torch.Tensor]
    done: bool = field(default=False, init=False)

    @property
    def products(self) -> dict[str, Projection]:
        """The layer's products, by the names of `exaone_export.model.tensors.PROJECTIONS`."""
        return {
            name: cast(Projection, self.layer.get_submodule(projection.module))
            for name, projection in PROJECTIONS.items()
        }

    def forward(
        self, hidden: torch.Tensor, *, keep_cache: bool = False
    ) -> tuple[torch.Tensor, LayerCacheTensors | None]:
        """Run prompts of one length through the layer.

        Args:
            hidden: ``[B, S, hidden_size]`` float32, without padding.
            keep_cache: Whether to return keys and values.

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

    def run(self) -> None:
        """Run every prompt through the layer, one after the other."""
        for i, hidden in enumerate(self.hidden):
            self.hidden[i], _ = self.forward(hidden)
        self.done = True


class PassingProjection(Projection):
    """A projection that reads its weight at every call, some output channels at a time.

    For one prompt that is faster than loading the weight, which would have to be concatenated and transposed first.
    """

    def __init__(self, checkpoint: Checkpoint, weight: Weight, replaced: Projection) -> None:
        in_features, out_features = replaced.weight.shape
        super().__init__(in_features, out_features, torch.float32)
        self._checkpoint, self._source = checkpoint, weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` to ``[..., out]`` float32; raises CheckpointError as `read_weight` does."""
        output = x.new_empty(*x.shape[:-1], self.weight.shape[1])
        done = 0
        for part in weight_rows(self._checkpoint, self._source, torch.float32):
            output[..., done : done + len(part)] = nn.functional.linear(x, part)
            done += len(part)
            del part  # before the next is read
        return output


class PassingExperts(Experts):
    """Experts that are read at every call, each that some token has chosen, one after the other.

    Attributes:
        largest: Magnitude of what the last call's experts computed, a scalar; NaN where something was.
    """

    def __init__(self, checkpoint: Checkpoint, gate_up: Weight, down: Weight, replaced: Experts) -> None:
        nn.Module.__init__(self)
        self.routing, self.largest = replaced.routing, torch.tensor(0.0)
        self._checkpoint, self._sources = checkpoint, (gate_up.each, down.each)

    def forward(self, hidden: torch.Tensor, router: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """``[B, S, H]`` float32 to the same; raises CheckpointError as `read_weight` does."""
        tokens = hidden.flatten(0, 1)
        indices, weights = route(tokens, router, bias, *self.routing)
        output, self.largest = torch.zeros_like(tokens), torch.tensor(0.0)
        for expert in indices.unique().tolist():
            at, which = torch.where(indices == expert)
            mixed = tokens[at]
            for source, gates in zip(self._sources, (True, False), strict=True):
                mixed = mixed @ read_weight(self._checkpoint, source[expert], torch.float32)
                self._see(mixed)
                if gates:
                    gate, up = mixed.chunk(2, -1)
                    mixed = nn.functional.silu(gate) * up
                    self._see(mixed)
            output.index_add_(0, at, mixed * weights[at, which, None])
        return output.view_as(hidden)

    def _see(self, values: torch.Tensor) -> None:
        self.largest = torch.maximum(self.largest, values.abs().max())


def stream_layers(
    checkpoint: Checkpoint,
    prompts: Sequence[torch.Tensor],
    resumed: tuple[int, list[torch.Tensor]] | None = None,
    *,
    hold: bool = True,
) -> Iterator[StreamedLayer]:
    """Yield every layer in turn; the caller runs it before the next one is loaded.

    Args:
        checkpoint: The model.
        prompts: ``[B, S]`` int64 each, without padding, so that every value that a layer computes is of a real token.
        resumed: The layer to begin with and its input hidden states, to continue an interrupted run.
        hold: Whether to load a layer's weights; otherwise its projections are `PassingProjection`, and its experts
            `PassingExperts`.

    Yields:
        The layers in order. A layer's weights are freed when the next one is requested.

    Raises:
        CheckpointError: A tensor is damaged or holds a value that is not finite.
    """
    spec = checkpoint.spec
    first, hidden = resumed or (0, embed(checkpoint, prompts))
    rope = rope_tables(spec, max([2, *(prompt.shape[1] for prompt in prompts)]))
    for layer_spec in spec.layers[first:]:
        streamed = StreamedLayer(spec, layer_spec.index, _load_layer(checkpoint, layer_spec, hold), hidden, rope)
        yield streamed
        assert streamed.done, f"layer {streamed.index} was not run"
        streamed.layer.to("meta")  # a reference to the layer no longer keeps its weights


def embed(checkpoint: Checkpoint, prompts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Input hidden states of the first layer, float32."""
    tokens = torch.unique(torch.cat([prompt.flatten() for prompt in prompts]))

    def looked_up() -> Iterator[torch.Tensor]:
        done = 0
        for part in weight_rows(checkpoint, weight_table(checkpoint.spec)[EMBEDDING], torch.float32):
            first, last = torch.searchsorted(tokens, torch.tensor([done, done + len(part)])).tolist()
            yield part[tokens[first:last] - done]
            done += len(part)

    table = stack(looked_up(), (len(tokens), checkpoint.spec.hidden_size), torch.float32)
    return [nn.functional.embedding(torch.searchsorted(tokens, prompt), table) for prompt in prompts]


def _load_layer(checkpoint: Checkpoint, layer_spec: LayerSpec, hold: bool) -> Layer:
    """One layer in float32."""
    prefix = layer_prefix(layer_spec.index)
    sources = {
        name.removeprefix(prefix): weight
        for name, weight in weight_table(checkpoint.spec).items()
        if name.startswith(prefix)
    }
    with torch.device("meta"):
        layer = Layer(checkpoint.spec, layer_spec, torch.float32)
        for name, module in [] if hold else list(layer.named_modules()):
            if isinstance(module, Projection):
                layer.set_submodule(name, PassingProjection(checkpoint, sources.pop(f"{name}.weight"), module))
            elif isinstance(module, Experts):
                gate_up, down = (sources.pop(f"{name}.{product}") for product in ("gate_up", "down"))
                layer.set_submodule(name, PassingExperts(checkpoint, gate_up, down, module))
    state = {name: read_weight(checkpoint, source, torch.float32) for name, source in sources.items()}
    left = layer.load_state_dict(state, strict=hold, assign=True)
    assert not left.unexpected_keys
    return layer
