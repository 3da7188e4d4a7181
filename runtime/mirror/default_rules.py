"""What the values of a ``generation_config.json`` must be, by key, so that ``generate()`` can honour them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import WatermarkingConfig

__all__ = ["RULES", "TOKENS", "UNUSABLE"]

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value can be honoured, and what it must be."""


def _whole(least: int) -> Rule:
    return (lambda value: type(value) is int and least <= value <= _MOST), f"a whole number from {least} to {_MOST}"


def _number(text: str, fits: Callable[[float], bool] = lambda _: True) -> Rule:
    return (lambda value: type(value) in (int, float) and abs(value) < _LARGEST and fits(value)), text


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return type(value) is int


def _is_watermark(value: Any) -> bool:
    if not isinstance(value, dict) or any(
        type(value.get(name, 0)) is not int for name in ("hashing_key", "context_width")
    ):
        return False
    try:
        WatermarkingConfig(**value).validate()
        float(value.get("bias", 0))
    except (TypeError, ValueError):
        return False
    return True


def _is_text(value: Any) -> bool:
    """Half of a surrogate pair, which JSON can write, is not text."""
    return isinstance(value, str) and bool(value) and not any("\ud800" <= char <= "\udfff" for char in value)


def _all(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A list of at least one value that passes."""
    return lambda value: isinstance(value, list) and bool(value) and all(map(check, value))


def _some(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """One value that passes, or a list of them."""
    return lambda value: check(value) or _all(check)(value)


def _pair(first: Callable[[Any], bool], second: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) == 2 and first(value[0]) and second(value[1])


_MOST, _LARGEST = 2**31 - 1, 1e30
_FLAG = (_flag, "true or false")
_COUNT, _COUNT_OR_0 = _whole(1), _whole(0)
_ANY_NUMBER, _POSITIVE = _number("a number"), _number("a number above 0", lambda value: value > 0)
_ID = (_is_id, "a token id")
_IDS = (_all(_is_id), "a list of token ids")
_ONE_OR_MORE_IDS = (_some(_is_id), "a token id or a list of them")

UNUSABLE = {
    "is_assistant": "generate() sets it itself, on the smaller model",
    "token_healing": "transformers drops the special tokens of a chat for it",
}
"""Keys that are left out whatever their value, and why."""

RULES: Mapping[str, Rule] = {
    "assistant_confidence_threshold": _ANY_NUMBER,
    "assistant_ensemble_weight": _number("a number between 0 and 1", lambda value: 0 < value < 1),
    "assistant_lookbehind": _COUNT,
    "bad_words_ids": (_all(_all(_is_id)), "a list of lists of token ids"),
    "begin_suppress_tokens": _IDS,
    "bos_token_id": _ID,
    "decoder_start_token_id": _ONE_OR_MORE_IDS,
    "disable_compile": _FLAG,
    "do_sample": _FLAG,
    "early_stopping": (lambda value: _flag(value) or value == "never", "true, false or 'never'"),
    "encoder_no_repeat_ngram_size": _COUNT_OR_0,
    "encoder_repetition_penalty": _POSITIVE,
    "eos_token_id": _ONE_OR_MORE_IDS,
    "epsilon_cutoff": _ANY_NUMBER,
    "eta_cutoff": _ANY_NUMBER,
    "exponential_decay_length_penalty": (_pair(_COUNT_OR_0[0], _POSITIVE[0]), "a list of a start and a factor"),
    "forced_bos_token_id": _ID,
    "forced_eos_token_id": _ONE_OR_MORE_IDS,
    "guidance_scale": _ANY_NUMBER,
    "length_penalty": _ANY_NUMBER,
    "max_length": _COUNT,
    "max_matching_ngram_size": _COUNT,
    "max_new_tokens": _COUNT,
    "max_time": _POSITIVE,
    "min_length": _COUNT_OR_0,
    "min_new_tokens": _COUNT_OR_0,
    "min_p": _number("a number from 0 to 1", lambda value: 0 <= value <= 1),
    "no_repeat_ngram_size": _COUNT_OR_0,
    "num_assistant_tokens": _COUNT,
    "num_assistant_tokens_schedule": (_is_text, "a text"),
    "num_beams": _COUNT,
    "num_return_sequences": _COUNT,
    "output_logits": _FLAG,
    "output_scores": _FLAG,
    "pad_token_id": _ID,
    "prefill_chunk_size": _COUNT,
    "prompt_lookup_num_tokens": _COUNT,
    "remove_invalid_values": _FLAG,
    "renormalize_logits": _FLAG,
    "repetition_penalty": _POSITIVE,
    "return_dict_in_generate": _FLAG,
    "sequence_bias": (_all(_pair(_all(_is_id), _ANY_NUMBER[0])), "a list of pairs of token ids and a number"),
    "stop_strings": (_some(_is_text), "a text or a list of texts, none of them empty"),
    "suppress_tokens": _IDS,
    "target_lookbehind": _COUNT,
    "temperature": _POSITIVE,
    "top_h": _number("a number above 0, up to 1", lambda value: 0 < value <= 1),
    "top_k": _COUNT_OR_0,
    "top_p": _POSITIVE,
    "typical_p": _POSITIVE,
    "use_cache": _FLAG,
    "watermarking_config": (_is_watermark, "an object that transformers' WatermarkingConfig takes"),
}
TOKENS = {key for key, rule in RULES.items() if rule in (_ID, _IDS, _ONE_OR_MORE_IDS)}
"""Keys whose values are token ids."""
