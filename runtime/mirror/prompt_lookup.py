"""Prompt lookup (see `exaone_export.runtime.core.answering.prompt_lookup`) in ``generate()``.

transformers has such a loop, but hands whole runs to what follows: a stop string in the middle of a run is missed,
and a processor that keeps a state is given guesses that were rejected. Here processors, criteria and streamers see
what they see without guesses, every token once and in order. A seed draws what it draws in transformers' prompt lookup.

Legend: T tokens so far, N guesses, K logits rows of a step, V vocabulary; the batch is one row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import GenerateDecoderOnlyOutput

from ..core.answering.prompt_lookup import PromptLookup, judge
from .cache import CACHE_NAME, HybridCache

__all__ = ["Chooser", "LookupLoop", "decode"]


@dataclass
class Chooser:
    """How a token is chosen from logits, and when the answer ends.

    Attributes:
        processors: From tokens ``[1, T]`` and logits ``[1, V]`` to scores ``[1, V]``; None leaves the logits.
        criteria: From tokens ``[1, T]`` and the scores kept to ``[1]``; True stops.
        do_sample: Whether tokens are drawn; otherwise the best one is taken.
        streamer: Is given every token, or None.
        scores: Where the scores ``[1, V]`` of every token are kept, or None.
        logits: Where the logits ``[1, V]`` of every token are kept, or None.
    """

    processors: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None
    criteria: Callable[[torch.Tensor, Any], torch.Tensor]
    do_sample: bool
    streamer: Any = None
    scores: list[torch.Tensor] | None = None
    logits: list[torch.Tensor] | None = None

    def noise(self, rows: int, like: torch.Tensor) -> torch.Tensor | None:
        """Of ``rows`` draws; None without sampling.

        `torch.multinomial` draws one sample as the largest ``p / q``, with ``q`` exponential. Drawn for all guesses at
        once, as it does, ``q`` leaves the random generator where transformers' loop leaves it.
        """
        return like.new_empty(rows, like.shape[-1]).exponential_() if self.do_sample else None

    def choose(self, tokens_1T: torch.Tensor, logits_1V: torch.Tensor, noise_V: torch.Tensor | None) -> torch.Tensor:
        """The next token ``[1]`` int64.

        Raises:
            RuntimeError: A probability is not a number; the message is that of `torch.multinomial`.
        """
        scores_1V = self.processors(tokens_1T, logits_1V.clone()) if self.processors else logits_1V
        # Copies, so that one token's row does not hold on to those of a whole step.
        if self.scores is not None:
            self.scores.append(scores_1V.clone())
        if self.logits is not None:
            self.logits.append(logits_1V.clone())
        if noise_V is None:
            return scores_1V.argmax(-1)
        probabilities_1V = scores_1V.softmax(-1)
        if not probabilities_1V.sum().isfinite():
            raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
        return (probabilities_1V / noise_V).argmax(-1)

    def stops(self, tokens_1T: torch.Tensor) -> bool:
        """Whether these tokens end the answer; hands the newest to the streamer."""
        stop = bool(self.criteria(tokens_1T, None if self.scores is None else tuple(self.scores)).all())
        if self.streamer is not None:
            self.streamer.put(tokens_1T[:, -1].cpu())
        return stop


def decode(
    tokens_1T: torch.Tensor,
    chooser: Chooser,
    *,
    guess: Callable[[torch.Tensor], list[int]],
    step: Callable[[torch.Tensor, int], torch.Tensor],
    take_back: Callable[[int], None],
    longest: int,
) -> torch.Tensor:
    """Continue one row until a criterion stops it.

    Args:
        tokens_1T: ``[1, T]`` int64.
        chooser: What chooses and stops.
        guess: From ``[1, T]`` tokens to N guesses.
        step: From ``[1, T + N]`` tokens and K to the logits ``[1, K, V]`` of the last K; runs what it has not seen.
        take_back: Makes ``step`` forget so many of its newest tokens; called behind every step, with 0 too.
        longest: Tokens at which a criterion stops at the latest; nothing is guessed that could not be given.

    Returns:
        ``[1, T + new]`` int64.
    """

    def choose(row: int) -> int:
        return int(chooser.choose(tokens_1T, logits_1KV[:, row], None if noise_KV is None else noise_KV[row]))

    def take(token: int) -> bool:
        nonlocal tokens_1T
        tokens_1T = _appended(tokens_1T, [token])
        return chooser.stops(tokens_1T)

    while True:
        first = tokens_1T.shape[1]
        guesses = guess(tokens_1T)
        drawn = len(guesses) + 1
        guesses = guesses[: max(longest - 1 - first, 0)]  # a token of the model's own follows the guesses
        logits_1KV = step(_appended(tokens_1T, guesses), len(guesses) + 1).float()
        noise_KV = chooser.noise(drawn, logits_1KV)
        rejected, stop = judge(guesses, choose, take)
        take_back(rejected)
        if stop:
            return tokens_1T


def _appended(tokens_1T: torch.Tensor, more: list[int]) -> torch.Tensor:
    return torch.cat((tokens_1T, tokens_1T.new_tensor([more])), 1) if more else tokens_1T


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
        ends, longest = generation_config.eos_token_id, generation_config.max_length
        lookup = PromptLookup(
            (),
            generation_config.prompt_lookup_num_tokens,
            generation_config.max_matching_ngram_size or 2,
            [ends] if isinstance(ends, int) else ends or (),
        )

        def guess(tokens: torch.Tensor) -> list[int]:
            lookup.extend(tokens[0, len(lookup.tokens) :].tolist())
            return lookup.guess() if tokens.shape[1] + 1 < longest else []  # as transformers', for the same draws

        full, cache = generation_config.return_dict_in_generate, model_kwargs[CACHE_NAME]
        chooser = Chooser(
            logits_processor or None,
            stopping_criteria,
            generation_config.do_sample,
            self.streamer,
            scores=[] if full and generation_config.output_scores else None,
            logits=[] if full and generation_config.output_logits else None,
        )
        with cache.guessing():
            sequences = decode(
                input_ids,
                chooser,
                guess=guess,
                step=self._step(model, input_ids.shape[1], model_kwargs),
                take_back=lambda count: cache.crop(-count),
                longest=longest,
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
