"""Prompt lookup as a ``custom_generate`` callable: guesses of `core.prompt_lookup` on a model and its cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import GenerateDecoderOnlyOutput, PromptLookupCandidateGenerator

from ..core import prompt_lookup
from .cache import CACHE_NAME, HybridCache

__all__ = ["LookupLoop"]


class LookupLoop:
    """The decoding loop that transformers calls once a call of ``generate()`` is prepared.

    Args:
        columns: Of the whole conversation, cached ones included.
        streamer: Is given every token, or None.
    """

    def __init__(self, columns: int, streamer: Any) -> None:
        self.columns, self.streamer = columns, streamer

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> Any:
        """Continue ``[1, S]`` tokens; the answer has the form that ``return_dict_in_generate`` asks for."""
        ends = generation_config.eos_token_id
        lookup = PromptLookupCandidateGenerator(
            eos_token_id=None if ends is None else torch.tensor(ends, device=input_ids.device).reshape(-1),
            num_output_tokens=generation_config.prompt_lookup_num_tokens,
            max_matching_ngram_size=generation_config.max_matching_ngram_size or 2,
            max_length=generation_config.max_length,
        )
        full, cache = generation_config.return_dict_in_generate, model_kwargs[CACHE_NAME]
        chooser = prompt_lookup.Chooser(
            logits_processor or None,
            stopping_criteria,
            generation_config.do_sample,
            self.streamer,
            scores=[] if full and generation_config.output_scores else None,
            logits=[] if full and generation_config.output_logits else None,
        )
        with cache.guessing():
            sequences = prompt_lookup.decode(
                input_ids,
                chooser,
                guess=lambda tokens: lookup.get_candidates(tokens)[0],
                step=self._step(model, input_ids.shape[1], model_kwargs),
                take_back=lambda count: cache.crop(-count),
                longest=generation_config.max_length,
            )
        if self.streamer is not None:
            self.streamer.end()
        if not full:
            return sequences
        scores, logits = (None if kept is None else tuple(kept) for kept in (chooser.scores, chooser.logits))
        return GenerateDecoderOnlyOutput(sequences=sequences, scores=scores, logits=logits, **{CACHE_NAME: cache})

    def _step(
        self, model: Any, prompt: int, model_kwargs: dict[str, Any]
    ) -> Callable[[torch.Tensor, int], torch.Tensor]:
        """From ``[1, C]`` columns and K to the logits ``[1, K, V]`` of the last K, running those not in the cache."""
        cache: HybridCache = model_kwargs[CACHE_NAME]
        mask, positions = model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")
        # A cache may be gone on from with the whole conversation, or with new tokens alone.
        absent = 0 if self.columns == prompt else cache.get_seq_length()

        def step(tokens: torch.Tensor, kept: int) -> torch.Tensor:
            nonlocal positions
            guesses = tokens.shape[1] - prompt
            if positions is not None and guesses:
                positions = torch.cat((positions, positions[:, -1:] + torch.arange(1, guesses + 1).to(positions)), 1)
            inputs = model.prepare_inputs_for_generation(
                tokens,
                next_sequence_length=tokens.shape[1] - cache.get_seq_length() + absent,
                attention_mask=None if mask is None else torch.cat((mask, mask.new_ones(1, guesses)), 1),
                position_ids=positions,
                logits_to_keep=kept,
                **{CACHE_NAME: cache},
            )
            positions = None  # those of later steps follow from the first ones
            logits: torch.Tensor = model(**inputs).logits
            return logits

        return step
