"""Runs the examples of the documentation and writes their output into the pages: `make docs-examples`.

A `console` block holds commands after `$ ` and their output; a `text` block right after a `python` block holds what
that program prints. All pages run in one temporary folder with a link to examples/, the tutorial first, because the
others use its artifact. Of output that has a line `…`, only as many lines as are shown before and after it are kept.
Commands that need a GPU or a published model are in blocks without a name, and are not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial" / "first-artifact.md"
PAGES = [TUTORIAL, ROOT / "README.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]

BLOCK = re.compile(
    r"(?<=```console\n)(?P<console>.*?)(?=^```$)|```python\n(?P<program>[^`]*)```\n\n```text\n", re.S | re.M
)


def main() -> None:
    """Refresh the pages named as arguments, by default all."""
    pages = [Path(name).resolve() for name in sys.argv[1:]] or PAGES
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name in ("examples", "benchmarks"):
            (work / name).symlink_to(ROOT / name)
        if TUTORIAL not in pages:
            _refresh(TUTORIAL, work, write=False)
        for page in pages:
            print(page.relative_to(ROOT), flush=True)
            _refresh(page, work, write=True)


def _refresh(page: Path, work: Path, *, write: bool) -> None:
    text, done, at = page.read_text(encoding="utf-8"), [], 0
    while (found := BLOCK.search(text, at)) is not None:
        done.append(text[at : found.start()])
        if found["console"] is not None:
            done.append(_console(found["console"], work))
            at = found.end()
        else:
            end = text.index("```", found.end())
            shown = _run([sys.executable, "-c", found["program"]], work)
            done += [found[0], _elided(shown, text[found.end() : end])]
            at = end
    if write:
        page.write_text("".join([*done, text[at:]]), encoding="utf-8")


def _console(block: str, work: Path) -> str:
    """The block with every command's output as it is now."""
    parts = re.split(r"^(\$ (?:.*\\\n)*.*\n)", block, flags=re.M)[1:]
    shown = ""
    for command, before in zip(parts[::2], parts[1::2], strict=True):
        print("   ", command.splitlines()[0], flush=True)
        shown += command + _elided(_run(["bash", "-c", command[2:]], work), before)
    return shown


def _run(command: list[str], work: Path) -> str:
    """What a command prints on stdout at 80 columns; one that fails ends the run, before its page is written."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "80"}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"exit status {done.returncode} of {command}:\n{done.stderr}")
    return "".join(line.rstrip() + "\n" for line in done.stdout.splitlines())


def _elided(output: str, before: str) -> str:
    """As many lines of the output as were shown, where some were left out; all of it otherwise."""
    lines, kept = output.splitlines(), before.splitlines()
    if "…" not in kept:
        return output
    head, tail = kept.index("…"), len(kept) - kept.index("…") - 1
    if head + tail >= len(lines):
        return output
    return "\n".join([*lines[:head], "…", *lines[len(lines) - tail :]]) + "\n"


if __name__ == "__main__":
    main()
