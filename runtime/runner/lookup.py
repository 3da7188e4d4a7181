"""How many tokens are guessed from the text so far: a caller, a program and ``generation_config.json`` may say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from exaone_export.errors import UnsupportedOptionError

if TYPE_CHECKING:
    from ..core.sampling import Sampling
    from .defaults import Defaults

__all__ = ["AUTO", "OFF", "Lookup", "default_lookup", "lookup_of"]

AUTO: Literal["auto"] = "auto"
OFF: Literal["off"] = "off"
Lookup = int | Literal["auto", "off"] | None
"""The most tokens that are guessed at once; ``"auto"`` for as few as are expected to save time, ``"off"`` for none."""

_FILES = "prompt_lookup_num_tokens"
_MOST = 10  # that "auto" guesses; longer guesses are rarely right to their end


def lookup_of(asked: Lookup, default: Lookup, defaults: Defaults, sampling: Sampling) -> tuple[int | None, bool]:
    """The most tokens to guess, and whether fewer are guessed where more would cost time.

    How many are guessed changes in which steps an answer is computed, and so its rounding. With a seed, nothing is
    guessed unless the caller says so, so that the same seed draws the same tokens however fast the machine is.

    Args:
        asked: Of the caller.
        default: Of the program, where the caller is silent; None for the file's.
        defaults: The file's.
        sampling: How tokens are chosen.

    Raises:
        UnsupportedOptionError: A text is neither of the two.
    """
    chosen = asked if asked is not None else default if default is not None else defaults.values.get(_FILES)
    if chosen == AUTO:
        reproducible = asked is None and sampling.draws and sampling.seed is not None
        return (None, False) if reproducible else (_MOST, True)
    if isinstance(chosen, str):
        if chosen != OFF:
            raise UnsupportedOptionError(
                f"prompt_lookup_num_tokens is {chosen!r:.40}; give a number of tokens, {AUTO!r} or {OFF!r}."
            )
        return None, False
    return chosen, False


def default_lookup(defaults: Defaults) -> Lookup:
    """Of a program that guesses by itself: the file's number, else `AUTO`."""
    found: Lookup = defaults.values.get(_FILES, AUTO)
    return found
