"""The answer of ``exaone-export generate`` by the runner, printed while it is generated."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from itertools import chain

from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.runner.answers import TextAnswer
from exaone_export.runtime.runner.runner import Runner

from .asked import Asked
from .interruption import first_interrupt
from .outcome import Outcome, report
from .output import say
from .prepared import Prepared
from .progress import show_progress, show_slow_progress

__all__ = ["print_answer"]

_LONG_TO_LOAD = 256 << 20  # bytes; less is there before a bar would be


def print_answer(artifact: Artifact, asked: Asked, prepared: Prepared) -> int:
    """Load the artifact and print its answer; returns the exit status."""
    began = time.perf_counter()
    with _load(artifact, asked, prepared) as runner:
        runner.defaults.warn(overridden=asked.settings)
        loaded = time.perf_counter() - began
        with contextlib.ExitStack() as waiting:
            progress = waiting.enter_context(show_slow_progress({"prefill": "tokens"}))
            answer = runner.generate(
                prepared.tokens,
                max_new_tokens=prepared.length,
                stop=asked.settings.get("stop_strings"),
                prompt_lookup_num_tokens=asked.settings.get("prompt_lookup_num_tokens"),
                progress=progress,
                **prepared.options,
            )
            said = []
            with first_interrupt(answer.cancel):
                for piece in chain(answer, _stop_string(answer)):
                    waiting.close()  # the bar is gone before the answer begins
                    said.append(piece)
                    if not asked.as_json:
                        say(piece, nl=False)
        return report(_outcome("".join(said), answer, loaded), asked, prepared)


def _load(artifact: Artifact, asked: Asked, prepared: Prepared) -> Runner:
    num_bytes = sum(record["size"] for record in artifact.manifest.files.values())
    is_shown = num_bytes >= _LONG_TO_LOAD and sys.stderr.isatty()
    with show_progress() if is_shown else contextlib.nullcontext() as progress:
        if progress is not None:
            progress("load", 0, 1)
        return Runner.from_artifact(artifact, tokenizer=prepared.tokenizer, threads=asked.threads, graphs=asked.graphs)


def _stop_string(answer: TextAnswer) -> Iterator[str]:
    """What has ended the answer, which is printed as transformers gives it; read behind the answer."""
    if answer.stopped is not None:
        yield answer.stopped


def _outcome(said: str, answer: TextAnswer, loaded: float) -> Outcome:
    timings, tokens = answer.timings, answer.tokens
    assert answer.finish_reason is not None
    return Outcome(
        said,
        tokens,
        answer.finish_reason,
        "end of turn" if answer.stopped is None else "stop string",
        loaded,
        timings.time_to_first_token,
        timings.tokens_per_second(len(tokens)),
        (timings.last_token or timings.submitted) - timings.submitted,
    )
