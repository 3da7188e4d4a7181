"""The answer of ``exaone-export generate`` by transformers' own loop: beams, and settings that only it has."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from transformers import StoppingCriteria

from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.core.requests import FinishReason, Timings
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.runtime.mirror.generation_defaults import fit_to_one_answer
from exaone_export.runtime.mirror.text import chat
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.runtime.text.chat import AnswerDecoder

from .asked import Asked
from .outcome import Outcome, report
from .output import say
from .prepared import Prepared

__all__ = ["print_answer"]

_GREEDY = {"do_sample": False}
_CANCELLED: tuple[FinishReason, str] = ("cancelled", "")


def print_answer(artifact: Artifact, asked: Asked, prepared: Prepared) -> int:
    """Load the artifact and print its answer; returns the exit status."""
    began = time.perf_counter()
    with ExaoneForCausalLM.from_artifact(artifact, threads=asked.threads, graphs=asked.graphs) as model:
        with artifact.unchanged():
            tokenizer = load_tokenizer(artifact.folder)
        settings = _settings(asked, prepared)
        fit_to_one_answer(model.generation_config, settings, tokenizer)
        if prepared.seed is not None:
            torch.manual_seed(prepared.seed)
        ids = torch.tensor([prepared.tokens])
        prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        loaded, watch = time.perf_counter() - began, _Watch(ids)
        if settings.get("num_beams", model.generation_config.num_beams or 1) > 1:
            more = chat.tokenizer_option(model, tokenizer, settings)
            output = model.generate(**prompt, **settings, **more, stopping_criteria=[watch])
            tokens, is_cancelled = output[0, ids.shape[1] :].tolist(), False
            said = AnswerDecoder(tokenizer).decode(tokens)
            if not asked.as_json:
                say(said, nl=False)
        else:
            said, is_cancelled = _stream(model, tokenizer, prompt, settings, watch, not asked.as_json)
            tokens = watch.tokens
        stops = settings.get("stop_strings") or model.generation_config.stop_strings
        ended = _ended(model, said, tokens, prepared.length, stops)
    reason, why = _CANCELLED if is_cancelled else ended
    times = watch.timings
    outcome = Outcome(
        said,
        tokens,
        reason,
        why,
        loaded,
        times.time_to_first_token,
        times.tokens_per_second(len(tokens)),
        (times.last_token or times.submitted) - times.submitted,
    )
    return report(outcome, asked, prepared)


def _settings(asked: Asked, prepared: Prepared) -> dict[str, Any]:
    """The arguments of ``generate()``; where they are silent, it takes the file's itself."""
    settings = {**asked.settings, **prepared.options, "max_new_tokens": prepared.length}
    if "stop_strings" in settings:
        settings["stop_strings"] = list(settings["stop_strings"])
    for name in ("seed", "temperature"):
        settings.pop(name, None)
    sampling = prepared.sampling
    return {**settings, **({"do_sample": True, "temperature": sampling.temperature} if sampling.draws else _GREEDY)}


def _stream(
    model: Any, tokenizer: Any, prompt: Mapping[str, Any], settings: Mapping[str, Any], watch: _Watch, is_shown: bool
) -> tuple[str, bool]:
    """The answer's text, printed while it comes if it ``is_shown``, and whether Ctrl-C has ended it."""
    said = list[str]()
    try:
        stream = chat.stream(model, tokenizer, prompt, **settings, stopping_criteria=[watch])
        with closing(stream) as pieces:  # type: ignore[type-var]  # a generator
            for piece in pieces:
                said.append(piece)
                if is_shown:
                    say(piece, nl=False)
    except KeyboardInterrupt:
        return "".join(said), True
    return "".join(said), False


def _ended(
    model: ExaoneForCausalLM, said: str, tokens: Sequence[int], length: int, stops: Any
) -> tuple[FinishReason, str]:
    """Why an answer ended that was not cancelled."""
    ends = model.generation_config.eos_token_id
    if tokens and tokens[-1] in ({ends} if isinstance(ends, int) else set(ends or ())):
        return "stop", "end of turn"
    if stops and said.endswith(tuple(stops)):
        return "stop", "stop string"
    return ("length", "") if len(tokens) == length else ("stop", "a limit of generation_config.json")


class _Watch(StoppingCriteria):
    """Stops nothing: it sees the tokens as they come, and when."""

    def __init__(self, prompt: torch.Tensor) -> None:
        self._begin, self._ids, self.timings = prompt.shape[1], prompt, Timings()

    @property
    def tokens(self) -> list[int]:
        """Of the answer so far."""
        tokens: list[int] = self._ids[0, self._begin :].tolist()
        return tokens

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_kwargs: Any) -> torch.Tensor:
        self._ids = input_ids
        self.timings.note_token()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
