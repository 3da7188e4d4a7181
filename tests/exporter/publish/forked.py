"""Commands in forks of one process that has imported what they need: a start takes milliseconds."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

_PARENT = """
import json, os, sys
import huggingface_hub
from huggingface_hub import HfApi, ModelCardData, snapshot_download
from exaone_export.__main__ import main
from exaone_export.cli import inspect, main as _, push, verify
from exaone_export.exporter.publish import push as _

for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(asked["folder"])
        for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
            os.dup2(os.open(asked[name], os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
        sys.argv = asked["command"]
        status = 1
        try:
            exec(sys.argv[2]) if sys.argv[1] == "-c" else main()
            status = 0
        except SystemExit as ending:
            status = ending.code or 0
        except Exception as error:
            print(error, file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forked:
    """`exaone-export`, or Python behind ``-c``, in forks of a process with the environment ``env``."""

    def __init__(self, env: dict[str, str]) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", _PARENT]
        self._folder = tempfile.TemporaryDirectory()
        self._parent = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True)

    def run(self, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        """A command that runs in ``folder``, with what it has printed."""
        assert self._parent.stdin is not None and self._parent.stdout is not None
        files = {name: f"{self._folder.name}/{name}" for name in ("stdin", "stdout", "stderr")}
        asked = {"command": ["exaone-export", *arguments], "folder": str(folder), **files}
        self._parent.stdin.write(json.dumps(asked) + "\n")
        self._parent.stdin.flush()
        status = int(self._parent.stdout.readline())
        stdout, stderr = (Path(files[name]).read_text() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(arguments, status, stdout, stderr)

    def close(self) -> None:
        self._parent.communicate()
        self._folder.cleanup()
