"""The sides of a parity check that run a checkpoint: the reference model, and transformers' model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from exaone_export.model.tensors import expected_tensors
from exaone_export.runtime.parity.compare import Side
from exaone_export.runtime.parity.sides import TorchSide, capture_outputs

from ..checkpoint.checkpoint import Checkpoint
from .model import LayerCacheTensors, Reference


@contextmanager
def transformers_side(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Iterator[Side]:
    """The transformers model with a checkpoint's weights.

    Config and weights are those that `Checkpoint` has read, so that every spelling and every quantized form has a
    baseline without the program that made it. A quantized checkpoint runs with dequantized weights and unquantized
    activations.

    Raises:
        CheckpointError: A tensor is damaged or holds a value that is not finite.
    """
    from transformers import Exaone4Config, Exaone4ForCausalLM

    config = Exaone4Config(**checkpoint.spec.to_config(), name_or_path=checkpoint.name)
    state = {name: checkpoint.read(name) for name in expected_tensors(checkpoint.spec)}
    model = Exaone4ForCausalLM.from_pretrained(None, config=config, state_dict=state, dtype=dtype)
    yield TorchSide(model, model.model.layers)


class ReferenceSide:
    """Runs the reference on its static cache, the prompt as one chunk and then token by token.

    Args:
        model: The reference, with weights.
    """

    def __init__(self, model: Reference) -> None:
        self._model = model

    def logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        """See `exaone_export.runtime.parity.compare.Side.logits`."""
        num_logits = torch.arange(input_ids.numel() - 1, -1, -1)
        return self._step(input_ids, 0, num_logits, self._model.empty_cache(1))[0]

    def greedy(self, input_ids: torch.Tensor, new_tokens: int) -> list[int]:
        """See `exaone_export.runtime.parity.compare.Side.greedy`."""
        cache, past, chunk, tokens = self._model.empty_cache(1), 0, input_ids, list[int]()
        while len(tokens) < new_tokens:
            logits, cache = self._step(chunk, past, torch.zeros(1, dtype=torch.int64), cache)
            past += chunk.numel()
            chunk = logits[-1].argmax(-1, keepdim=True)
            tokens.append(int(chunk))
        return tokens

    def layers(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        """See `exaone_export.runtime.parity.compare.Side.layers`."""
        with capture_outputs(list(self._model.body.layers)) as captured:
            self.logits(input_ids)
        return captured

    def _step(
        self, input_ids: torch.Tensor, past: int, num_logits: torch.Tensor, cache: list[LayerCacheTensors]
    ) -> tuple[torch.Tensor, list[LayerCacheTensors]]:
        positions = torch.arange(past, past + input_ids.numel())[None]
        mask = torch.ones(1, past + input_ids.numel(), dtype=torch.int64)
        (logits,), cache = self._model(input_ids[None], mask, positions, num_logits, cache)
        return logits[0].float(), cache
