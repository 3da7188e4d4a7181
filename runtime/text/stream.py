"""The text of tokens while they are generated, up to a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from exaone_export.errors import UnsupportedOptionError

from .detokenizer import detokenizer_of
from .partial import begun
from .tokenizer import Tokenizer, to_ids

__all__ = ["TextStream", "stop_texts"]


def stop_texts(stop: Any) -> tuple[str, ...]:
    """Texts that end an answer, of one or of several.

    Raises:
        UnsupportedOptionError: One is empty, or not a text.
    """
    texts = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, Iterable) else (stop,)
    if not all(isinstance(each, str) for each in texts):
        raise UnsupportedOptionError(f"stop is {stop!r:.60}; it must be a text, or a list of texts.")
    if "" in texts:
        raise UnsupportedOptionError("a stop string is empty; give at least one character, or leave it out.")
    return texts


class TextStream:
    """Decodes tokens as they come: no character is split, and no text is given that later changes.

    The pieces, joined, are what `Tokenizer.decode` gives of all tokens, or what of it is before the first stop string.

    Args:
        tokenizer: Decodes.
        left_out: Ids of tokens that are left out, such as `left_out_of_answers` gives.
        stop: Texts that end the stream. Of two, the one that is complete first counts.

    Raises:
        UnsupportedOptionError: A stop string is empty, or not a text.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, left_out: frozenset[int] = frozenset(), stop: Sequence[str] = ()
    ) -> None:
        self._stop = stop_texts(stop)
        self._detokenizer, self._left_out = detokenizer_of(tokenizer), left_out
        self._held = ""  # may be the beginning of a stop string
        self._stopped: str | None = None

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the stream, or None."""
        return self._stopped

    def push(self, tokens: Any) -> str:
        """Take one token or several, and return the text that is known by now; none once it has stopped."""
        pieces = (self._detokenizer.push(token) for token in to_ids(tokens) if token not in self._left_out)
        return self._up_to_stop("".join(pieces), last=False)

    def finish(self) -> str:
        """Return the rest; no token follows."""
        return self._up_to_stop(self._detokenizer.finish(), last=True)

    def _up_to_stop(self, piece: str, *, last: bool) -> str:
        if self._stopped is not None:
            return ""
        text, self._held = self._held + piece, ""
        found = [(start + len(stop), start, stop) for stop in self._stop if (start := text.find(stop)) >= 0]
        if found:
            _, end, self._stopped = min(found)
            return text[:end]
        end = len(text) if last else len(text) - max((begun(text, stop) for stop in self._stop), default=0)
        self._held = text[end:]
        return text[:end]
