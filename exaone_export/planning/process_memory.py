"""Models of what three processes hold at their peak: the export, the build of an engine, and running.

Each is a sum of what the process is made of. Sizes of tensors and caches are computed; the constants below were fitted
to the peak resident memory of child processes, pages of mapped files included, which ``benchmarks/plan_accuracy.py``
measures again on two cores. Running on a GPU with ONNX Runtime was fitted to two measurements on one GPU; running an
engine is an estimate that no measurement stands behind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from itertools import combinations

from ..model.heads import CAUSAL_LM, SEQUENCE_CLASSIFICATION
from ..targets.precision import FLOATS
from .deployment import Deployment
from .machine import export_workers
from .stored_tensors import INLINE_BYTES, StoredTensor

__all__ = [
    "EXPORT_WHOLE_BYTES",
    "activations",
    "build_peak",
    "engine_bytes",
    "export_peak",
    "graph_bytes",
    "run_peak",
    "weights_held",
    "workspace",
]

_KIB, _MIB = 1 << 10, 1 << 20

# On disk: the graph and the manifest, to begin with and for every layer; the same of an engine, and its layer report.
_GRAPH_BASE, _GRAPH_LAYER = 16 * _KIB, 10 * _KIB
_ENGINE_BASE, _ENGINE_LAYER = 2 * _MIB, 1300 * _KIB

# The export: Python, PyTorch and its exporter; then what every worker reads at a time, where it is rounded and where it
# is only cast and turned; and the tensors that have to be whole in memory to be turned.
_EXPORT_BASE = 425 * _MIB
EXPORT_WHOLE_BYTES = 1024 * _MIB
"""What the writer of an export lets be whole in memory at once; one larger tensor waits until it is alone."""
_PART_ROUNDED, _PART_CAST = 32 * _MIB, 66 * _MIB

# The build: Python, PyTorch and the builder; copies of the data, the mapped file among them, and one more where values
# are unpacked; what compiling a layer leaves; the caches, which the builder holds as input and as output.
_BUILD_BASE, _BUILD_COPIES, _BUILD_UNPACKED, _BUILD_LAYER, _BUILD_CACHES = 300 * _MIB, 3, 1, 13 * _MIB, 2.1

# Running on the processor: Python, PyTorch, transformers and ONNX Runtime, and what generating loads on top; what a
# step of any size takes. Scales of weights in blocks are kept as they are, and packed with sums beside them.
_RUN_BASE, _GENERATION, _RUN_STEP, _SCALE_COPIES = 355 * _MIB, 30 * _MIB, 6 * _MIB, 3.75

# Running on a GPU, an engine: the CUDA context, PyTorch's and the runtime's own allocations; never measured.
_GPU_BASE = 700 * _MIB
# The same with ONNX Runtime, and the libraries' workspaces. From what the driver of an H100 80GB HBM3 said was in use
# while the 1.2B ran at 2,048 tokens (float16 3.88 GiB, int4 1.88 GiB; onnxruntime-gpu 1.31.1, PyTorch's context
# included), less weights, cache and what the arena below takes for them: 782 MiB both times. Fitted from those
# figures without a GPU at hand; `benchmarks/gpu.py` measures them again.
_CUDA_BASE = 782 * _MIB
# ONNX Runtime takes a GPU's memory in regions, each twice as large as the one before, up to a limit; all the weights
# and a step's values lie in them, and the rest of the last one is nobody's.
_ARENA_FIRST, _ARENA_LARGEST = 1 * _MIB, 1024 * _MIB


def graph_bytes(deployment: Deployment) -> int:
    """Bytes of an artifact's graph and manifest, about."""
    inside = sum(tensor.num_bytes for tensor in deployment.tensors if tensor.num_bytes <= INLINE_BYTES)
    graphs = 1 if deployment.prefill is None else 2
    return graphs * (_GRAPH_BASE + _GRAPH_LAYER * deployment.spec.num_hidden_layers) + inside


def engine_bytes(deployment: Deployment) -> int:
    """Bytes of an engine's artifact, about."""
    return _stored(deployment) + _ENGINE_BASE + _ENGINE_LAYER * deployment.spec.num_hidden_layers


def export_peak(deployment: Deployment) -> int:
    """Bytes of resident memory of an export, at most."""
    # Output channels lie along the second axis of what is multiplied, but for weights in blocks and a tied matrix: such
    # a tensor is turned, and so cannot be written a part at a time.
    in_blocks = deployment.recipe.kernels and bool(deployment.recipe.blocks)
    workers = export_workers()
    experts = workers * _expert_whole(deployment)
    if in_blocks and deployment.prefill is None:
        return _EXPORT_BASE + workers * _PART_ROUNDED + experts
    those = deployment.prefill_tensors if in_blocks else deployment.tensors
    turned = Counter(tensor for tensor in those if tensor.group in ("layers", "head"))
    candidates = [tensor for tensor, count in turned.items() for _ in range(min(count, workers))]

    def whole(tensors: Iterable[StoredTensor]) -> int:
        return sum(tensor.num_bytes for tensor in tensors)

    groups = (those for count in range(1, workers + 1) for those in combinations(candidates, count))
    # One that is larger than all the room waits until it is alone.
    at_once = max(whole(those) for those in groups if len(those) == 1 or whole(those) <= EXPORT_WHOLE_BYTES)
    kinds = sorted((tensor.dtype in FLOATS for tensor in candidates), reverse=True)[:workers]
    parts = sum(_PART_CAST if floats else _PART_ROUNDED for floats in kinds)
    return _EXPORT_BASE + parts + max(at_once, experts)


