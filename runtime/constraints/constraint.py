"""A grammar that holds answers to it, token by token.

Legend: V vocabulary of the logits.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from exaone_export.errors import ConstraintError, GrammarError

from ..text.tokenizer import Tokenizer
from .trial import shared
from .vocabulary import read_vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

__all__ = ["Compiled", "Compiler", "GrammarConstraint"]

_PLACE = re.compile(r"^(error: |at \d+\(\d+\): (failed to compile JSON schema: )?)")
_MOST_KEPT = 32
_MOST_CHARACTERS, _LARGEST_KEPT = 1 << 20, 64 << 10
"""Of the grammars that are kept, all together and each: a compiled one takes a multiple of that."""

MAX_BYTES = 1 << 18
"""Of a grammar."""


class Compiler:
    """Compiles grammars for one artifact; threads may share it.

    Args:
        tokenizer: The artifact's.
        vocab_size: V.
        stop_ids: Tokens that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_ids: Collection[int]) -> None:
        self._of = tokenizer, vocab_size, stop_ids
        self._lock = threading.Lock()
        self._vocabulary: LLTokenizer | None = None
        self._compiled = OrderedDict[str, Compiled]()  # the one that was used last is the last

    def load(self) -> LLTokenizer:
        """Read the vocabulary, which the first grammar needs.

        Raises:
            ArtifactError: llguidance does not know this kind of tokenizer.
            MissingExtraError: llguidance is not installed.
        """
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = read_vocabulary(*self._of)
                shared().start()
            return self._vocabulary

    def compile(self, grammar: str, *, name: str) -> Compiled:
        """Compile a grammar of `lark`, in a time that `trial` bounds; the interpreter's lock is released meanwhile.

        The latest ones are kept compiled, as far as they are not large: clients ask for the same form again and again.

        Args:
            grammar: In llguidance's dialect of Lark.
            name: Of what it was made of, for errors.

        Raises:
            ArtifactError: As `load`.
            GrammarError: The grammar is wrong, too large, or something in it is not supported.
            MissingExtraError: As `load`.
        """
        vocabulary = self.load()
        with self._lock:
            if (known := self._compiled.get(grammar)) is not None:
                self._compiled.move_to_end(grammar)
                return known
        import llguidance

        if (size := len(grammar.encode())) > MAX_BYTES:
            raise GrammarError(
                f"{name} has {size} bytes as a grammar, and at most {MAX_BYTES} are compiled; shorten it."
            )
        error = shared().find_error(grammar, name=name)
        if error is None:
            matcher = llguidance.LLMatcher(vocabulary, grammar, log_level=0, limits=_limits())
            error = str(matcher.get_error()) if matcher.is_error() else None
        if error is not None:
            raise GrammarError(f"{name} cannot be used: {_reason(error)}.")
        compiled = Compiled(matcher, self._of[1])
        if len(grammar) <= _LARGEST_KEPT:
            with self._lock:
                self._compiled[grammar] = compiled
                while len(self._compiled) > _MOST_KEPT or sum(map(len, self._compiled)) > _MOST_CHARACTERS:
                    self._compiled.popitem(last=False)
        return compiled


class Compiled:
    """A compiled grammar, which makes the constraint of each answer."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher, self._size = matcher, vocab_size

    def __call__(self) -> GrammarConstraint:
        """The constraint of one answer."""
        return GrammarConstraint(self._matcher.deep_copy(), self._size)


class GrammarConstraint:
    """Holds one answer to a grammar; see `exaone_export.runtime.core.constraint.Constraint`."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher, self._size = matcher, vocab_size

    def forbid(self, scores_V: np.ndarray) -> None:
        """Set the scores of tokens that may not come next to minus infinity.

        Raises:
            ConstraintError: The grammar became too complex.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed_V = np.unpackbits(bits, bitorder="little", count=self._size).view(bool)
        np.copyto(scores_V, -np.inf, where=~allowed_V)

    def take(self, token: int) -> bool:
        """Note the token that was chosen; True where nothing may follow it.

        Raises:
            ConstraintError: The grammar became too complex.
        """
        self._matcher.consume_token(token)
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            why = _reason(str(self._matcher.get_error()))
            raise ConstraintError(f"the answer's constraint failed ({why}); simplify the schema or the expression.")


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=20_000, verbose_errors=False)


def _reason(error: str) -> str:
    """An error of llguidance's, without where in the grammar it is."""
    lines = error.splitlines() or ["unknown"]
    if lines[0].startswith("NoExtension"):
        return "no text fulfils it"
    found = next((line for line in lines if line.startswith("error: ")), lines[0])  # the parser of regular expressions
    return _PLACE.sub("", found).strip().rstrip(".")
