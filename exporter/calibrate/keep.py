"""The choice of layers that have a higher precision: their loss, their size, and the probe that measures KL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F

from exaone_export.calibration.sensitivity import keep_precise
from exaone_export.model.dtypes import DTYPES
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import FINAL_NORM, PROJECTIONS, vocabulary_weight, weight_table
from exaone_export.runtime.parity.divergence import divergences
from exaone_export.targets.precision import PRECISIONS
from exaone_export.targets.recipe import Recipe

from ..checkpoint.checkpoint import Checkpoint
from ..reference.layer_stream import StreamedLayer, embed
from ..reference.weights import read_weight
from .batches import Batch
from .options import Options

__all__ = ["KlProbe", "choose_kept", "layer_bytes"]

_PROBE_TOKENS = 1024
_POSITIONS = 256  # of all samples together, evenly apart, whose distributions are compared
_ROWS = 8192  # of the vocabulary, whose logits are computed at once, because they are in float32
_FLOAT_BYTES, _SCALE_BYTES = 2, 2


def choose_kept(spec: ModelSpec, options: Options, sensitivity: Sequence[float]) -> dict[int, str]:
    """By layer, its higher precision; layers that are not listed have the options' precision."""
    assert options.precision is not None
    quantized = layer_bytes(spec, options.precision)
    cost = dict.fromkeys(range(spec.num_hidden_layers), layer_bytes(spec, options.kept_precision) - quantized)
    kept = keep_precise(dict(enumerate(sensitivity)), cost, options.budget(quantized * spec.num_hidden_layers))
    return dict.fromkeys(sorted(kept), options.kept_precision)


def layer_bytes(spec: ModelSpec, precision: str) -> int:
    """Of a layer's products in a precision; two a weight in the compute type."""
    if precision not in PRECISIONS:
        return _FLOAT_BYTES * sum(found.inputs(spec) * found.outputs(spec) for found in PROJECTIONS.values())
    recipe = Recipe.plan(spec, precision, "float32")
    bits, total = DTYPES[recipe.weights].bits, 0
    for name, projection in PROJECTIONS.items():
        size = projection.inputs(spec)
        groups = size // (recipe.blocks.get(name, 0) or size)
        total += projection.outputs(spec) * (size * bits // 8 + groups * _SCALE_BYTES)
    return total


class KlProbe:
    """The Kullback-Leibler divergence of the model's next token when one layer alone is quantized.

    A few samples pass through the model once as it is, and once for every layer that is quantized alone. All of them
    wait in front of the same layer, so that its weights are read once; the work grows with the layers' square.

    Args:
        checkpoint: The model.
        batches: The data; the first of each slice are taken, up to 1,024 tokens in all or one batch.
        held: `tensors` of an interrupted run.
    """

    def __init__(
        self, checkpoint: Checkpoint, batches: Sequence[Batch], held: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        self._checkpoint = checkpoint
        self._runs: list[list[torch.Tensor]] = [embed(checkpoint, _chosen(batches))]
        if held is not None:
            count, width = 1 + max(int(name.split(".")[1]) for name in held), len(self._runs[0])
            self._runs = [[held[f"probe.{run}.{i}"] for i in range(width)] for run in range(count)]

    def advance(self, streamed: StreamedLayer, simulated: AbstractContextManager[None]) -> None:
        """Pass every run through a layer, and begin the one whose layer this is."""
        with simulated:
            changed = [streamed.forward(hidden)[0] for hidden in self._runs[0]]
        for run in self._runs:
            run[:] = [streamed.forward(hidden)[0] for hidden in run]
        self._runs.append(changed)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """What an interrupted run needs to go on."""
        return {f"probe.{run}.{i}": hidden for run, found in enumerate(self._runs) for i, hidden in enumerate(found)}

    def divergences(self) -> tuple[float, ...]:
        """KL(model, model with that layer quantized) in nats, a mean over positions, for every layer."""
        table, spec = weight_table(self._checkpoint.spec), self._checkpoint.spec
        norm = read_weight(self._checkpoint, table[FINAL_NORM], torch.float32)
        name = table[vocabulary_weight(spec)].names[0]
        head = self._checkpoint.read(name)  # [vocab_size, hidden_size]

        def logits(run: list[torch.Tensor]) -> torch.Tensor:
            kept = [hidden[:, _spread(hidden.shape[1], _POSITIONS // len(run))].flatten(0, 1) for hidden in run]
            states = F.rms_norm(torch.cat(kept), norm.shape, norm, spec.rms_norm_eps)
            return torch.cat([F.linear(states, rows.float()) for rows in head.split(_ROWS)], -1)

        with torch.inference_mode():
            exact = logits(self._runs[0])
            return tuple(divergences(exact, logits(run))[0].mean().item() for run in self._runs[1:])


def _spread(length: int, most: int) -> torch.Tensor:
    return torch.linspace(0, length - 1, min(length, max(most, 1))).round().long()


def _chosen(batches: Sequence[Batch]) -> list[torch.Tensor]:
    """In turn one sample of every slice, shortened to what there is room for."""
    queues: dict[str, list[torch.Tensor]] = {}
    for batch in batches:
        queues.setdefault(batch.slice, []).extend(batch.tokens.split(1))
    found: list[torch.Tensor] = []
    left, longest = _PROBE_TOKENS, max(len(queue) for queue in queues.values())
    for turn in range(longest):
        for queue in queues.values():
            if turn < len(queue) and left > 0:
                tokens = queue[turn][:, : max(math.ceil(_PROBE_TOKENS / (2 * len(queues))), 1)][:, :left]
                found.append(tokens)
                left -= tokens.shape[1]
    return found
