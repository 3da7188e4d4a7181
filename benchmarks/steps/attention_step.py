"""The attention of one token alone: ONNX Runtime's operator, as an artifact has it, beside reading its caches.

Run `python benchmarks/steps/attention_step.py --context 512 2048`. As many layers as the model has are run in turn,
each with caches of its own, so that these come from memory as they do in a step. The least is what a kernel would take
that waits for memory alone: the time in which PyTorch sums as many bytes, in as many threads. Times are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper

_CACHES = ("key", "value")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, nargs="+", default=[128, 512, 2048], help="tokens in the caches")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| context | caches MB | attention ms | least ms | times |\n| --- | --- | --- | --- | --- |")
    for context in options.context:
        shape = (1, options.kv_heads, context + 1, options.head_dim)
        layers = [[np.full(shape, 0.5, np.float32) for _ in _CACHES] for _ in range(options.layers)]
        session = _session(options, shape)
        runs = [_attention(session, options, context, caches) for caches in layers]
        size = sum(array.nbytes for caches in layers for array in caches)
        as_many = torch.ones(size // 4)
        # Not in turn: threads of the one that wait, spinning, would take time of the other.
        taken = [_milliseconds(*runs) for _ in range(options.rounds)]
        time.sleep(1)
        least = [_milliseconds(as_many.sum) for _ in range(options.rounds)]
        time.sleep(1)
        attention, reading = statistics.median(taken), statistics.median(least)
        print(f"| {context} | {size / 1e6:.0f} | {attention:.2f} | {reading:.2f} | {attention / reading:.1f} |")


def _session(options: Any, cache: tuple[int, ...]) -> Any:
    """The operator alone."""
    sizes = {"query": options.heads, "key": options.kv_heads, "value": options.kv_heads}
    step = {name: (1, 1, heads * options.head_dim) for name, heads in sizes.items()}
    past, present = ({f"{when}_{name}": cache for name in _CACHES} for when in ("past", "present"))
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (step | past).items()]
    inputs.append(helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, (1,)))
    inputs.append(helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, ()))
    given = {"attention": step["query"]} | present
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in given.items()]
    names = [each.name for each in inputs], list(given)
    counts = {"num_heads": options.heads, "kv_num_heads": options.kv_heads}
    node = helper.make_node("GroupQueryAttention", *names, domain="com.microsoft", **counts)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "attention", inputs, outputs)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), settings)


def _attention(session: Any, options: Any, context: int, caches: list[np.ndarray]) -> Callable[[], None]:
    """One layer's step; its caches are updated in place."""
    binding = session.io_binding()
    for name, heads in (("query", options.heads), ("key", options.kv_heads), ("value", options.kv_heads)):
        binding.bind_cpu_input(name, np.full((1, 1, heads * options.head_dim), 0.5, np.float32))
    binding.bind_cpu_input("seqlens_k", np.array([context], np.int32))
    binding.bind_cpu_input("total_sequence_length", np.array(context + 1, np.int32))
    for name, array in zip(_CACHES, caches, strict=True):
        value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        binding.bind_ortvalue_input(f"past_{name}", value)
        binding.bind_ortvalue_output(f"present_{name}", value)
    binding.bind_output("attention")
    return lambda: session.run_with_iobinding(binding)


def _milliseconds(*work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    for each in work:
        each()
    return 1e3 * (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
