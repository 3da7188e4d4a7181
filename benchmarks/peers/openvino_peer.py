"""OpenVINO GenAI: exported by optimum-intel, weights of 4 bits, asymmetric, in groups of 128."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import figures

VARIANTS = {
    "int4": ("--weight-format", "int4", "--group-size", "128", "--ratio", "1.0"),
    "int8": ("--weight-format", "int8"),
}


def build(variant: str, checkpoint: Path, out: Path) -> None:
    """Export the checkpoint, as transformers 4.57 reads it."""
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        source = Path(folder)
        (source / "model.safetensors").symlink_to((checkpoint / "model.safetensors").resolve())
        for name in ("tokenizer.json", "generation_config.json"):
            shutil.copyfile(checkpoint / name, source / name)
        config = json.loads((checkpoint / "config.json").read_text())
        rope = config.pop("rope_parameters")
        config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
        (source / "config.json").write_text(json.dumps(config))
        tokenizer = json.loads((checkpoint / "tokenizer_config.json").read_text())
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
        (source / "tokenizer_config.json").write_text(json.dumps(tokenizer))
        command = [Path(sys.executable).with_name("optimum-cli"), "export", "openvino", "--model", source]
        subprocess.run([*command, "--task", "text-generation-with-past", *VARIANTS[variant], out], check=True)


class Model:
    """A pipeline; its own clock says when the first token was there."""

    def __init__(self, folder: Path) -> None:
        import openvino
        import openvino_genai

        self._module, self._tensor = openvino_genai, openvino.Tensor
        self._pipeline = openvino_genai.LLMPipeline(folder, "CPU", INFERENCE_NUM_THREADS=figures.threads())

    def answer(self, tokens: list[int], new: int) -> tuple[float, float]:
        """See `figures.System`."""
        import numpy as np

        config = self._module.GenerationConfig(max_new_tokens=new + 1, ignore_eos=True, do_sample=False)
        ids = np.array([tokens], dtype=np.int64)
        inputs = self._module.TokenizedInputs(self._tensor(ids), self._tensor(np.ones_like(ids)))
        result = self._pipeline.generate(inputs, config)
        metrics = result.perf_metrics
        if metrics.get_num_generated_tokens() != new + 1 or metrics.get_num_input_tokens() != len(tokens):
            raise RuntimeError(f"{metrics.get_num_generated_tokens()} tokens were generated in place of {new + 1}.")
        return metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean / 1e3 * new


def weights(folder: Path) -> int:
    """Bytes of weights that one token reads: all, because the tied table is stored once and the projection reads it."""
    return (folder / "openvino_model.bin").stat().st_size


if __name__ == "__main__":
    figures.main(Model, weights, build, ("openvino", "openvino-genai", "optimum-intel", "nncf"))
