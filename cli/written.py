"""How a command that writes something ends: what was written, its size, how long it took, and the next command."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from exaone_export.artifact.manifest import Manifest
from exaone_export.artifact.sidecars import missing_tokenizer
from exaone_export.model.config.head import read_head
from exaone_export.model.heads import QUESTION_ANSWERING, HeadSpec
from exaone_export.planning.sizes import format_duration, format_size
from exaone_export.targets.target import get_target

from .tables import facts

__all__ = ["Stopwatch", "command_line", "next_of_artifact", "predict_command", "written"]


class Stopwatch:
    """Counts seconds from when it is made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How many have passed."""
        return time.monotonic() - self._began


def written(path: Path, seconds: float, then: str, *more: tuple[str, str]) -> str:
    """What was written, its size and time, and the next command.

    Args:
        path: A file, or a folder of files.
        seconds: How long it took.
        then: The next command.
        more: Lines before these, of a name and a value.
    """
    size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    return facts(
        [*more, ("wrote", f"{path}, {format_size(size)} in {format_duration(seconds)}"), ("next", then)], fold=False
    )


def next_of_artifact(out: Path, model: str, manifest: Manifest) -> str:
    """What an artifact is for: to be built into an engine, to be asked something, or to be compared with its model."""
    if manifest.engine is None and get_target(manifest.target).attention in ("scatter", "node"):
        plugin = ["--plugin", "MODULE"] if get_target(manifest.target).attention == "node" else []
        return command_line("build", out, f"{out}-engine", *plugin)
    if missing_tokenizer(out) is None:
        head = read_head(manifest.model)
        return (
            command_line("generate", out, "-p", "Hello") if head.is_causal_lm else predict_command(out, head, "Hello")
        )
    return command_line("bench", out) if manifest.engine is not None else command_line("parity", out, model)


def predict_command(artifact: str | Path, head: HeadSpec, text: str) -> str:
    """How an artifact whose head gives no next tokens is run; a question comes with its context, in a file."""
    given = ("--input", "FILE.jsonl") if head.kind == QUESTION_ANSWERING else ("--text", text)
    return command_line("predict", artifact, *given)


def command_line(*words: str | Path) -> str:
    """The command, quoted for a shell."""
    return shlex.join(["exaone-export", *map(str, words)])
