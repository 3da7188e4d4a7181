"""llama.cpp through llama-cpp-python's low-level calls, so that no Python but the greedy choice runs between tokens."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import figures

VARIANTS = {"Q4_0": 2, "Q4_K_M": 15, "Q8_0": 7}
"""llama.cpp's own numbers of its file types."""
FILE = "model.gguf"


def build(variant: str, checkpoint: Path, out: Path) -> None:
    """Write a bfloat16 GGUF file, and quantize it with llama.cpp's own quantizer."""
    import llama_cpp
    from gguf_files import write_gguf

    out.mkdir()
    plain = out / "bf16.gguf"
    write_gguf(checkpoint, plain)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = VARIANTS[variant], figures.threads()
    failed = llama_cpp.llama_model_quantize(os.fsencode(plain), os.fsencode(out / FILE), ctypes.byref(params))
    plain.unlink()
    if failed:
        raise RuntimeError(f"llama.cpp did not quantize to {variant}: {failed}.")


class Model:
    """A model with llama.cpp's defaults: mapped file, repacked weights, flash attention where it chooses it."""

    def __init__(self, folder: Path) -> None:
        import llama_cpp

        self._api = llama_cpp
        self._silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silent, None)
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(folder / FILE), model)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = figures.CONTEXT, figures.PROMPT, figures.PROMPT
        params.n_threads = params.n_threads_batch = figures.threads()
        self._context = llama_cpp.llama_init_from_model(self._model, params)

    def answer(self, tokens: list[int], new: int) -> tuple[float, float]:
        """See `figures.System`."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        start = time.perf_counter()
        token = self._step(tokens)
        prefill = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(new):
            token = self._step([token])
        return prefill, time.perf_counter() - start

    def _step(self, tokens: list[int]) -> int:
        """Run the model on more tokens; the likeliest next one."""
        import numpy as np

        api, ids = self._api, (self._api.llama_token * len(tokens))(*tokens)
        if api.llama_decode(self._context, api.llama_batch_get_one(ids, len(tokens))):
            raise RuntimeError("llama.cpp did not run a step.")
        logits = np.ctypeslib.as_array(api.llama_get_logits_ith(self._context, -1), shape=(figures.VOCABULARY,))
        return int(logits.argmax())


def weights(folder: Path) -> int:
    """Bytes of weights that one token reads: all, because the tied table is stored once and the projection reads it."""
    import gguf

    return sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(folder / FILE).tensors)


if __name__ == "__main__":
    figures.main(Model, weights, build, ("llama-cpp-python", "gguf"))
