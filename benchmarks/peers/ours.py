"""`exaone-export`'s own artifacts, on its engine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import figures
import onnx_weights

MAX_LENGTH = 4096
GPTQ, TWO_GRAPHS = "int4-gptq", "int4-prompts-int8"
GPTQ_SAMPLES, GPTQ_LENGTH = 16, 512


def export_command(precision: str, checkpoint: Path, out: Path) -> list[str | Path]:
    """The export, as a user types it."""
    program = Path(sys.executable).with_name("exaone-export")
    chosen = ("int4", "--prefill-precision", "int8") if precision == TWO_GRAPHS else (precision,)
    options = ("--target", "ort-cpu", "--precision", *chosen, "--max-length", str(MAX_LENGTH))
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
    """An artifact on the engine that ``generate`` and ``chat`` run, without torch."""

    def __init__(self, folder: Path) -> None:
        from exaone_export.artifact.reader import Artifact
        from exaone_export.runtime.core.engine import Engine
        from exaone_export.runtime.sessions.opening import open_session

        with Artifact.open(folder, weights_later=True).checking_weights() as artifact:
            session = open_session(artifact, threads=figures.threads())
        self._engine = Engine(session)

    def answer(self, tokens: list[int], new: int) -> tuple[float, float]:
        """See `figures.System`."""
        from exaone_export.runtime.core.requests import Request

        generation = self._engine.submit(Request(tokens, new + 1))  # the first token is of the prompt's logits
        given = len(list(generation))
        times = generation.timings
        if given != new + 1 or times.reused or None in (times.begun, times.first_token, times.last_token):
            raise RuntimeError(f"{given} tokens were given in place of {new + 1}, {times.reused} of the prompt reused.")
        return times.first_token - times.begun, times.last_token - times.first_token


def weights(folder: Path) -> int:
    """Bytes of weights that one token reads."""
    return onnx_weights.read_per_token(folder / "model.onnx")


if __name__ == "__main__":
    figures.main(Model, weights, build, ("onnxruntime", "numpy"))
