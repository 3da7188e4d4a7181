"""The sides of a parity check that the runtime can run: a model of transformers, and an artifact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from exaone_export.artifact.reader import Artifact
from exaone_export.model.heads import CAUSAL_LM_HEAD, SEQUENCE_CLASSIFICATION, HeadSpec

from ..mirror.generation_defaults import no_defaults
from ..sessions.prefill.session import TwoGraphSession
from .compare import Side


class TorchSide:
    """A transformers model of any head as a side.

    Args:
        model: In evaluation mode.
        layers: The modules whose outputs are the layers' outputs.
        head: What stands on the model.
    """

    def __init__(self, model: Any, layers: Sequence[torch.nn.Module], head: HeadSpec = CAUSAL_LM_HEAD) -> None:
        self._model, self._layers, self._head = model, layers, head

    def outputs(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """See `Side.outputs`."""
        # transformers gives a sequence's logits at one token alone, and computes them at every one.
        pooled = self._head.kind == SEQUENCE_CLASSIFICATION
        with capture_outputs([self._model.score] if pooled else []) as captured:
            found = self._model(input_ids[None], use_cache=False, output_hidden_states=self._head.hidden_states)
        if pooled:
            return {"logits": captured[0]}
        outputs = {name: found[name][0].float() for name in self._head.outputs}
        inner = found.hidden_states[:-1] if self._head.hidden_states else ()
        return outputs | {f"hidden_states.{i}": hidden[0].float() for i, hidden in enumerate(inner)}

    def greedy(self, input_ids: torch.Tensor, new_tokens: int) -> list[int]:
        """See `Side.greedy`."""
        # transformers' sliding cache keeps the newest W - 1 keys as [-(W - 1):], which is all of them where W is 1.
        broken_cache = getattr(self._model.config, "sliding_window", None) == 1
        return greedy_tokens(self._model, input_ids, new_tokens, use_cache=not broken_cache)

    def layers(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        """See `Side.layers`."""
        with capture_outputs(self._layers) as captured:
            self.outputs(input_ids)
        return captured


@contextmanager
def capture_outputs(modules: Sequence[torch.nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Collect what each module returns for the first row, ``[S, …]`` float32, in the order of the calls."""
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
    from ..mirror.heads import open_model

    opened = Artifact.open(artifact) if isinstance(artifact, Path) else artifact
    with open_model(opened) as model:
        yield _ArtifactSide(opened, model)


class _ArtifactSide:
    def __init__(self, artifact: Artifact, model: Any) -> None:
        self._artifact, self._model = artifact, model

    def outputs(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        found = zip(self._model.session.output_shapes, self._model.outputs(input_ids[None]), strict=True)
        return {name: output[0].float().cpu() for name, output in found}

    def answered(self, input_ids: torch.Tensor, prompt: int) -> dict[str, torch.Tensor]:
        model = self._model
        if not isinstance(model.session, TwoGraphSession):
            return self.outputs(input_ids)
        both, cache = model.session, model.new_cache()
        model.session = both.prompts
        try:
            parts = [model.outputs(input_ids[None, :prompt], cache=cache)]
        finally:
            model.session = both
        # The outputs of all are wanted, which those for answers give.
        parts.append(model.outputs(input_ids[None, prompt:], cache=cache))
        joined = (torch.cat(found, 1)[0].float() for found in zip(*parts, strict=True))
        return dict(zip(both.output_shapes, joined, strict=True))

    def greedy(self, input_ids: torch.Tensor, new_tokens: int) -> list[int]:
        return greedy_tokens(self._model, input_ids, new_tokens)

    def layers(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        from .layer_outputs import layer_outputs

        return [torch.from_numpy(output) for output in layer_outputs(self._artifact, input_ids.numpy())]
