"""Runs steps of an `ort-cuda` graph on the stand-in, and marks each in the log: python steps.py GRAPH MAX_LENGTH.

Needs nothing but onnxruntime and numpy; the caches are shared by past and present, as the session has them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

_TYPES = {"tensor(int64)": (np.int64, 7), "tensor(float16)": (np.uint16, 10), "tensor(bfloat16)": (np.uint16, 16)}
CHUNK = 32


def main() -> None:
    """A prompt's step, two uncaptured decode steps, and three under one graph's number."""
    graph, max_length = sys.argv[1], int(sys.argv[2])
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.enable_mem_pattern = 3, False
    provider = ("CUDAExecutionProvider", {"enable_cuda_graph": "1"})
    session = onnxruntime.InferenceSession(graph, options, providers=[provider])
    if session.get_providers()[0] != provider[0]:
        sys.exit("the stand-in libraries were not loaded")
    caches = {
        value.name: _memory(value, (1, *value.shape[1:])) for value in session.get_inputs() if value.name[:5] == "past_"
    }
    for name, width, total, number in (
        ("prefill", CHUNK, CHUNK, -1),
        ("warm up", 1, max_length, -1),
        ("decode", 1, max_length, -1),
        ("capture", 1, max_length, 1),
        ("replay", 1, max_length, 1),
    ):
        binding, kept = _bind(session, caches, width, total)
        run = onnxruntime.RunOptions()
        run.add_run_config_entry("gpu_graph_id", str(number))
        with Path(os.environ["CUDA_STAND_IN_LOG"]).open("a") as log:
            log.write(f"=== {name}\n")
        session.run_with_iobinding(binding, run)
        del kept


def _bind(session: Any, caches: dict[str, Any], width: int, total: int) -> tuple[Any, list[Any]]:
    sizes = {"input_ids": (1, width), "position_ids": (1, width), "attention_mask": (1, total), "logits_to_keep": (1,)}
    binding, kept = session.io_binding(), []
    for value in session.get_inputs():
        memory, shape = caches.get(value.name) or _memory(value, sizes[value.name])
        kept.append(memory)
        where = ("cuda", 0, _TYPES[value.type][1], shape, memory.data_ptr())
        binding.bind_input(value.name, *where)
        if value.name in caches:
            binding.bind_output(value.name.replace("past_key_values", "present"), *where)
    logits = session.get_outputs()[0]
    memory, shape = _memory(logits, (1, 1, logits.shape[-1]))
    binding.bind_output("logits", "cuda", 0, _TYPES[logits.type][1], shape, memory.data_ptr())
    return binding, [*kept, memory]


def _memory(value: Any, shape: tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
    zeros = np.zeros(shape, _TYPES[value.type][0])
    return onnxruntime.OrtValue.ortvalue_from_numpy(zeros, "cuda", 0), shape


if __name__ == "__main__":
    main()
