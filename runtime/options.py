"""What `generate()` and `forward()` refuse by name, and how long an answer may become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from exaone_export.errors import PromptError, UnsupportedOptionError

_NO_INSIDES = "an exported graph gives logits and caches only; run the checkpoint in transformers to look inside"
_OTHER_CACHE = "an artifact runs on its own hybrid cache; omit it"
HUB_CODE = "code of a Hub repository is never run; omit it"
_SPECULATION = "the artifact holds no draft heads; use prompt_lookup_num_tokens or assistant_model"

REFUSED: Mapping[str, str] = {
    "assistant_early_exit": _SPECULATION,
    "cache_config": _OTHER_CACHE,
    "cache_implementation": _OTHER_CACHE,
    "compile_config": "a session runs the graph and nothing is compiled; omit it",
    "constraints": HUB_CODE,
    "continuous_batching_config": "requests are not batched continuously; pass them as one batch",
    "diversity_penalty": HUB_CODE,
    "dola_layers": HUB_CODE,
    "force_words_ids": HUB_CODE,
    "inputs_embeds": "the graph begins with token ids; pass input_ids",
    "labels": "no loss is computed; take the logits and compute it",
    "low_memory": "transformers no longer has it; omit it",
    "max_cache_len": _OTHER_CACHE,
    "num_beam_groups": HUB_CODE,
    "output_attentions": _NO_INSIDES,
    "output_hidden_states": _NO_INSIDES,
    "penalty_alpha": HUB_CODE,
    "speculation_type": _SPECULATION,
    "synced_gpus": "an artifact runs in one process; omit it",
    "trust_remote_code": HUB_CODE,
    "use_mtp": _SPECULATION,
}
# "hybrid" is what a model with windows used to be given by default, and what this cache is.
_NEUTRAL: Mapping[str, Any] = {"num_beam_groups": 1, "cache_implementation": "hybrid"}


def refuse_options(options: Mapping[str, Any]) -> None:
    """Refuse what would change the answer if it were dropped.

    Args:
        options: Values by name; None, False and 0 count as not given.

    Raises:
        UnsupportedOptionError: A refused option is given.
    """
    for name, reason in REFUSED.items():
        value = options.get(name)
        neutral = isinstance(value, (int, float, str)) and value in (0, _NEUTRAL.get(name))
        if value is not None and not neutral:
            raise UnsupportedOptionError(f"{name} is not supported: {reason}.")


def refuse_unknown(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of `forward()` that no exported graph takes; None and False count as not given.

    Raises:
        UnsupportedOptionError: One is given.
    """
    given = {name: value for name, value in arguments.items() if value is not None and value is not False}
    if not given:
        return
    refuse_options(given)
    for name in given:
        if name not in REFUSED:
            raise UnsupportedOptionError(f"{name} is not an argument of an exported model; omit it.")


