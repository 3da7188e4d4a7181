"""One server process on the tiny checkpoint, shared by the run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY

KEY = "a-key-of-the-tests-0123456789"


class Server:
    """A process and its log.

    Attributes:
        address: Of the server.
        log: Lines of stderr so far.
    """

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address
        self.log = list[str]()
        # A full pipe would stop it.
        self._reader = threading.Thread(target=lambda: self.log.extend(process.stderr or ()), daemon=True)
        self._reader.start()

    def wait(self) -> int:
        """Until it has ended and all of its log is there."""
        code = self.process.wait(timeout=30)
        self._reader.join()
        return code


def started(artifact: Path, *options: str, key: str | None = KEY, patch: str = "") -> Server:
    """A server, once it listens.

    Args:
        artifact: That is served.
        options: Of the command.
        key: In the environment.
        patch: Python that runs before.
    """
    environment = {name: value for name, value in os.environ.items() if name != "EXAONE_EXPORT_API_KEY"}
    if key is not None:
        environment["EXAONE_EXPORT_API_KEY"] = key
    program = f"{patch}\nfrom exaone_export.__main__ import main\nmain()"
    command = [sys.executable, "-c", program, "serve", str(artifact), "--port", "0", "--threads", "1"]
    process = subprocess.Popen([*command, *options], env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"at (http://\S+)/v1", line)
    assert found, line
    return Server(process, found[1])


@pytest.fixture(scope="session")
def tiny(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=512)


@pytest.fixture(scope="session")
def address(tiny: Path) -> Iterator[str]:
    server = started(tiny, "--model-name", "tiny", "--slots", "4", "--log-json")
    yield server.address
    server.process.terminate()
    assert server.wait() == 0
    assert not any("Traceback" in line or '"error"' in line for line in server.log)


def send(
    address: str, data: bytes | None, *, path: str = "/v1/chat/completions", key: str = KEY, **headers: str
) -> tuple[int, Any]:
    """The status and the body of a response."""
    given = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
    request = urllib.request.Request(address + path, data, given)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def metric(address: str, name: str) -> float:
    """A number of the server's."""
    request = urllib.request.Request(f"{address}/metrics", headers={"authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=20) as response:
        lines = response.read().decode().splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith(f"exaone_{name} ")]
    return float(value)


@pytest.fixture(scope="session")
def client(address: str) -> Any:
    import openai

    return openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=30)
