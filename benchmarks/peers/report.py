"""The comparison's figures as tables: medians with their spread, and ratios taken round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

GIGA = 1e9
Runs = list[dict[str, float]]


def spread(values: Sequence[float], digits: int | None = None) -> str:
    """Median (lowest to highest), with as many digits as the size of the figures bears."""
    if digits is None:
        digits = 0 if max(values) >= 100 else 1 if max(values) >= 10 else 2
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def ratios(ours: Runs, peers: Runs, figure: str) -> list[float]:
    """Ours over the peer's, of the runs of the same round."""
    return [mine[figure] / theirs[figure] for mine, theirs in zip(ours, peers, strict=True)]


def bandwidth_shares(runs: Runs, weight_bytes: int, bandwidths: Sequence[float]) -> list[float]:
    """Weights read a second, as a share of what the memory gave in the same round."""
    return [run["decode tok/s"] * weight_bytes / rate for run, rate in zip(runs, bandwidths, strict=True)]


def tables(result: dict[str, Any], source: str) -> str:
    """The tables of docs/explanation/performance.md.

    Args:
        result: What `compare_peers.py` has written.
        source: The file's name, for the reader who wants single runs.
    """
    parts = [_note(result, source), _speed(result), _ratios(result), _exports(result)]
    return "\n\n".join(part for part in parts if part)


def _note(result: dict[str, Any], source: str) -> str:
    bandwidth = spread([rate / GIGA for rate in result["bandwidth bytes/s"]])
    return (
        f"1.2B shape, random weights, batch 1: a prompt of {result['prompt']} tokens, then {result['new']} greedy "
        f"tokens. {result['machine']}, which read {bandwidth} GB/s of memory. Median (lowest to highest) of "
        f"{result['rounds']} rounds; in each, every system ran once in a process of its own "
        f"([single runs](../../benchmarks/results/{source}))."
    )


def _speed(result: dict[str, Any]) -> str:
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "prefill tok/s": lambda found: spread(_figures(found, "prefill tok/s")),
        "decode tok/s": lambda found: spread(_figures(found, "decode tok/s")),
        "peak memory GB": lambda found: f"{_median(found, 'peak bytes') / GIGA:.2f}",
        "not of a file GB": lambda found: f"{_median(found, 'anonymous bytes') / GIGA:.2f}",
        "load s": lambda found: spread(_figures(found, "load s")),
        "weights a token GB": lambda found: f"{found['weight bytes'] / GIGA:.2f}",
        "of the bandwidth": lambda found: (
            f"{statistics.median(bandwidth_shares(found['runs'], found['weight bytes'], rates)):.0%}"
        ),
    }
    rates = result["bandwidth bytes/s"]
    lines = _head(["system", *columns])
    lines += [
        _row([found["title"], *(show(found) for show in columns.values())]) for found in result["systems"].values()
    ]
    lines += [
        _row([found["title"], f"not measured: {found['reason']}", *[""] * (len(columns) - 1)])
        for found in result["not measured"].values()
    ]
    return "\n".join(lines)


def _ratios(result: dict[str, Any]) -> str:
    ours = {name: found for name, found in result["systems"].items() if found["ours"]}
    peers = [found for found in result["systems"].values() if not found["ours"]]
    if not ours or not peers:
        return ""
    figures = ("prefill tok/s", "decode tok/s")
    names = [f"{found['title']}: {figure.split()[0]}" for found in ours.values() for figure in figures]
    lines = ["Times as fast as, round by round:", "", *_head(["peer", *names])]
    for peer in peers:
        cells = [
            spread(ratios(found["runs"], peer["runs"], figure), 2) for found in ours.values() for figure in figures
        ]
        lines.append(_row([peer["title"], *cells]))
    return "\n".join(lines)


def _exports(result: dict[str, Any]) -> str:
    if not result.get("exports"):
        return ""
    lines = [
        "From the checkpoint to what is run, as whole processes in turn:",
        "",
        *_head(["made", "s", "peak memory GB"]),
    ]
    for found in result["exports"].values():
        if "reason" in found:
            lines.append(_row([found["title"], f"not made: {found['reason']}", ""]))
        else:
            gigabytes = [size / GIGA for size in _figures(found, "peak bytes")]
            lines.append(_row([found["title"], spread(_figures(found, "s")), spread(gigabytes)]))
    return "\n".join(lines)


def _figures(found: dict[str, Any], figure: str) -> list[float]:
    return [run[figure] for run in found["runs"]]


def _median(found: dict[str, Any], figure: str) -> float:
    return statistics.median(_figures(found, figure))


def _head(cells: list[str]) -> list[str]:
    return [_row(cells), "|" + " --- |" * len(cells)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