def check_prompt_lookup(settings: Any) -> None:
    """Refuse what prompt lookup cannot go with, and what would silently turn it off.

    Args:
        settings: A ``GenerationConfig``.

    Raises:
        UnsupportedOptionError: An option contradicts ``prompt_lookup_num_tokens``, or a number is below 1.
    """
    if settings.prompt_lookup_num_tokens is None:
        return
    for name in ("prompt_lookup_num_tokens", "max_matching_ngram_size"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UnsupportedOptionError(f"{name} is {value}; it must be at least 1, or omitted.")
    for name, alone in (("num_beams", 1), ("num_return_sequences", 1), ("use_cache", True)):
        value = getattr(settings, name)
        if value not in (None, alone):
            raise UnsupportedOptionError(
                f"prompt_lookup_num_tokens is not supported with {name}={value}: it continues one row, and takes wrong "
                f"guesses back out of its cache; omit one of the two."
            )
    if settings.assistant_ensemble_weight is not None:
        raise UnsupportedOptionError(
            "assistant_ensemble_weight is not supported with prompt_lookup_num_tokens, which has no second model; omit "
            "one of the two."
        )


def check_prompt_lookup_inputs(rows: int, assistant_model: Any) -> None:
    """Refuse a batch, and a second source of guesses.

    Raises:
        UnsupportedOptionError: There is one.
    """
    if rows != 1:
        raise UnsupportedOptionError(
            f"prompt_lookup_num_tokens is not supported for a batch of {rows} rows; pass one prompt at a time, or omit "
            f"it."
        )
    if assistant_model is not None:
        raise UnsupportedOptionError(
            "assistant_model is not supported with prompt_lookup_num_tokens: guesses come from one of them; omit the "
            "other."
        )


def check_tokens(input_ids: Any, vocab_size: int) -> torch.Tensor:
    """``[B, S]`` int64 token ids, all of the vocabulary.

    Raises:
        PromptError: They are not that.
    """
    if not isinstance(input_ids, torch.Tensor) or input_ids.ndim != 2 or input_ids.is_floating_point():
        raise PromptError("input_ids must be an integer tensor of shape [batch, columns]; take it from the tokenizer.")
    if not input_ids.numel():
        raise PromptError(f"input_ids has shape {list(input_ids.shape)}, and a prompt has at least one token.")
    input_ids = input_ids.to("cpu", torch.int64)
    lowest, highest = (int(end) for end in input_ids.aminmax())
    if lowest < 0 or highest >= vocab_size:
        raise PromptError(
            f"input_ids holds token {lowest if lowest < 0 else highest}, and the vocabulary is 0 to {vocab_size - 1}; "
            f"use the artifact's own tokenizer, and none of the tokens that were added to it alone."
        )
    return input_ids


def check_batch(rows: int, max_batch: int | None) -> None:
    """Refuse more rows than an engine was built for.

    Raises:
        PromptError: ``rows`` is above ``max_batch``.
    """
    if max_batch is not None and rows > max_batch:
        raise PromptError(
            f"the batch has {rows} rows, and the engine takes {max_batch}; pass fewer at a time, or run: exaone-export "
            f"build ARTIFACT OUT --max-batch {rows}."
        )


def check_length(tokens: int, max_length: int) -> None:
    """Refuse more tokens than a row of the cache holds.

    Raises:
        PromptError: ``tokens`` is above ``max_length``.
    """
    if tokens > max_length:
        raise PromptError(
            f"the prompt and what follows come to {tokens} tokens, and the artifact holds {max_length}; shorten it, or "
            f"export with --max-length {tokens} or more."
        )


def allowed_answer(prompt: int, asked: int, max_length: int, explicit: bool) -> int:
    """New tokens that fit the artifact.

    Args:
        prompt: Tokens of the longest row.
        asked: New tokens asked for.
        max_length: The most tokens, prompt and answer together, that the artifact holds.
        explicit: Whether the caller named a number, which is then honoured or refused; a default is shortened.

    Raises:
        PromptError: The prompt leaves no room, or less than was named.
    """
    check_length(prompt, max_length)
    room = max_length - prompt
    if asked <= room:
        return asked
    if explicit or not room:
        raise PromptError(
            f"a prompt of {prompt} tokens and an answer of up to {asked} come to {prompt + asked}, and the artifact "
            f"holds {max_length}; ask for less, or export with --max-length {prompt + asked} or more."
        )
    return room


def kept_columns(logits_to_keep: int | torch.Tensor, columns: int) -> Sequence[int]:
    """The columns whose logits are wanted, each once, in order.

    Args:
        logits_to_keep: As transformers takes it: the number of last columns, 0 for all; column indices ``[K]`` or
            ``[B, K]``; or a mask ``[B, S]``.
        columns: S.

    Raises:
        PromptError: An index is outside.
    """
    if isinstance(logits_to_keep, int):
        return range(max(columns - logits_to_keep, 0) if logits_to_keep > 0 else 0, columns)
    if logits_to_keep.dtype == torch.bool:
        mask = logits_to_keep if logits_to_keep.ndim == 1 else logits_to_keep.any(0)
        return list(mask.nonzero().flatten().tolist())
    if logits_to_keep.numel() and not -columns <= int(logits_to_keep.min()) <= int(logits_to_keep.max()) < columns:
        raise PromptError(f"logits_to_keep names a column outside 0 to {columns - 1}; correct it.")
    return list((logits_to_keep % columns).unique().tolist())


def arrange_logits(
    logits_BKV: torch.Tensor, logits_to_keep: int | torch.Tensor, kept: Sequence[int], columns: int
) -> torch.Tensor:
    """Give the logits of the ``kept`` columns the order, and the shape, that ``logits_to_keep`` asks for."""
    if isinstance(logits_to_keep, int):
        return logits_BKV
    if logits_to_keep.dtype == torch.bool:
        return logits_BKV if logits_to_keep.ndim == 1 else logits_BKV[logits_to_keep[:, torch.tensor(kept)]]
    place = torch.searchsorted(torch.tensor(kept), logits_to_keep.cpu() % columns).to(logits_BKV.device)
    return logits_BKV[:, place] if place.ndim == 1 else torch.take_along_dim(logits_BKV, place[..., None], dim=1)


def zero_padding(logits_BKV: torch.Tensor, kept: Sequence[int], first: int, pads: Sequence[int]) -> None:
    """Clear the logits of padded columns, in place; ``first`` is the index of the call's first column."""
    if max(pads) <= first:
        return
    for row, pad in enumerate(pads):
        padded = sum(first + column < pad for column in kept)
        if padded:
            logits_BKV[row, :padded] = 0
