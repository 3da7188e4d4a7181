"""The GPUs of this machine by the CUDA driver, whether or not TensorRT and PyTorch can use them."""

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
    """

    compute_capability: str
    driver: str


def current_gpu() -> Gpu | None:
    """The first GPU that is visible to CUDA; None without a driver or a GPU."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    if driver.cuInit(0) != 0:
        return None
    version, device = ctypes.c_int(), ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    capability = [_attribute(driver, which, device) for which in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR)]
    return Gpu("{}.{}".format(*capability), f"{version.value // 1000}.{version.value % 1000 // 10}")


def _attribute(driver: Any, which: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), which, device)
    return value.value


@dataclass(frozen=True)
class InstalledGpu(Gpu):
    """A GPU and its properties, for a report.

    Attributes:
        compute_capability: ``"8.9"`` for one.
        driver: The newest CUDA version that its driver runs, ``"13.0"`` for one.
        name: What its maker calls it.
        memory: Bytes of its memory.
    """

    name: str
    memory: int


def list_gpus() -> tuple[InstalledGpu, ...]:
    """The GPUs that are visible to CUDA, in order; none without a driver."""
    first = current_gpu()
    if first is None:
        return ()
    driver = ctypes.CDLL(_DRIVER)
    count, found = ctypes.c_int(), []
    driver.cuDeviceGetCount(ctypes.byref(count))
    for index in range(count.value):
        device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        capability = [_attribute(driver, which, device) for which in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR)]
        found.append(
            InstalledGpu("{}.{}".format(*capability), first.driver, name.value.decode(errors="replace"), memory.value)
        )
    return tuple(found)
