"""The sides of a parity check that run a checkpoint: the reference model, and transformers' model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from exaone_export.model.heads import HIDDEN_STATES
from exaone_export.model.tensors import expected_tensors
from exaone_export.runtime.mirror.config import transformers_config
from exaone_export.runtime.parity.compare import Side
from exaone_export.runtime.parity.sides import TorchSide, capture_outputs

from ..checkpoint.checkpoint import Checkpoint
from .model import LayerCacheTensors, Reference


@contextmanager
def transformers_side(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Iterator[Side]:
    """The transformers model of a checkpoint's head, with its weights.

    Config and weights are those that `Checkpoint` has read, so that every spelling and every quantized form has a
    baseline without the program that made it. A quantized checkpoint runs with dequantized weights and unquantized
    activations.

    Raises:
        CheckpointError: A tensor is damaged or holds a value that is not finite.
    """
    import transformers

    spec = checkpoint.spec
    config = transformers_config(spec, checkpoint.name)
    kind = getattr(transformers, spec.family.transformers_class(spec.head.kind))
    prefix = "" if spec.head.kind == HIDDEN_STATES else f"{kind.base_model_prefix}."
    state = {
        prefix + name.removeprefix("model.") if name.startswith("model.") else name: checkpoint.read(name)
        for name in expected_tensors(spec)
    }
    model, loaded = kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype, output_loading_info=True)
    assert not any(loaded.values()), f"transformers' {kind.__name__} has other tensors: {loaded}"
    yield TorchSide(model, model.base_model.layers, spec.head)


class ReferenceSide:
    """Runs the reference on its static cache, the prompt as one chunk and then token by token.

    Args:
        model: The reference, with weights.
    """

    def __init__(self, model: Reference) -> None:
        self._model, self._layers = model, list(model.body.layers)

    def outputs(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """See `exaone_export.runtime.parity.compare.Side.outputs`."""
        num_logits = torch.arange(input_ids.numel() - 1, -1, -1)
        inner = self._model.spec.head.hidden_states
        with capture_outputs(self._layers if inner else []) as layers:
            outputs, _ = self._step(input_ids, 0, num_logits, self._model.empty_cache(1))
        if not inner:
            return outputs
        inputs = [self._model.body.embedding[input_ids].float(), *layers[:-1]]  # what every layer takes in
        return outputs | {f"hidden_states.{i}": hidden for i, hidden in enumerate(inputs)}

    def greedy(self, input_ids: torch.Tensor, new_tokens: int) -> list[int]:
        """See `exaone_export.runtime.parity.compare.Side.greedy`."""
        cache, past, chunk, tokens = self._model.empty_cache(1), 0, input_ids, list[int]()
        while len(tokens) < new_tokens:
            outputs, cache = self._step(chunk, past, torch.zeros(1, dtype=torch.int64), cache)
            past += chunk.numel()
            chunk = outputs["logits"][-1].argmax(-1, keepdim=True)
            tokens.append(int(chunk))
        return tokens

    def layers(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        """See `exaone_export.runtime.parity.compare.Side.layers`."""
        with capture_outputs(self._layers) as captured:
            self.outputs(input_ids)
        return captured

    def _step(
        self, input_ids: torch.Tensor, past: int, num_logits: torch.Tensor, cache: list[LayerCacheTensors]
    ) -> tuple[dict[str, torch.Tensor], list[LayerCacheTensors]]:
        positions = torch.arange(past, past + input_ids.numel())[None]
        mask = torch.ones(1, past + input_ids.numel(), dtype=torch.int64)
        found, cache = self._model(input_ids[None], mask, positions, num_logits, cache)
        outputs = zip(self._model.spec.head.outputs, found, strict=True)
        return {name: output[0].float() for name, output in outputs}, cache
