"""The reference model as a side of a parity check."""

from __future__ import annotations

import torch

from exaone_export.exporter.model import CausalLM, LayerCacheTensors
from exaone_export.runtime.sides import capture_outputs


class ReferenceSide:
    """Runs the reference on its static cache, the prompt as one chunk and then token by token.

    Args:
        model: The reference, with weights.
    """

    def __init__(self, model: CausalLM) -> None:
        self._model = model

    def logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        """See `exaone_export.runtime.parity.Side.logits`."""
        kept = torch.arange(input_ids.numel() - 1, -1, -1)
        return self._step(input_ids, 0, kept, self._model.empty_cache(1))[0]

    def greedy(self, input_ids: torch.Tensor, new_tokens: int) -> list[int]:
        """See `exaone_export.runtime.parity.Side.greedy`."""
        cache, past, chunk, tokens = self._model.empty_cache(1), 0, input_ids, list[int]()
        while len(tokens) < new_tokens:
            logits, cache = self._step(chunk, past, torch.zeros(1, dtype=torch.int64), cache)
            past += chunk.numel()
            chunk = logits[-1].argmax(-1, keepdim=True)
            tokens.append(int(chunk))
        return tokens

    def layers(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        """See `exaone_export.runtime.parity.Side.layers`."""
        with capture_outputs(list(self._model.body.layers)) as captured:
            self.logits(input_ids)
        return captured

    def _step(
        self, input_ids: torch.Tensor, past: int, kept: torch.Tensor, cache: list[LayerCacheTensors]
    ) -> tuple[torch.Tensor, list[LayerCacheTensors]]:
        positions = torch.arange(past, past + input_ids.numel())[None]
        mask = torch.ones(1, past + input_ids.numel(), dtype=torch.int64)
        logits, cache = self._model(input_ids[None], mask, positions, kept, cache)
        return logits[0].float(), cache
