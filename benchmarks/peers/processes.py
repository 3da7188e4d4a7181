"""Processes of a peer's script: their answers, their memory, and how they failed."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SAMPLE_S = 0.05


class PeerError(Exception):
    """A peer's process failed; the message is its last word."""


def ask(command: Sequence[str | Path]) -> Any:
    """Run a script to its end; the JSON of its last line.

    Raises:
        PeerError: It failed.
    """
    return json.loads(_watch(command)[0])


def measure(command: Sequence[str | Path]) -> dict[str, float]:
    """Run a measurement; its figures, and the most memory it held that no file stands behind.

    Raises:
        PeerError: It failed.
    """
    answer, anonymous = _watch(command)
    return {**json.loads(answer), "anonymous bytes": anonymous}


def cost(command: Sequence[str | Path]) -> dict[str, float]:
    """Run a command; its seconds, and the peak memory of its largest process, as the system counts it.

    Raises:
        PeerError: It failed.
    """
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=_environment())
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise PeerError(_why(process.returncode, log))
    return {"s": seconds, "peak bytes": usage.ru_maxrss * 1024}


def _watch(command: Sequence[str | Path]) -> tuple[str, int]:
    """The last line of a process, and the most anonymous memory it was seen with."""
    anonymous = 0
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment())
        assert process.stdout is not None
        while process.poll() is None:
            anonymous = max(anonymous, _anonymous(process.pid))
            time.sleep(SAMPLE_S)
        lines = process.stdout.read().splitlines()
        process.stdout.close()
        if process.returncode or not lines:
            raise PeerError(_why(process.returncode, log))
    return lines[-1], anonymous


def _anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except ProcessLookupError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def _environment() -> dict[str, str]:
    """Everyone's threads are set by the scripts alone."""
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def _why(code: int, log: Any) -> str:
    """The signal that ended a process, and its last line."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return (f"killed by signal {-code}; " if code < 0 else "") + (lines[-1] if lines else "it said nothing")
