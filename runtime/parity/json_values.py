"""Figures of a report as JSON can hold them."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["json_values"]


def json_values(record: dict[str, Any]) -> dict[str, Any]:
    """A record with None for NaN and infinity, which JSON has not, at any depth."""
    return {key: _value(each) for key, each in record.items()}


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return json_values(value)
    if isinstance(value, list | tuple):
        return [_value(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
