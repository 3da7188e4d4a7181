"""Whether a model's activations fit float16, measured on the reference in float32, one layer in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from exaone_export.errors import ConfigError
from exaone_export.progress import Progress, Step
from exaone_export.targets.precision import KEPT_FLOAT

from ..calibrate.scales.file import ScalesFile
from ..checkpoint.checkpoint import Checkpoint
from .layer_stream import PassingExperts, StreamedLayer, stream_layers
from .model import Norm, Projection
from .weights import COMPUTE_WIDER

FLOAT16_LIMIT = 3e4
"""Largest magnitude that is allowed in float16, half of its maximum: a longer prompt may have larger activations."""

_PROMPT_TOKENS = 64


def largest_activations(checkpoint: Checkpoint, input_ids: torch.Tensor) -> Iterator[float]:
    """Largest output magnitude of each layer's projections, norms, gated products and residual sums.

    Args:
        checkpoint: The model.
        input_ids: ``[B, S]`` int64.

    Yields:
        One number a layer.
    """
    for streamed in stream_layers(checkpoint, [input_ids], hold=False):
        seen = _watch(streamed)
        streamed.run()
        yield torch.stack([*seen, streamed.hidden[0].abs().max()]).max().item()  # Python's max would lose a NaN


def refuse_float16_overflow(checkpoint: Checkpoint, *, seed: int = 0, progress: Progress | None = None) -> None:
    """Run random tokens through the model and refuse float16 if an activation exceeds `FLOAT16_LIMIT`.

    Args:
        checkpoint: The model.
        seed: Of the tokens.
        progress: Told how many layers have run.

    Raises:
        ConfigError: Naming the layer and its largest activation.
    """
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(checkpoint.spec.vocab_size, (1, _PROMPT_TOKENS), generator=generator)
    step = Step(progress, "check range", checkpoint.spec.num_hidden_layers)
    step(0)
    for index, largest in enumerate(largest_activations(checkpoint, input_ids)):
        _refuse(index, largest)
        step()


def refuse_float16_ranges(scales: ScalesFile) -> None:
    """Refuse float16 if calibration has seen an input above `FLOAT16_LIMIT` of a projection in the compute type.

    These are the attention's output and the gated product; the others take the residual stream, which is float32 and is
    rounded to the recipe's format from there.

    Raises:
        ConfigError: Naming the layer and its largest activation.
    """
    for index, parts in enumerate(scales.ranges):
        for part in ("output", "down"):
            reach, factor = parts[part].channel_maximum, scales.smoothing(index, part)
            if factor is not None and scales.kept.get(index) == KEPT_FLOAT:
                reach = reach * factor  # what is kept in the compute type is not smoothed
            _refuse(index, reach.max().item())


def _refuse(layer: int, largest: float) -> None:
    # Written so that a NaN is refused.
    if not largest <= FLOAT16_LIMIT:
        raise ConfigError(
            f"layer {layer} has activations up to {largest:.3g}, and float16 is allowed up to {FLOAT16_LIMIT:.0f}: "
            f"{COMPUTE_WIDER}."
        )


def _watch(streamed: StreamedLayer) -> list[torch.Tensor]:
    """Collect the largest output magnitudes of the layer's projections and norms, and input magnitude of ``down``.

    The gated product ``silu(gate) * up`` may overflow although neither of its factors does.
    """
    seen: list[torch.Tensor] = []

    def watch_output(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        seen.append(output.abs().max())

    def watch_input(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0].abs().max())

    def watch_experts(module: nn.Module, _inputs: object, _output: object) -> None:
        assert isinstance(module, PassingExperts)
        seen.append(module.largest)

    for module in streamed.layer.modules():
        if isinstance(module, PassingExperts):
            module.register_forward_hook(watch_experts)
        if isinstance(module, Projection | Norm):
            module.register_forward_hook(watch_output)
    streamed.products["down"].register_forward_pre_hook(watch_input)
    return seen
