"""One server process on the tiny checkpoint, shared by the run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY

KEY = "a-key-of-the-tests-0123456789"


def started(artifact: Path, *options: str, key: str | None = KEY) -> tuple[subprocess.Popen[str], str]:
    """A server's process and its address, once it listens."""
    environment = {name: value for name, value in os.environ.items() if name != "EXAONE_EXPORT_API_KEY"}
    if key is not None:
        environment["EXAONE_EXPORT_API_KEY"] = key
    command = [sys.executable, "-m", "exaone_export", "serve", str(artifact), "--port", "0", "--threads", "1"]
    process = subprocess.Popen([*command, *options], env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"at (http://\S+)/v1", line)
    assert found, line
    # Nobody reads its log, and a full pipe would stop it.
    threading.Thread(target=process.stderr.read, daemon=True).start()
    return process, found[1]


@pytest.fixture(scope="session")
def tiny(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=512)


@pytest.fixture(scope="session")
def address(tiny: Path) -> Iterator[str]:
    process, address = started(tiny, "--model-name", "tiny", "--slots", "4", "--log-json")
    yield address
    process.terminate()
    process.wait(timeout=20)
    assert process.returncode == 0


@pytest.fixture(scope="session")
def client(address: str) -> Any:
    import openai

    return openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=30)
