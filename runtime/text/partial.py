"""What of a text is held back, because it may be the beginning of a tag or a stop string."""

from __future__ import annotations

__all__ = ["begun"]


def begun(text: str, marker: str) -> int:
    """The most characters at a text's end with which a marker begins, and not the whole marker."""
    return next((n for n in range(min(len(text), len(marker) - 1), 0, -1) if text.endswith(marker[:n])), 0)
