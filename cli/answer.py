"""The answer of ``exaone-export generate`` by the runner, printed while it is generated."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from itertools import chain

from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.core.requests import Request, Timings
from exaone_export.runtime.runner.answers import TextAnswer
from exaone_export.runtime.runner.runner import Runner, open_tokenizer
from exaone_export.runtime.text.chat import ChatFormat
from exaone_export.runtime.text.tokenizer import Tokenizer, check_vocabulary
from exaone_export.targets.cache_layout import CacheLayout

from .answer_json import as_json
from .asked import ANSWER_TOKENS, Asked
from .output import say, tell
from .progress import show_progress, show_slow_progress

__all__ = ["print_answer"]

_LONG_TO_LOAD = 256 << 20  # bytes; less is there before a bar would be


def print_answer(artifact: Artifact, asked: Asked) -> None:
    """Load the artifact, and print its answer; what cannot be answered is refused before it is loaded."""
    began = time.perf_counter()
    tokenizer = open_tokenizer(artifact)
    tokens = _encode(tokenizer, asked)
    check_vocabulary(tokenizer, tokens, artifact.spec.vocab_size)
    max_length = CacheLayout.from_dict(artifact.manifest.cache).max_length
    length = asked.max_new_tokens or min(ANSWER_TOKENS, max(max_length - len(tokens), 1))
    Request(tokens, length).check(artifact.spec.vocab_size, max_length)
    options = {name: value for name, value in asked.settings.items() if name not in ("do_sample", "num_beams")}
    options = {"temperature": 0.0, **options, "seed": asked.seed}
    with _load(artifact, tokenizer, asked.threads) as runner:
        runner.defaults.warn(overridden=asked.settings)
        loaded = time.perf_counter() - began
        with show_slow_progress({"prefill": "tokens"}) as report:
            answer = runner.generate(tokens, max_new_tokens=length, progress=report, **options)
            pieces = chain(answer, _stop_string(answer))
            first = next(pieces, "")
        said = []
        for piece in chain((first,), pieces):
            said.append(piece)
            if not asked.as_json:
                say(piece, nl=False)
        if asked.as_json:
            say(_as_json("".join(said), answer, asked, loaded))
        else:
            say("")
            tell(_closing_line(answer, loaded))
    if answer.finish_reason == "length":
        tell(f"warning: the answer was cut off at {len(answer.tokens)} tokens; {_more(answer, max_length)}.")


def _encode(tokenizer: Tokenizer, asked: Asked) -> list[int]:
    if asked.raw:
        return tokenizer.encode(asked.prompt)
    return ChatFormat(tokenizer).encode(asked.messages, enable_thinking=asked.thinking, tools=asked.tools)


def _load(artifact: Artifact, tokenizer: Tokenizer, threads: int | None) -> Runner:
    num_bytes = sum(record["size"] for record in artifact.manifest.files.values())
    with show_progress() if num_bytes >= _LONG_TO_LOAD else contextlib.nullcontext() as report:
        if report is not None:
            report("load", 0, 1)
        return Runner.from_artifact(artifact, tokenizer=tokenizer, threads=threads)


def _stop_string(answer: TextAnswer) -> Iterator[str]:
    """What has ended the answer, which is printed as transformers gives it; read behind the answer."""
    if answer.stopped is not None:
        yield answer.stopped


def _rate(answer: TextAnswer) -> float | None:
    return answer.timings.tokens_per_second(len(answer.tokens))


def _closing_line(answer: TextAnswer, loaded: float) -> str:
    timings, rate = answer.timings, _rate(answer)
    first = f"loaded in {loaded:.2f} s, first token after {_first(timings):.2f} s"
    speed = "" if rate is None else f", {rate:.1f} tokens/s"
    ends = {"length": "cut off", "cancelled": "cancelled"}
    why = ends.get(answer.finish_reason or "", "end of turn" if answer.stopped is None else "stop string")
    return f"{len(answer.tokens)} tokens, {first}{speed}; stopped by: {why}"


def _first(timings: Timings) -> float:
    return timings.time_to_first_token or 0.0


def _more(answer: TextAnswer, max_length: int) -> str:
    room = max_length - answer.prompt_tokens
    if len(answer.tokens) < room:
        return f"pass --max-new-tokens with more, up to {room}"
    return f"the artifact holds {max_length} tokens, so export with a larger --max-length"


def _as_json(said: str, answer: TextAnswer, asked: Asked, loaded: float) -> str:
    timings, rate = answer.timings, _rate(answer)
    seconds = (timings.last_token or timings.submitted) - timings.submitted
    times = {
        "load_seconds": round(loaded, 3),
        "first_token_seconds": round(_first(timings), 4),
        "tokens_per_second": None if rate is None else round(rate, 2),
    }
    return as_json(said, asked, answer.prompt_tokens, answer.tokens, answer.finish_reason, seconds, times)
