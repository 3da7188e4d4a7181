"""`exaone-export`'s own artifacts, through the calls that a user of `transformers` makes."""

from __future__ import annotations

import time
from pathlib import Path

import figures
import ours


class Model:
    """An artifact."""

    def __init__(self, folder: Path) -> None:
        import torch

        from exaone_export import ExaoneForCausalLM

        torch.set_num_threads(figures.threads())
        self._model = ExaoneForCausalLM.from_pretrained(folder, threads=figures.threads())

    def answer(self, tokens: list[int], new: int) -> tuple[float, float]:
        """See `figures.System`."""
        return answer(self._model, tokens, new)


def answer(model: object, tokens: list[int], new: int) -> tuple[float, float]:
    """Prefill, then decode greedily, with whatever takes the calls of a `transformers` model."""
    import torch

    ids = torch.tensor([tokens])
    with torch.inference_mode():
        start = time.perf_counter()
        step = model(ids, logits_to_keep=1, use_cache=True)
        prefill = time.perf_counter() - start
        start = time.perf_counter()
        token = step.logits[:, -1].argmax(-1, keepdim=True)
        for _ in range(new):
            step = model(token, past_key_values=step.past_key_values, use_cache=True)
            token = step.logits[:, -1].argmax(-1, keepdim=True)
        return prefill, time.perf_counter() - start


if __name__ == "__main__":
    figures.main(Model, ours.weights, ours.build, ("onnxruntime", "torch", "transformers"))
