"""The options of a call of `generate()` or `forward()`, and which of them are refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from transformers import GenerationConfig

from exaone_export.errors import PromptError, UnsupportedOptionError

from ..defaults.refused import REFUSED, refuse_options

_FEW = 16
"""Tokens that Python looks at sooner than PyTorch: every token of an answer comes this way."""


def merge_options(
    defaults: GenerationConfig, config: GenerationConfig | None, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a call of `generate()`, by name: its arguments, its config's values, then the model's defaults."""
    own = {} if config is None else {name: value for name, value in vars(config).items() if value is not None}
    return {**vars(defaults), **own, **arguments}


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


def check_cache_options(options: Mapping[str, Any]) -> None:
    """Refuse chunks of no tokens, and drafts without a cache to take them back from.

    Args:
        options: Those of `merge_options`.

    Raises:
        UnsupportedOptionError: An option requests them.
    """
    chunk = options.get("prefill_chunk_size")
    if chunk is not None and chunk < 1:
        raise UnsupportedOptionError(f"prefill_chunk_size is {chunk}; it must be at least 1, or omitted.")
    if options.get("use_cache") is False and options.get("assistant_model") is not None:
        raise UnsupportedOptionError(
            "assistant_model is not supported with use_cache=False: rejected drafts are taken back out of the cache; "
            "omit one of the two."
        )


def given_cache(past_key_values: Any, cache: Any) -> tuple[str, Any]:
    """The cache that is given under either name, behind that name; None for none.

    Raises:
        UnsupportedOptionError: There are two.
    """
    if past_key_values is not None and cache is not None:
        raise UnsupportedOptionError("past_key_values and cache are the same argument; pass one of them.")
    return ("past_key_values", past_key_values) if cache is None else ("cache", cache)


def check_move(wanted: Sequence[Any], device: torch.device, dtype: torch.dtype) -> None:
    """Refuse to move a model to another device or dtype.

    Args:
        wanted: The arguments of `to`.
        device: The model's.
        dtype: The model's.

    Raises:
        UnsupportedOptionError: One of the arguments is another device or dtype.
    """
    named = (value for value in wanted if isinstance(value, str | int | torch.device) and not isinstance(value, bool))
    devices = [torch.device(value) for value in named]  # a bool is a flag such as non_blocking
    if any(wish.type != device.type for wish in devices):
        raise UnsupportedOptionError("an artifact cannot be moved; export it for the target that it is to run on.")
    if any(value != dtype for value in wanted if isinstance(value, torch.dtype)):
        raise UnsupportedOptionError("an artifact's precision is fixed; export it with --precision.")


def check_prompt_lookup(options: Mapping[str, Any], rows: int) -> None:
    """Refuse what prompt lookup cannot go with, and what would silently turn it off.

    Args:
        options: Those of `merge_options`, with ``prompt_lookup_num_tokens``.
        rows: Prompts of the batch.

    Raises:
        UnsupportedOptionError: An option contradicts ``prompt_lookup_num_tokens``, or a number is below 1.
    """
    for name in ("prompt_lookup_num_tokens", "max_matching_ngram_size"):
        value = options.get(name)
        if value is not None and value < 1:
            raise UnsupportedOptionError(f"{name} is {value}; it must be at least 1, or omitted.")
    for name, alone in (("num_beams", 1), ("num_return_sequences", 1), ("use_cache", True)):
        value = options.get(name)
        if value not in (None, alone):
            raise UnsupportedOptionError(
                f"prompt_lookup_num_tokens is not supported with {name}={value}: it continues one row, and takes wrong "
                f"guesses back out of its cache; omit one of the two."
            )
    if options.get("assistant_ensemble_weight") is not None:
        raise UnsupportedOptionError(
            "assistant_ensemble_weight is not supported with prompt_lookup_num_tokens, which has no second model; omit "
            "one of the two."
        )
    if rows != 1:
        raise UnsupportedOptionError(
            f"prompt_lookup_num_tokens is not supported for a batch of {rows} rows; pass one prompt at a time, or omit "
            f"it."
        )
    if options.get("assistant_model") is not None:
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
    if input_ids.dtype != torch.int64 or not input_ids.is_cpu:
        input_ids = input_ids.to("cpu", torch.int64)
    if input_ids.numel() <= _FEW:
        ids = list(chain.from_iterable(input_ids.tolist()))
        lowest, highest = min(ids), max(ids)
    else:
        lowest, highest = (int(end) for end in input_ids.aminmax())
    if lowest < 0 or highest >= vocab_size:
        raise PromptError(
            f"input_ids holds token {lowest if lowest < 0 else highest}, and the vocabulary is 0 to {vocab_size - 1}; "
            f"use the artifact's own tokenizer, and none of the tokens that were added to it alone."
        )
    return input_ids


def prompt_tokens(inputs: Any, input_ids: Any, bos_token_id: int | None) -> Any:
    """The prompt under either of its names; without one, the bos token.

    Raises:
        PromptError: There are two prompts, or none and no such token.
    """
    if inputs is not None and input_ids is not None:
        raise PromptError("inputs and input_ids are the same argument; pass one of them.")
    if inputs is not None or input_ids is not None:
        return input_ids if inputs is None else inputs
    if bos_token_id is None:
        raise PromptError("there is no prompt, and the model has no bos_token_id to start from; pass input_ids.")
    return torch.tensor([[bos_token_id]])


def infer_mask(tokens_BS: torch.Tensor, options: Mapping[str, Any]) -> torch.Tensor | None:
    """The mask of a prompt that comes without one, as transformers infers it.

    The padding token marks padding unless it ends texts too. Then one row has no padding, and the answer for several is
    None, since transformers warns of them.
    """
    pad, ends = options.get("pad_token_id"), options.get("eos_token_id")
    if pad is None or pad in (ends if isinstance(ends, (list, tuple)) else [ends]):
        return torch.ones_like(tokens_BS) if len(tokens_BS) == 1 else None
    return tokens_BS.ne(pad).long()


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


def arrange(output_BK: torch.Tensor, logits_to_keep: torch.Tensor, kept: Sequence[int], columns: int) -> torch.Tensor:
    """Give an output ``[B, K, …]`` of the ``kept`` columns the order and shape that ``logits_to_keep`` asks for."""
    if logits_to_keep.dtype == torch.bool:
        return output_BK if logits_to_keep.ndim == 1 else output_BK[logits_to_keep[:, torch.tensor(kept)]]
    place = torch.searchsorted(torch.tensor(kept), logits_to_keep.cpu() % columns).to(output_BK.device)
    if place.ndim == 1:
        return output_BK[:, place]
    return torch.take_along_dim(output_BK, place[(..., *[None] * (output_BK.ndim - 2))], dim=1)


def zero_padding(output_BK: torch.Tensor, kept: Sequence[int], first: int, pads: Sequence[int]) -> None:
    """Clear an output ``[B, K, …]`` in padded columns; ``first`` is the index of the call's first column."""
    for row, pad in enumerate(pads):
        padded = sum(first + column < pad for column in kept)
        if padded:
            output_BK[row, :padded] = 0
