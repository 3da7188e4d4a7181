"""The answer of ``exaone-export generate`` by transformers' own loop: beams, prompt lookup, and what runs on a GPU."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.runtime.mirror.generation_defaults import fit_to_one_answer
from exaone_export.runtime.mirror.text import chat
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.runtime.text.chat import AnswerDecoder
from exaone_export.runtime.text.tokenizer import check_vocabulary

from .answer_json import as_json
from .asked import ANSWER_TOKENS, Asked
from .output import say

__all__ = ["print_answer"]


def print_answer(artifact: Artifact, asked: Asked) -> None:
    """Load the artifact, and print its answer."""
    with ExaoneForCausalLM.from_artifact(artifact, threads=asked.threads) as model:
        with artifact.unchanged():
            tokenizer = load_tokenizer(artifact.folder)
        encoded = _encode(tokenizer, asked)
        check_vocabulary(tokenizer, encoded["input_ids"], model.session.vocab_size)
        prompt_tokens = encoded["input_ids"].shape[1]
        length = asked.max_new_tokens or min(ANSWER_TOKENS, max(model.max_length - prompt_tokens, 1))
        settings = {"max_new_tokens": length, **asked.settings}
        fit_to_one_answer(model.generation_config, settings, tokenizer)
        if asked.seed is not None:
            torch.manual_seed(asked.seed)
        start = time.perf_counter()
        if asked.as_json or settings.get("num_beams", model.generation_config.num_beams or 1) > 1:
            output = model.generate(**encoded, **settings, **chat.tokenizer_option(model, tokenizer, settings))
            tokens = output[0, prompt_tokens:].tolist()
            seconds = time.perf_counter() - start
            said = AnswerDecoder(tokenizer).decode(tokens)
            cut = len(tokens) == length and tokens[-1] not in _ends(model.generation_config.eos_token_id)
            stops = model.generation_config.stop_strings or ()
            reason = "length" if cut and not said.endswith(tuple(stops) or ("\0",)) else "stop"
            say(
                as_json(said, asked, prompt_tokens, tokens, reason, seconds, {"seconds": round(seconds, 3)})
                if asked.as_json
                else said
            )
        else:
            for piece in chat.stream(model, tokenizer, encoded, **settings):
                say(piece, nl=False)
            say("")


def _ends(tokens: Any) -> set[int]:
    return {tokens} if isinstance(tokens, int) else set(tokens or ())


def _encode(tokenizer: Any, asked: Asked) -> Mapping[str, Any]:
    if asked.raw:
        return dict(tokenizer(asked.prompt, return_tensors="pt", return_token_type_ids=False))
    return chat.ChatFormat(tokenizer).encode(asked.messages, enable_thinking=asked.thinking, tools=asked.tools)
