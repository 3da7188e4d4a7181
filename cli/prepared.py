"""What ``exaone-export generate`` is asked, held to an artifact before its weights are read."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.core.requests import Request
from exaone_export.runtime.core.sampling import Sampling
from exaone_export.runtime.runner.defaults import Defaults
from exaone_export.runtime.runner.presets import apply_preset, recommended
from exaone_export.runtime.runner.runner import open_tokenizer
from exaone_export.runtime.text.chat import ChatFormat
from exaone_export.runtime.text.reasoning import Reasoning
from exaone_export.runtime.text.tokenizer import Tokenizer, check_vocabulary
from exaone_export.targets.cache_layout import CacheLayout

from .asked import ANSWER_TOKENS, NO_REASONING, REASONING_TOKENS, Asked
from .sampling import check_draws

__all__ = ["Prepared", "prepare"]

_log = logging.getLogger(__name__)

_NOT_OF_SAMPLING = ("num_beams", "prompt_lookup_num_tokens", "stop_strings")


@dataclass(frozen=True)
class Prepared:
    """A prompt that fits, and how its answer is chosen.

    Attributes:
        tokenizer: The artifact's.
        tokens: Ids of the prompt.
        length: The most tokens of the answer.
        max_length: The most tokens, prompt and answer together, that the artifact holds.
        longest: What ``max_length`` could be if the model were exported again.
        sampling: How tokens are chosen, the defaults of the artifact included.
        options: The options among them that were given or are of a preset, and the seed, by name.
        reasoning: The tags that the prompt opened at its end, so that the answer begins inside them; None for none.
    """

    tokenizer: Tokenizer
    tokens: Sequence[int]
    length: int
    max_length: int
    longest: int
    sampling: Sampling
    options: Mapping[str, Any]
    reasoning: Reasoning | None

    @property
    def seed(self) -> int | None:
        """Of the draws; None where nothing is drawn."""
        return self.sampling.seed if self.sampling.draws else None


def prepare(artifact: Artifact, defaults: Defaults, asked: Asked) -> Prepared:
    """Encode the prompt, and choose what is not given.

    Raises:
        ArtifactError: The artifact has no tokenizer, or no chat template.
        ChatTemplateError: The template refuses the messages.
        PromptError: The prompt does not fit together with its answer, or holds a token that the model has not.
        UnsupportedOptionError: An option is out of its range or has no effect, or the model has no such mode.
    """
    tokenizer, reasoning = open_tokenizer(artifact), None
    if asked.raw:
        tokens = tokenizer.encode(asked.prompt)
    else:
        chat = ChatFormat(tokenizer)
        tokens = chat.encode(asked.messages, enable_thinking=asked.thinking, tools=asked.tools)
        reasoning = chat.opened(tokens)
        if asked.thinking and reasoning is None:
            _log.warning("%s", NO_REASONING)
    given = {name: value for name, value in asked.settings.items() if name not in _NOT_OF_SAMPLING}
    if asked.mode is None and (reasoning is None or asked.settings.get("num_beams", 1) > 1):
        given.setdefault("temperature", 0.0)
    model = recommended(artifact, tokenizer.chat_template)
    chosen = apply_preset(asked.mode, given, defaults, model, reasons=reasoning is not None)
    seed = int.from_bytes(os.urandom(3)) if asked.seed is None else asked.seed
    options = {**chosen, "seed": seed}
    sampling = defaults.sampling(options)
    check_draws(sampling, asked.settings)
    spec, max_length = artifact.spec, CacheLayout.from_dict(artifact.manifest.cache).max_length
    check_vocabulary(tokenizer, tokens, spec.vocab_size)
    most = ANSWER_TOKENS if reasoning is None else REASONING_TOKENS
    length = asked.max_new_tokens or min(most, max(max_length - len(tokens), 1))
    Request(tokens, length).check(spec.vocab_size, max_length)
    longest = max(spec.max_position_embeddings, max_length)
    return Prepared(tokenizer, tokens, length, max_length, longest, sampling, options, reasoning)
