"""Sizes and times in words: ``24GiB`` to bytes, bytes to ``24.00 GiB``, GPUs to what their driver says they hold."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import ConfigError

__all__ = ["GPUS", "GpuModel", "find_gpu", "format_duration", "format_size", "gpu_memory", "parse_size"]

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{letter}B": 10 ** (3 * power) for power, letter in enumerate("KMGT", start=1)}
_UNITS |= {f"{letter}IB": 2 ** (10 * power) for power, letter in enumerate("KMGT", start=1)}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B|)", re.IGNORECASE)
_MOST = 2**50


class GpuModel(NamedTuple):
    """What is known of a GPU by its name.

    Attributes:
        memory: MiB, as ``nvidia-smi`` shows them: a little less than the number on the box.
        compute_capability: ``"8.9"`` for one.
    """

    memory: int
    compute_capability: str


GPUS = {
    "a10": GpuModel(23_028, "8.6"),
    "a100-40gb": GpuModel(40_960, "8.0"),
    "a100-80gb": GpuModel(81_920, "8.0"),
    "a30": GpuModel(24_576, "8.0"),
    "a40": GpuModel(46_068, "8.6"),
    "b200": GpuModel(183_359, "10.0"),
    "h100": GpuModel(81_559, "9.0"),
    "h200": GpuModel(143_771, "9.0"),
    "l4": GpuModel(23_034, "8.9"),
    "l40s": GpuModel(46_068, "8.9"),
    "rtx-3090": GpuModel(24_576, "8.6"),
    "rtx-4070": GpuModel(12_282, "8.9"),
    "rtx-4080": GpuModel(16_376, "8.9"),
    "rtx-4090": GpuModel(24_564, "8.9"),
    "rtx-5090": GpuModel(32_607, "12.0"),
    "rtx-6000-ada": GpuModel(49_140, "8.9"),
    "rtx-pro-6000": GpuModel(97_887, "12.0"),
    "t4": GpuModel(15_360, "7.5"),
}
"""GPUs by name."""


def parse_size(text: str) -> int:
    """Bytes of ``24GiB``, ``80 GB``, ``1.5 TiB`` or plain ``1000000``; a unit without ``i`` counts in thousands.

    Raises:
        ConfigError: It is not a size, or not between one byte and a pebibyte.
    """
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if not 1 <= size <= _MOST:
        raise ConfigError(f"{text!r:.40} is not a valid size; give bytes with a unit, such as 24GiB or 512MiB.")
    return size


def find_gpu(text: str) -> GpuModel | None:
    """The GPU that a text names, however it is spelled; None where it names none of `GPUS`."""
    name = re.sub(r"[\s_-]+", "-", text.strip().lower()).removeprefix("nvidia-").removeprefix("geforce-")
    name = re.sub(r"^rtx-?(?=[\dp])", "rtx-", name)
    return GPUS.get(name) or GPUS.get(f"rtx-{name}")  # 4090 is not a size


def gpu_memory(text: str) -> int:
    """Bytes of a GPU, by its name or as a size.

    Raises:
        ConfigError: It is neither.
    """
    if (known := find_gpu(text)) is not None:
        return known.memory << 20
    try:
        return parse_size(text)
    except ConfigError:
        raise ConfigError(
            f"GPU {text!r:.40} is unknown; give its memory, such as --gpu 24GiB, or one of: {', '.join(GPUS)}."
        ) from None


def format_size(count: float) -> str:
    """Bytes in the largest binary unit that leaves one or more."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def format_duration(seconds: float) -> str:
    """Seconds as ``4.2 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, left = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {left:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
