"""One session per runtime: bind the buffers, run a step."""

from __future__ import annotations

from ..core.session import Session

__all__ = ["Session"]
