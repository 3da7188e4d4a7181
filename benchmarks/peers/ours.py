"""`exaone-export`'s own artifacts, through the calls that a user of `transformers` makes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import figures
import onnx_weights

MAX_LENGTH = 4096
GPTQ = "int4-gptq"
GPTQ_SAMPLES, GPTQ_LENGTH = 16, 512


def export_command(precision: str, checkpoint: Path, out: Path) -> list[str | Path]:
    """The export, as a user types it."""
    program = Path(sys.executable).with_name("exaone-export")
    options = ("--target", "ort-cpu", "--precision", precision, "--max-length", str(MAX_LENGTH))
    return [program, "export", checkpoint, out, *options]


def calibrate_command(checkpoint: Path, data: Path, scales: Path) -> list[str | Path]:
    """A calibration for int4 by GPTQ, as a user types it."""
    program = Path(sys.executable).with_name("exaone-export")
    options = ("--precision", "int4", "--signed-scales", "--seq-length", str(GPTQ_LENGTH))
    return [program, "calibrate", checkpoint, scales, "--data", data, *options]


def build(variant: str, checkpoint: Path, out: Path) -> None:
    """Export the checkpoint, calibrated before where the variant says so."""
    if variant != GPTQ:
        subprocess.run(export_command(variant, checkpoint, out), check=True, stdout=subprocess.DEVNULL)
        return
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        data, scales = Path(folder, "data.jsonl"), Path(folder, "scales")
        # What is said takes no time, only how much: a number is a token or more.
        lines = [" ".join(map(str, figures.prompt(seed, GPTQ_LENGTH))) for seed in range(GPTQ_SAMPLES)]
        data.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        subprocess.run(calibrate_command(checkpoint, data, scales), check=True, stdout=subprocess.DEVNULL)
        command = [*export_command("int4", checkpoint, out), "--calibration", scales]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


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


def weights(folder: Path) -> int:
    """Bytes of weights that one token reads."""
    return onnx_weights.read_per_token(folder / "model.onnx")


if __name__ == "__main__":
    figures.main(Model, weights, build, ("onnxruntime", "torch"))
