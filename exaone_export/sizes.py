"""Sizes in words: ``24GiB`` and ``80 GB`` to bytes, bytes to words, GPUs to what their driver says they hold."""

from __future__ import annotations

import re

from exaone_export.errors import ConfigError

__all__ = ["GPUS", "format_size", "gpu_memory", "parse_size"]

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{letter}B": 10 ** (3 * power) for power, letter in enumerate("KMGT", start=1)}
_UNITS |= {f"{letter}IB": 2 ** (10 * power) for power, letter in enumerate("KMGT", start=1)}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B|)", re.IGNORECASE)
_MOST = 2**50

GPUS = {
    "a10": 23_028,
    "a100-40gb": 40_960,
    "a100-80gb": 81_920,
    "a30": 24_576,
    "a40": 46_068,
    "b200": 183_359,
    "h100": 81_559,
    "h200": 143_771,
    "l4": 23_034,
    "l40s": 46_068,
    "rtx-3090": 24_576,
    "rtx-4070": 12_282,
    "rtx-4080": 16_376,
    "rtx-4090": 24_564,
    "rtx-5090": 32_607,
    "rtx-6000-ada": 49_140,
    "rtx-pro-6000": 97_887,
    "t4": 15_360,
}
"""MiB of memory by GPU, as ``nvidia-smi`` shows them: a little less than the number on the box."""


def parse_size(text: str) -> int:
    """Bytes of ``24GiB``, ``80 GB``, ``1.5 TiB`` or plain ``1000000``; a unit without ``i`` counts in thousands.

    Raises:
        ConfigError: It is no size, or not between one byte and a pebibyte.
    """
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if not 1 <= size <= _MOST:
        raise ConfigError(f"{text!r:.40} is no size; give bytes with a unit, such as 24GiB or 80GB.")
    return size


def gpu_memory(text: str) -> int:
    """Bytes of a GPU, by its name or as a size.

    Raises:
        ConfigError: It is neither.
    """
    name = re.sub(r"[\s_-]+", "-", text.strip().lower()).removeprefix("nvidia-").removeprefix("geforce-")
    name = re.sub(r"^rtx-?(?=[\dp])", "rtx-", name)
    if name in GPUS:
        return GPUS[name] << 20
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
