"""Execution providers of ONNX Runtime that run our graphs, and the packages that have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CPU_PROVIDER", "CUDA_PROVIDER", "Provider"]


@dataclass(frozen=True)
class Provider:
    """Where ONNX Runtime runs a graph.

    Attributes:
        name: ONNX Runtime's.
        device: PyTorch's name of the device, ``"cpu"`` or ``"cuda"``.
        extra: The extra of this package that installs it.
        package: What pip calls it.
        minimum_version: The first release that runs our graphs there.
        reason: What earlier ones lack.
        options: Of the provider.
    """

    name: str
    device: str
    extra: str
    package: str
    minimum_version: tuple[int, int]
    reason: str
    options: Mapping[str, str] = field(default_factory=dict, hash=False)


CPU_PROVIDER = Provider("CPUExecutionProvider", "cpu", "cpu", "onnxruntime", (1, 32), "have no ragged attention steps")
CUDA_PROVIDER = Provider(
    "CUDAExecutionProvider",
    "cuda",
    "cuda",
    "onnxruntime-gpu",
    (1, 31),
    "normalize no queries and keys",
    {"enable_cuda_graph": "1"},
)
