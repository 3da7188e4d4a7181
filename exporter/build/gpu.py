"""The GPUs of this machine by the CUDA driver, whether or not TensorRT and PyTorch can use them.

NVML is not used: it lists every GPU in the order of the bus, and knows neither ``CUDA_VISIBLE_DEVICES`` nor which one
CUDA takes first, the one that an engine is built on.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

_DRIVER = "libcuda.so.1"
# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver API
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        compute_capability: ``"8.9"`` for one.
        driver: The newest CUDA version that its driver runs, ``"13.0"`` for one.
        name: What its maker calls it.
        memory: Bytes of its memory.
    """

    compute_capability: str
    driver: str
    name: str
    memory: int


def current_gpu() -> Gpu | None:
    """The first GPU that is visible to CUDA; None without a driver or a GPU."""
    return next(iter(list_gpus()), None)


def list_gpus() -> tuple[Gpu, ...]:
    """The GPUs that are visible to CUDA, in order; none without a driver."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return ()
    version, count = ctypes.c_int(), ctypes.c_int()
    # cuInit fails where there is no GPU, and nothing else may be called before it.
    if driver.cuInit(0) or driver.cuDriverGetVersion(ctypes.byref(version)):
        return ()
    if driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return tuple(_read(driver, index, cuda) for index in range(count.value))


def _read(driver: Any, index: int, cuda: str) -> Gpu:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    major, minor = (_attribute(driver, which, device) for which in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
    return Gpu(f"{major}.{minor}", cuda, name.value.decode(errors="replace"), memory.value)


def _attribute(driver: Any, which: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), which, device)
    return value.value
