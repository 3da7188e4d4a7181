"""The defaults of ``generate()`` that a ``generation_config.json`` gives, held to what an artifact can honour.

The file comes from the checkpoint unchanged, so that its values are not the caller's errors. What can be honoured
stays; the rest is left out, with a warning that names the file and the key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import Exaone4Config, GenerationConfig

from exaone_export.artifact import sidecars
from exaone_export.errors import ArtifactError, UnsupportedOptionError
from exaone_export.files import strict_json

from . import options
from .default_rules import RULES, TOKENS, UNUSABLE, fits

__all__ = ["fit_to_one_answer", "no_defaults", "read_defaults"]

_NAME = "generation_config.json"
_log = logging.getLogger(__name__)


def read_defaults(folder: Path, config: Exaone4Config) -> GenerationConfig:
    """The folder's defaults, or the model's own special tokens where it has no such file.

    A value that is left out is logged by this module as a warning.

    Args:
        folder: An artifact.
        config: The model's, for the vocabulary.

    Raises:
        ArtifactError: The file is not JSON, or its values contradict each other.
    """
    path = folder / _NAME
    if not path.exists():
        return GenerationConfig.from_model_config(config)
    limit = sidecars.max_bytes_of(_NAME)
    try:
        given = strict_json.read_object(path, max_bytes=limit, error=ArtifactError)
    except ArtifactError as error:
        raise ArtifactError(
            f"{path} cannot be read; correct it in the checkpoint and export the model again."
        ) from error
    kept, flaws = _usable(given, config.vocab_size)
    for flaw in flaws:
        _log.warning("%s %s.", path, flaw)
    try:
        return GenerationConfig(**kept)
    except (AttributeError, TypeError, ValueError) as error:
        shown = " ".join(str(error).split())
        raise ArtifactError(
            f"{path} has values that transformers refuses ({shown.rstrip('.')}); correct it in the checkpoint and "
            f"export the model again."
        ) from error


@contextmanager
def no_defaults(model: Any) -> Iterator[None]:
    """Let ``model.generate()`` use its arguments alone, for tokens and times that are compared."""
    before, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def fit_to_one_answer(defaults: GenerationConfig, settings: Mapping[str, Any], tokenizer: Any) -> None:
    """Remove from an artifact's defaults what a command that prints one answer cannot use, with warnings.

    Args:
        defaults: Changed in place.
        settings: What the command passes to ``generate()``.
        tokenizer: As `exaone_export.runtime.mirror.text.tokenizer.load_tokenizer` gives it.

    Raises:
        UnsupportedOptionError: A setting cannot be honoured together with a default.
    """
    if (defaults.num_return_sequences or 1) > 1:
        _log.warning(
            "%s gives num_return_sequences=%s, which is ignored: one answer is printed.",
            _NAME,
            defaults.num_return_sequences,
        )
    for name in ("num_return_sequences", "return_dict_in_generate", "output_scores", "output_logits"):
        setattr(defaults, name, None)  # the answer is the same
    if settings.get("num_beams", 1) > 1:
        defaults.prompt_lookup_num_tokens = None
    if "prompt_lookup_num_tokens" in settings:
        defaults.use_cache = defaults.assistant_ensemble_weight = None
        if "num_beams" not in settings and (defaults.num_beams or 1) > 1:
            raise UnsupportedOptionError(
                f"{_NAME} of the artifact gives num_beams={defaults.num_beams}, and prompt lookup continues one row; "
                f"pass --num-beams 1 too, or leave --prompt-lookup out."
            )
    if defaults.stop_strings is not None:
        given = defaults.stop_strings
        given = [given] if isinstance(given, str) else given
        unknown = [text for text in given if not _can_end(text, tokenizer)]
        if unknown:
            _log.warning(
                "%s gives stop_strings %r, which is ignored: no token of the vocabulary ends it.", _NAME, unknown
            )
        defaults.stop_strings = [text for text in given if text not in unknown] or None


def _can_end(text: str, tokenizer: Any) -> bool:
    """Whether a token ends with the text's last character; transformers' stop strings fail without one."""
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    said: str = tokenizer.decode(tokens)
    return said.endswith(text[-1])


def _usable(given: Mapping[str, Any], vocab_size: int) -> tuple[dict[str, Any], list[str]]:
    """What can be honoured, and what cannot, each as the end of a sentence.

    Unknown keys are left out, as transformers takes no notice of them.
    """
    kept, flaws = dict[str, Any](), list[str]()
    for key, value in given.items():
        if value is None or key not in RULES.keys() | UNUSABLE.keys() | options.REFUSED.keys():
            continue
        ignored = f"gives {key}={value!r:.60}, which is ignored"
        if key in UNUSABLE:
            if value is not False:
                flaws.append(f"{ignored}: {UNUSABLE[key]}")
            continue
        if key in options.REFUSED:
            try:
                options.refuse_options({key: value})
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
