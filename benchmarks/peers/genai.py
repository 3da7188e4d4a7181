"""ONNX Runtime GenAI: its own builder, on a stand-in of the same shape, because it does not know EXAONE 4."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import figures
import onnx_weights

VARIANTS = {
    "int4-block-32": ("int4",),  # the builder's defaults
    "int4-block-128": ("int4", "block_size=128", "prune_lm_head=true"),
    "int8-block-128": ("int8", "block_size=128", "prune_lm_head=true"),
}


def build_command(variant: str, checkpoint: Path, out: Path, scratch: Path) -> list[str | Path]:
    """The builder, as a user types it."""
    precision, *extra = VARIANTS[variant]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", checkpoint, "-o", out, "-c", scratch]
    return [*command, "-p", precision, "-e", "cpu", *(["--extra_options", *extra] if extra else [])]


def build(variant: str, checkpoint: Path, out: Path) -> None:
    """Build the stand-in, and ask for all cores: by default the runtime takes half of them."""
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        subprocess.run(build_command(variant, checkpoint, out, Path(scratch)), check=True)
    path = out / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = figures.threads()
    path.write_text(json.dumps(config, indent=4))


class Model:
    """A model; its cache is given room for `figures.CONTEXT` tokens."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai

        self._module = onnxruntime_genai
        self._model = onnxruntime_genai.Model(str(folder))

    def answer(self, tokens: list[int], new: int) -> tuple[float, float]:
        """See `figures.System`."""
        params = self._module.GeneratorParams(self._model)
        length = len(tokens) + new + 1
        params.set_search_options(do_sample=False, min_length=length, max_length=max(length, figures.CONTEXT))
        generator = self._module.Generator(self._model, params)
        start = time.perf_counter()
        generator.append_tokens(tokens)
        generator.get_logits()
        prefill = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(new + 1):  # the first call picks a token of the prompt's logits, and runs nothing
            generator.generate_next_token()
        decode = time.perf_counter() - start
        if generator.token_count() != length:
            raise RuntimeError(f"{generator.token_count()} tokens are there in place of {length}.")
        return prefill, decode


def weights(folder: Path) -> int:
    """Bytes of weights that one token reads."""
    return onnx_weights.read_per_token(folder / "model.onnx")


if __name__ == "__main__":
    figures.main(Model, weights, build, ("onnxruntime-genai", "onnxruntime"))
