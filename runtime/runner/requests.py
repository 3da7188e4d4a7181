"""From a prompt and options to the request of an engine, with what an artifact's files say where both are silent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from exaone_export.progress import Progress, silent

from ..core.constraint import Constraint
from ..core.requests import Request, fit_length, prompt_ids
from ..text.chat import left_out_of_answers
from ..text.stream import TextStream, stop_texts
from ..text.tokenizer import check_vocabulary
from .lookup import Lookup, lookup_of

if TYPE_CHECKING:
    from .runner import Runner

__all__ = ["request_of", "tokens_of"]


def tokens_of(runner: Runner, prompt: str | Sequence[int]) -> Sequence[int]:
    """Token ids of a prompt.

    Raises:
        PromptError: The text is not Unicode or too long, a token is not the model's, or it is neither a text nor ids.
    """
    tokens = runner.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    prompt_ids(tokens)
    check_vocabulary(runner.tokenizer, tokens, runner.session.vocab_size)
    return tokens


def request_of(
    runner: Runner,
    prompt: str | Sequence[int],
    *,
    max_new_tokens: int | None = None,
    stop: str | Sequence[str] | None = None,
    prompt_lookup_num_tokens: Lookup = None,
    constraint: Constraint | None = None,
    listener: Callable[[], None] | None = None,
    progress: Progress = silent,
    **options: Any,
) -> tuple[Request, TextStream]:
    """What `exaone_export.runtime.runner.runner.Runner.generate` submits, and what decodes the answer.

    Args:
        runner: Whose engine the request is for.
        prompt: As `generate` takes it, and so are the arguments without a description.
        max_new_tokens: As above.
        stop: As above.
        prompt_lookup_num_tokens: As above.
        constraint: Which tokens may come next.
        listener: Is called after every event of the answer, in the engine's thread.
        progress: As above.
        options: As above.

    Raises:
        PromptError: The prompt is empty, holds an unknown token, or does not fit together with its answer.
        UnsupportedOptionError: An option is unknown, or its value is out of range.
    """
    defaults, tokenizer = runner.defaults, runner.tokenizer
    sampling = defaults.sampling(options)
    tokens = tokens_of(runner, prompt)
    length = max_new_tokens
    if length is None and len(tokens):
        length = fit_length(len(tokens), defaults.answer_length(len(tokens)), runner.max_length, is_named=False)
    lookup, adapts = lookup_of(prompt_lookup_num_tokens, runner.prompt_lookup, defaults, sampling)
    texts = defaults.stop_strings if stop is None else stop_texts(stop)

    def stream() -> TextStream:
        return TextStream(tokenizer, left_out=left_out_of_answers(tokenizer), stop=texts)

    request = Request(
        tokens,
        1 if length is None else length,
        sampling,
        defaults.stop_ids,
        stops=_complete(stream()) if texts else None,
        prompt_lookup_num_tokens=lookup,
        lookup_adapts=adapts,
        max_matching_ngram_size=defaults.values.get("max_matching_ngram_size") or 2,
        progress=progress,
        constraint=constraint,
        listener=listener,
    )
    return request, stream()


def _complete(stream: TextStream) -> Callable[[int], bool]:
    """Whether a stop string is complete, told token by token."""

    def stops(token: int) -> bool:
        stream.push(token)
        return stream.stopped is not None

    return stops