def _expert_whole(deployment: Deployment) -> int:
    """Bytes of experts' weights that a worker has at once: the scales of a stack, or one expert that is turned."""
    spec, storage = deployment.spec, deployment.recipe.experts
    if (sparse := spec.sparse_mlp) is None:
        return 0
    outputs = 2 * sparse.moe_intermediate_size
    if storage is None:
        return 2 * outputs * spec.hidden_size * deployment.compute_item_bytes
    return sparse.num_experts * outputs * (spec.hidden_size // storage.block if storage.block else 1) * 4


def build_peak(deployment: Deployment, cache: int) -> int:
    """Bytes of resident memory of an engine's build, at most; ``cache`` bytes of keys and values go with the engine."""
    packed = sum(tensor.num_bytes for tensor in deployment.tensors if tensor.dtype == "int4")
    data = _BUILD_COPIES * _stored(deployment) + _BUILD_UNPACKED * packed
    return _BUILD_BASE + data + _BUILD_LAYER * deployment.spec.num_hidden_layers + int(_BUILD_CACHES * cache)


def activations(deployment: Deployment) -> int:
    """Bytes that running holds beside weights and cache, at most: one step's values, and the outputs of all steps.

    The widest moment is the feed-forward network's: gate and up packed, apart, and their product, beside the residual
    stream; of a sparse layer in standard operators, that of all experts. The attention's kernels keep no matrix of
    scores.
    """
    spec = deployment.spec
    floats = 6 * spec.intermediate_size + 2 * spec.hidden_size
    if (sparse := spec.sparse_mlp) is not None:
        kernel = deployment.target.experts == "kernel"
        experts = sparse.num_experts_per_tok if kernel else sparse.num_experts
        floats = max(floats, experts * (6 * sparse.moe_intermediate_size + 2 * spec.hidden_size))
    size = deployment.compute_item_bytes if deployment.on_gpu else 4
    positions = output_positions(deployment)
    copies = 1 if positions <= deployment.step_tokens else 2  # the steps' outputs, and all of them in one
    outputs = copies * positions * sum(math.prod(shape) for shape in spec.output_shapes.values())
    return deployment.batch * (deployment.step_tokens * floats * size + outputs * 4) + _RUN_STEP


def output_positions(deployment: Deployment) -> int:
    """Tokens of a row for which outputs are wanted: the last one, or all where the head gives something for each."""
    last_alone = deployment.spec.head.kind in (CAUSAL_LM, SEQUENCE_CLASSIFICATION)
    return 1 if last_alone else deployment.max_length


def workspace(deployment: Deployment) -> int:
    """Bytes that the process, or the GPU's context, holds beside the model, its cache and a step's values.

    With ONNX Runtime on a GPU, what its arena has taken and does not use is among them.
    """
    if not deployment.on_gpu:
        return _RUN_BASE + _GENERATION
    if deployment.makes_engine:
        return _GPU_BASE
    used = weights_held(deployment) + activations(deployment)
    return _CUDA_BASE + _arena(used) - used


def _arena(used: int) -> int:
    """Bytes of the regions that hold so many."""
    taken, region = 0, _ARENA_FIRST
    while taken < used:
        taken, region = taken + region, min(2 * region, _ARENA_LARGEST)
    return taken


def weights_held(deployment: Deployment) -> int:
    """Bytes of weights in memory once the model is loaded.

    On the processor products are repacked for their kernels. A quantized embedding, or one that no product uses, stays
    in the file but for the rows that are looked up; a tied one in floating point is held for both.
    """
    if deployment.on_gpu:
        return engine_bytes(deployment) if deployment.makes_engine else _stored(deployment)
    held = 0.0
    for tensor in deployment.tensors:
        if tensor.gather_only:
            continue
        if tensor.group == "embedding":  # tied: as it is for the rows, and repacked for the product
            held += 2 * tensor.num_bytes
        elif tensor.group == "scales" and deployment.recipe.blocks:
            held += _SCALE_COPIES * tensor.num_bytes
        else:
            held += tensor.num_bytes
            if deployment.prefill is not None and tensor.group == "head":  # each graph repacks it for itself
                held += tensor.num_bytes
    return int(held)


def run_peak(deployment: Deployment, cache: int) -> int:
    """Bytes at the peak of running with a full cache of ``cache`` bytes: of the process, or of a GPU's memory."""
    loaded = workspace(deployment) + weights_held(deployment)
    running = loaded + cache + activations(deployment)
    if deployment.on_gpu:
        return running
    # While a weight is repacked it is there twice.
    repacked = max(tensor.num_bytes for tensor in deployment.tensors if tensor.group in ("layers", "head"))
    return max(loaded - _GENERATION + repacked, running)


def _stored(deployment: Deployment) -> int:
    return sum(tensor.num_bytes for tensor in deployment.tensors)
