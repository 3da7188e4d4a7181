"""The sides of a parity check that the runtime can run: a model of transformers, and an artifact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from exaone_export.artifact.reader import Artifact

from ..mirror.generation_defaults import no_defaults
from .compare import Side


class TorchSide:
    """A transformers causal language model as a side.

    Args:
        model: In evaluation mode.
        layers: The modules whose outputs are the layers' outputs.
    """

    def __init__(self, model: Any, layers: Sequence[torch.nn.Module]) -> None:
        self._model, self._layers = model, layers

    def logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        """See `Side.logits`."""
        return self._model(input_ids[None], use_cache=False).logits[0].float()

    def greedy(self, input_ids: torch.Tensor, new_tokens: int) -> list[int]:
        """See `Side.greedy`."""
        # transformers' sliding cache keeps the newest W - 1 keys as [-(W - 1):], which is all of them where W is 1.
        broken_cache = self._model.config.sliding_window == 1
        return greedy_tokens(self._model, input_ids, new_tokens, use_cache=not broken_cache)

    def layers(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        """See `Side.layers`."""
        with capture_outputs(self._layers) as captured:
            self.logits(input_ids)
        return captured


@contextmanager
def capture_outputs(modules: Sequence[torch.nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Collect what each module returns for the first row, ``[S, hidden_size]`` float32, in the order of the calls."""
    captured: list[torch.Tensor] = []

    def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        captured.append(hidden[0].float())

    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def greedy_tokens(model: Any, input_ids: torch.Tensor, new_tokens: int, *, use_cache: bool = True) -> list[int]:
    """Exactly ``new_tokens`` tokens of a model's ``generate()``, independent of its generation config."""
    with no_defaults(model):
        output = model.generate(
            input_ids[None],
            attention_mask=torch.ones_like(input_ids)[None],
            do_sample=False,
            use_cache=use_cache,
            max_new_tokens=new_tokens,
            eos_token_id=model.config.vocab_size,  # a token that does not exist
            pad_token_id=0,
        )
    tokens: list[int] = output[0, input_ids.numel() :].tolist()
    return tokens


@contextmanager
def artifact_side(artifact: Artifact | Path) -> Iterator[Side]:
    """Load an artifact, opened or not, with this package's runtime."""
    from ..mirror.causal_lm import ExaoneForCausalLM

    opened = Artifact.open(artifact) if isinstance(artifact, Path) else artifact
    with ExaoneForCausalLM.from_artifact(opened) as model:
        yield _ArtifactSide(opened, model)


class _ArtifactSide:
    def __init__(self, artifact: Artifact, model: Any) -> None:
        self._artifact, self._model = artifact, model

    def logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model(input_ids[None]).logits[0].float().cpu()
        return logits

    def greedy(self, input_ids: torch.Tensor, new_tokens: int) -> list[int]:
        return greedy_tokens(self._model, input_ids, new_tokens)

    def layers(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        from ..sessions.layer_outputs import layer_outputs

        return [torch.from_numpy(output) for output in layer_outputs(self._artifact, input_ids.numpy())]
