"""`exaone-export serve` on a GPU, asked over HTTP by more and more clients at once."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from gpu_suite.parts import Found, NotRunError

CLIENTS, REQUESTS = (1, 8, 32), 64
PROMPT, NEW = 512, 128


def throughput(folder: Path) -> Found:
    """What `exaone-export bench --serve` finds.

    Args:
        folder: An artifact of the 1.2B shape.

    Raises:
        NotRunError: What the server needs is not installed.
        RuntimeError: A request failed.
    """
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        if importlib.util.find_spec(package) is None:
            raise NotRunError(f"{package} is not installed; run: pip install 'exaone-export[serve]'.")
    from exaone_export.runtime.bench.serving.run import bench_serving

    report = bench_serving(folder, prompt=PROMPT, new=NEW, concurrencies=CLIENTS, requests=REQUESTS)
    found = Found()
    for level in report.levels:
        if level.failures:
            raise RuntimeError(f"{len(level.failures)} requests failed: {level.failures[0]}")
        found[f"{level.concurrency} clients"] = {
            "tok/s": round(level.rate, 1),
            "ms to the first token": _spread(level.first_tokens),
            "ms a further token": _spread(level.gaps),
        }
    return found


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    from exaone_export.runtime.bench.report import percentile

    return {f"p{share:.0%}".rstrip("%"): round(1e3 * percentile(seconds, share), 2) for share in (0.5, 0.95)}
