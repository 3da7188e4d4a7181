"""An answer as text, while it is generated."""

from __future__ import annotations

from collections.abc import Iterator

from ..core.requests import FinishReason, Generation, Timings
from ..core.sampling import Logprobs
from ..one_process import OneProcess
from ..text.stream import TextStream

__all__ = ["TextAnswer"]


class TextAnswer(OneProcess):
    """The text of an answer: iterate over its pieces, in one thread.

    Leaving the iteration, by an exception or by closing the iterator, ends the generation.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        tokens: Ids of the answer's tokens so far; the one that ended it is the last.
        logprobs: Of every token, where they were requested.
    """

    instead = "pass on what read() returns, its text"

    def __init__(self, generation: Generation, stream: TextStream) -> None:
        self._generation, self._stream = generation, stream
        self._said: list[str] = []
        self.prompt_tokens = len(generation.request.prompt)
        self.tokens: list[int] = []
        self.logprobs: list[Logprobs] = []

    def __iter__(self) -> Iterator[str]:
        tokens = iter(self._generation)
        try:
            for token in tokens:
                self.tokens.append(token.id)
                if token.logprobs is not None:
                    self.logprobs.append(token.logprobs)
                yield from self._say(self._stream.push(token.id))
        finally:
            self._generation.close()
        yield from self._say(self._stream.finish())

    def _say(self, piece: str) -> Iterator[str]:
        if piece:
            self._said.append(piece)
            yield piece

    def read(self) -> str:
        """Wait for the rest, and return the whole text."""
        for _ in self:
            pass
        return self.text

    def cancel(self) -> None:
        """End it, from any thread."""
        self._generation.cancel()

    @property
    def text(self) -> str:
        """What was given so far."""
        return "".join(self._said)

    @property
    def finish_reason(self) -> FinishReason | None:
        """``stop``, ``length`` or ``cancelled``; None while it goes on."""
        return self._generation.finish_reason

    @property
    def stopped(self) -> str | None:
        """The stop string that ended it, or None."""
        return self._stream.stopped

    @property
    def steps(self) -> int:
        """Steps of the model behind the prompt's: with prompt lookup, fewer than tokens."""
        return self._generation.steps

    @property
    def timings(self) -> Timings:
        """When things happened."""
        return self._generation.timings
