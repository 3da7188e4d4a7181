"""A ``generation_config.json``, held to what an artifact can honour.

The file comes from the checkpoint unchanged, so that its values are not the caller's errors. What can be honoured
stays; the rest is left out, and told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exaone_export.artifact import sidecars
from exaone_export.errors import ArtifactError, UnsupportedOptionError
from exaone_export.files import strict_json

from .refused import REFUSED, refuse_options
from .rules import RULES, TOKENS, UNUSABLE, fits

__all__ = ["NAME", "read_generation_config"]

NAME = "generation_config.json"


def read_generation_config(folder: Path, vocab_size: int) -> tuple[dict[str, Any] | None, list[str]]:
    """The values of a folder's file that can be honoured, by key.

    Args:
        folder: An artifact.
        vocab_size: The model's.

    Returns:
        The values, None where there is no such file; and of each that is left out the end of a sentence, which begins
        with the file's path.

    Raises:
        ArtifactError: The file is not JSON.
    """
    path = folder / NAME
    if not path.exists():
        return None, []
    try:
        given = strict_json.read_object(path, max_bytes=sidecars.max_bytes_of(NAME), error=ArtifactError)
    except ArtifactError as error:
        raise ArtifactError(
            f"{path} cannot be read; correct it in the checkpoint and export the model again."
        ) from error
    return _usable(given, vocab_size)


def _usable(given: Mapping[str, Any], vocab_size: int) -> tuple[dict[str, Any], list[str]]:
    """What can be honoured, and what cannot, each as the end of a sentence.

    Unknown keys are left out, as transformers takes no notice of them.
    """
    kept, flaws = dict[str, Any](), list[str]()
    for key, value in given.items():
        if value is None or key not in RULES.keys() | UNUSABLE.keys() | REFUSED.keys():
            continue
        ignored = f"gives {key}={value!r:.60}, which is ignored"
        if key in UNUSABLE:
            if value is not False:
                flaws.append(f"{ignored}: {UNUSABLE[key]}")
            continue
        if key in REFUSED:
            try:
                refuse_options({key: value})
            except UnsupportedOptionError as error:
                flaws.append(f"{ignored}: {str(error).partition(': ')[2].partition(';')[0]}")
            continue
        kind, text = RULES[key]
        if not fits(value, kind):
            flaws.append(f"{ignored}: it must be {text}")
            continue
        known, unknown = _known(key, value, vocab_size)
        if unknown:
            flaws.append(f"names {key} {unknown!r:.60}, which is ignored: the vocabulary is 0 to {vocab_size - 1}")
        if known not in ([], None):
            kept[key] = known
    return kept, [*flaws, *_resolve(kept)]


def _known(key: str, value: Any, vocab_size: int) -> tuple[Any, list[Any]]:
    """The part of a value that is about tokens of the vocabulary, and the rest."""

    def exist(*tokens: int) -> bool:
        return all(0 <= token < vocab_size for token in tokens)

    if key == "bad_words_ids":  # a sequence with a token outside the vocabulary never occurs
        return _split(value, lambda sequence: exist(*sequence))
    if key == "sequence_bias":
        return _split([[tokens, float(bias)] for tokens, bias in value], lambda pair: exist(*pair[0]))
    if key not in TOKENS:
        return value, []
    if isinstance(value, list):
        return _split(value, exist)
    return (value, []) if exist(value) else (None, [value])


def _split(values: list[Any], check: Callable[[Any], bool]) -> tuple[list[Any], list[Any]]:
    return [value for value in values if check(value)], [value for value in values if not check(value)]


def _resolve(kept: dict[str, Any]) -> list[str]:
    """Remove what contradicts the rest of the file; returns the ends of sentences about it."""
    flaws = []

    def leave_out(key: str, reason: str) -> None:
        flaws.append(f"gives {key}={kept.pop(key)!r:.60}, which is ignored: {reason}")

    beams, answers = kept.get("num_beams", 1), kept.get("num_return_sequences", 1)
    if answers > 1 and answers > beams and not (beams == 1 and kept.get("do_sample")):
        leave_out("num_return_sequences", "without sampling there are as many answers as beams")
    if beams > 1 and "prompt_lookup_num_tokens" in kept:
        leave_out("prompt_lookup_num_tokens", f"guesses are for one row, and num_beams is {beams}")
    if kept.get("use_cache") is False and "prompt_lookup_num_tokens" in kept:
        leave_out("prompt_lookup_num_tokens", "guesses need the cache, and use_cache is false")
    if "prompt_lookup_num_tokens" in kept and "assistant_ensemble_weight" in kept:
        leave_out("assistant_ensemble_weight", "prompt lookup has no second model")
    if "exponential_decay_length_penalty" in kept and "eos_token_id" not in kept:
        leave_out("exponential_decay_length_penalty", "it makes the end likelier, and the file names no eos_token_id")
    for key in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = kept.get(key, ())
        forced = {forced} if isinstance(forced, int) else set(forced)
        if forced and forced <= set(kept.get("suppress_tokens", ())):
            leave_out(key, "suppress_tokens forbids the same token")
    return flaws
