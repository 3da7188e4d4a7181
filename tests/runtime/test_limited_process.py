"""A process that others give work to: after a fork, with many open files, and where it does not start."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from exaone_export.runtime.limited_process import LimitedProcess, ProcessEndedError

ECHO = """
import json, sys
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked == "end":
        sys.exit("nothing more to say")
    print(json.dumps({"said": asked, "last": asked == "last"}), flush=True)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[LimitedProcess]:
    file = tmp_path / "worker.py"
    file.write_text(ECHO)
    made = LimitedProcess(file, (), (), most_bytes=1 << 20, task="echoes")
    yield made
    made.close()


def test_a_process_that_has_ended_is_replaced(worker: LimitedProcess) -> None:
    assert worker.ask('"a"') == {"said": "a"}
    with pytest.raises(ProcessEndedError) as caught:
        worker.ask('"end"')
    assert (caught.value.status, caught.value.said) == (1, " (it wrote: nothing more to say)")
    assert worker.ask('"last"') == {"said": "last"} and worker.process is None
    assert worker.ask('"b"') == {"said": "b"}


def test_a_child_has_a_process_of_its_own(worker: LimitedProcess) -> None:
    """Also where another thread was waiting for an answer when it was forked."""
    worker.ask('"a"')
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with worker._lock:
            held.set()
            release.wait(60)

    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        good = worker.process is None and worker.ask('"child"') == {"said": "child"}
        worker.close()
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    release.set()
    assert worker.process is not None and worker.process.poll() is None
    assert worker.ask('"b"') == {"said": "b"}


def test_descriptors_may_be_many(worker: LimitedProcess) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 1200:
        pytest.skip("needs 1,200 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 1200), before[1]))
    try:
        with ExitStack() as files:
            while (last := os.open(os.devnull, os.O_RDONLY)) <= 1024:
                files.callback(os.close, last)
            files.callback(os.close, last)
            assert worker.ask('"a"') == {"said": "a"}
            assert worker.process is not None and worker.process.stdout.fileno() > 1024  # type: ignore[union-attr]
    finally:
        worker.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
