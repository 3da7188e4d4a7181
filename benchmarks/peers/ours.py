"""`exaone-export`'s own artifacts, through the calls that a user of `transformers` makes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import figures
import onnx_weights

MAX_LENGTH = 4096


def export_command(precision: str, checkpoint: Path, out: Path) -> list[str | Path]:
    """The export, as a user types it."""
    program = Path(sys.executable).with_name("exaone-export")
    options = ("--target", "ort-cpu", "--precision", precision, "--max-length", str(MAX_LENGTH))
    return [program, "export", checkpoint, out, *options]


def build(precision: str, checkpoint: Path, out: Path) -> None:
    """Export the checkpoint."""
    subprocess.run(export_command(precision, checkpoint, out), check=True, stdout=subprocess.DEVNULL)


class Model:
    """An artifact."""

    def __init__(self, folder: Path) -> None:
        import torch

        from exaone_export.runtime.generation import ExaoneForCausalLM

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


def weights(folder: Path) -> int:
    """Bytes of weights that one token reads."""
    return onnx_weights.read_per_token(folder / "model.onnx")


if __name__ == "__main__":
    figures.main(Model, weights, build, ("onnxruntime", "torch"))
