"""A suite in parts: each gives what it found, or why it was not run, or why it failed, and the next one runs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch

Found = dict[str, Any]


class NotRunError(Exception):
    """The part cannot run on this machine; the message is the sentence that says why. It is not a failure."""


class Suite:
    """The parts' results, and the time that is left for further ones.

    Args:
        seconds: No part begins after so many.
        ended: Is called when a part has ended and the next one begins, for what was found to be kept.
    """

    def __init__(self, seconds: float, ended: Callable[[], None] = lambda: None) -> None:
        self._end, self._ended = time.monotonic() + seconds, ended

    def run(self, part: Callable[[], Found]) -> Found:
        """What ``part`` found, with the seconds that it took."""
        self._ended()
        if time.monotonic() > self._end:
            return {"not run": "the time for the suite was up; pass a larger --seconds."}
        start = time.perf_counter()
        try:
            found = part()
        except NotRunError as reason:
            found = {"not run": str(reason)}
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is the finding
            found = {"failed": f"{type(error).__name__}: {error}"}
        gc.collect()
        torch.cuda.empty_cache()
        return found | {"seconds": round(time.perf_counter() - start, 1)}


def any_failed(result: Any) -> bool:
    """Whether a part anywhere in ``result`` failed."""
    if isinstance(result, dict):
        return "failed" in result or any(any_failed(value) for value in result.values())
    return False
