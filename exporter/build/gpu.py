"""The GPU of this machine, asked of its driver: neither TensorRT nor PyTorch need be able to use it."""

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
    """The first GPU that CUDA programs are shown; None without a driver or a GPU."""
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
