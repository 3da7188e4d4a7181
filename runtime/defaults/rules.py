"""What the values of a ``generation_config.json`` must be, by key, so that they can be honoured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

__all__ = ["RULES", "TOKENS", "UNUSABLE", "fits"]

Rule = tuple[Any, str]
"""The type of a value that can be honoured, and what it is in words."""


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the type that a rule gives."""
    try:
        msgspec.convert(value, kind)
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair, which JSON can write, is not text
    except (TypeError, ValueError):
        return False
    return True


_MOST, _LARGEST = 2**31 - 1, 1e30
_NOT_EMPTY = Meta(min_length=1)
_Text = Annotated[str, _NOT_EMPTY]
_Texts = Annotated[list[_Text], _NOT_EMPTY]
_Ids = Annotated[list[int], _NOT_EMPTY]
_Count = Annotated[int, Meta(ge=1, le=_MOST)]
_CountOr0 = Annotated[int, Meta(ge=0, le=_MOST)]
_Number = Annotated[float, Meta(gt=-_LARGEST, lt=_LARGEST)]
_Biases = Annotated[list[tuple[_Ids, _Number]], _NOT_EMPTY]
_Positive = Annotated[float, Meta(gt=0, lt=_LARGEST)]


class _Watermark(msgspec.Struct, forbid_unknown_fields=True):
    """As transformers' WatermarkingConfig, and its defaults."""

    greenlist_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.25
    bias: _Number = 2.0
    hashing_key: int = 15485863
    seeding_scheme: Literal["lefthash", "selfhash"] = "lefthash"
    context_width: _Count = 1


_FLAG = (bool, "true or false")
_COUNT = (_Count, f"a whole number from 1 to {_MOST}")
_COUNT_OR_0 = (_CountOr0, f"a whole number from 0 to {_MOST}")
_ANY_NUMBER, _POSITIVE = (_Number, "a number"), (_Positive, "a number above 0")
_ID = (int, "a token id")
_IDS = (_Ids, "a list of token ids")
_ONE_OR_MORE_IDS = (int | _Ids, "a token id or a list of them")

UNUSABLE = {
    "is_assistant": "generate() sets it itself, on the smaller model",
    "token_healing": "transformers drops the special tokens of a chat for it",
}
"""Keys that are left out whatever their value, and why."""

RULES: Mapping[str, Rule] = {
    "assistant_confidence_threshold": _ANY_NUMBER,
    "assistant_ensemble_weight": (Annotated[float, Meta(gt=0, lt=1)], "a number between 0 and 1"),
    "assistant_lookbehind": _COUNT,
    "bad_words_ids": (Annotated[list[_Ids], _NOT_EMPTY], "a list of lists of token ids"),
    "begin_suppress_tokens": _IDS,
    "bos_token_id": _ID,
    "decoder_start_token_id": _ONE_OR_MORE_IDS,
    "disable_compile": _FLAG,
    "do_sample": _FLAG,
    "early_stopping": (bool | Literal["never"], "true, false or 'never'"),
    "encoder_no_repeat_ngram_size": _COUNT_OR_0,
    "encoder_repetition_penalty": _POSITIVE,
    "eos_token_id": _ONE_OR_MORE_IDS,
    "epsilon_cutoff": _ANY_NUMBER,
    "eta_cutoff": _ANY_NUMBER,
    "exponential_decay_length_penalty": (tuple[_CountOr0, _Positive], "a list of a start and a factor"),
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
    "min_p": (Annotated[float, Meta(ge=0, le=1)], "a number from 0 to 1"),
    "no_repeat_ngram_size": _COUNT_OR_0,
    "num_assistant_tokens": _COUNT,
    "num_assistant_tokens_schedule": (_Text, "a text"),
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
    "sequence_bias": (_Biases, "a list of pairs of token ids and a number"),
    "stop_strings": (_Text | _Texts, "a text or a list of texts, none of them empty"),
    "suppress_tokens": _IDS,
    "target_lookbehind": _COUNT,
    "temperature": _POSITIVE,
    "top_h": (Annotated[float, Meta(gt=0, le=1)], "a number above 0, up to 1"),
    "top_k": _COUNT_OR_0,
    "top_p": _POSITIVE,
    "typical_p": _POSITIVE,
    "use_cache": _FLAG,
    "watermarking_config": (_Watermark, "an object that transformers' WatermarkingConfig takes"),
}
TOKENS = {key for key, rule in RULES.items() if rule in (_ID, _IDS, _ONE_OR_MORE_IDS)}
"""Keys whose values are token ids."""
