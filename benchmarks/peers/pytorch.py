"""PyTorch through `transformers`, with the model class of EXAONE 4 itself."""

from __future__ import annotations

import json
from pathlib import Path

import figures
import ours_mirror

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def build(variant: str, checkpoint: Path, out: Path) -> None:
    """Nothing is converted: say which checkpoint is opened, and in what type."""
    out.mkdir()
    (out / "how.json").write_text(json.dumps({"checkpoint": str(checkpoint.resolve()), "dtype": DTYPES[variant]}))


class Model:
    """A checkpoint in eager mode, with the attention that `transformers` chooses."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import Exaone4ForCausalLM

        torch.set_num_threads(figures.threads())
        how = json.loads((folder / "how.json").read_text())
        self._model = Exaone4ForCausalLM.from_pretrained(how["checkpoint"], dtype=getattr(torch, how["dtype"]))

    def answer(self, tokens: list[int], new: int) -> tuple[float, float]:
        """See `figures.System`."""
        return ours_mirror.answer(self._model, tokens, new)


def weights(folder: Path) -> int:
    """Bytes of weights that one token reads; the tied table is one tensor, read whole by the vocabulary projection."""
    how = json.loads((folder / "how.json").read_text())
    stored = Path(how["checkpoint"], "model.safetensors").stat().st_size
    return stored * (2 if how["dtype"] == "float32" else 1)


if __name__ == "__main__":
    figures.main(Model, weights, build, ("torch", "transformers"))
