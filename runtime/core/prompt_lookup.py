"""Lossless speculation by prompt lookup: guess a run of tokens from the text so far, and judge it in one step.

What followed the newest tokens where they stood before is guessed to follow again (Saxena, "Prompt Lookup Decoding",
2023). One step over the guesses gives the logits behind each of them, and tokens are chosen from these one by one, as
from steps of their own, until one is not what was guessed. That one is a token like any other, so every step gives at
least one; the cache takes back the guesses behind it.

transformers has such a loop, but hands whole runs to what follows: a stop string in the midst of a run is passed over,
and a processor that keeps a state is shown guesses that never came true. Here processors, criteria and streamers see
what they see without guesses, every token once and in order. A seed draws what it draws in transformers' prompt lookup.

Legend: T tokens so far, N guesses, K logits rows of a step, V vocabulary; the batch is one row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


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
            RuntimeError: A probability is not a number, as `torch.multinomial` says it.
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
    guess: Callable[[torch.Tensor], torch.Tensor],
    step: Callable[[torch.Tensor, int], torch.Tensor],
    take_back: Callable[[int], None],
    longest: int,
) -> torch.Tensor:
    """Continue one row until a criterion stops it.

    Args:
        tokens_1T: ``[1, T]`` int64.
        chooser: What chooses and stops.
        guess: From ``[1, T]`` tokens to ``[1, T + N]``.
        step: From ``[1, T + N]`` tokens and K to the logits ``[1, K, V]`` of the last K; runs what it has not seen.
        take_back: Makes ``step`` forget so many of its newest tokens; called behind every step, with 0 too.
        longest: Tokens at which a criterion stops at the latest; nothing is guessed that could not be given.

    Returns:
        ``[1, T + new]`` int64.
    """
    while True:
        first = tokens_1T.shape[1]
        guessed = guess(tokens_1T)
        drawn = guessed.shape[1] - first + 1
        guessed = guessed[:, : max(longest - 1, first)]  # a token of the model's own follows the guesses
        guesses = guessed[0, first:].tolist()
        logits_1KV = step(guessed, len(guesses) + 1).float()
        noise_KV = chooser.noise(drawn, logits_1KV)
        for row in range(len(guesses) + 1):
            token = chooser.choose(tokens_1T, logits_1KV[:, row], None if noise_KV is None else noise_KV[row])
            right = row < len(guesses) and int(token) == guesses[row]
            tokens_1T = guessed[:, : first + row + 1] if right else torch.cat((tokens_1T, token[:, None]), 1)
            stop = chooser.stops(tokens_1T)
            if stop or not right:
                break
        take_back(len(guesses) - row)
        if stop:
            return tokens_1T
