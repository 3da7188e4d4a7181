"""The defaults of an artifact: those of its ``generation_config.json``, and transformers' own behind them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import UnsupportedOptionError

from ..core.sampling import Sampling
from ..defaults.reading import NAME, read_generation_config

__all__ = ["Defaults", "read_defaults"]

_log = logging.getLogger(__name__)

_OPTIONS = frozenset(each.name for each in fields(Sampling))
_TOP_K = 50  # transformers', where tokens are drawn and nothing else is given
_HONOURED = {
    "do_sample",
    "eos_token_id",
    "max_length",
    "max_new_tokens",
    "min_p",
    "max_matching_ngram_size",
    "num_return_sequences",  # of one
    "prompt_lookup_num_tokens",
    "repetition_penalty",
    "stop_strings",
    "temperature",
    "top_k",
    "top_p",
}
# They change no token of one answer that is decoded token by token.
_WITHOUT_EFFECT = {
    "assistant_confidence_threshold",
    "assistant_ensemble_weight",
    "assistant_lookbehind",
    "bos_token_id",
    "decoder_start_token_id",
    "disable_compile",
    "early_stopping",
    "length_penalty",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "prefill_chunk_size",
    "renormalize_logits",
    "return_dict_in_generate",
    "target_lookbehind",
    "use_cache",
}
_NEUTRAL: Mapping[str, Any] = {
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "guidance_scale": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "remove_invalid_values": False,
    "typical_p": 1,
}


@dataclass(frozen=True)
class Defaults:
    """What an artifact says about answers.

    Attributes:
        values: Of the file that can be honoured, by key.
        stop_ids: Tokens that end an answer.
        flaws: What of the file cannot be honoured, a sentence each.
    """

    values: Mapping[str, Any]
    stop_ids: frozenset[int]
    flaws: tuple[str, ...] = field(default=())

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        found = self.values.get("stop_strings") or ()
        return (found,) if isinstance(found, str) else tuple(found)

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn where a caller names no temperature."""
        return bool(self.values.get("do_sample", False))

    @property
    def beyond_the_runner(self) -> dict[str, Any]:
        """Values that the runner does not honour, and `exaone_export.ExaoneForCausalLM` does."""
        known = _HONOURED | _WITHOUT_EFFECT
        return {key: value for key, value in self.values.items() if key not in known and value != _NEUTRAL.get(key)}

    def warn(self, overridden: Collection[str] = ()) -> None:
        """Log what of the file the runner does not honour, a warning each; not what a caller has ``overridden``."""
        for flaw in self.flaws:
            _log.warning("%s", flaw)
        if (count := self.values.get("num_return_sequences", 1)) > 1:
            _log.warning("%s gives num_return_sequences=%s, which is ignored: one answer is printed.", NAME, count)
        for key, value in self.beyond_the_runner.items():
            if key not in overridden:
                _log.warning(
                    "%s gives %s=%.60r, which is ignored: Runner does not support it, and ExaoneForCausalLM does.",
                    NAME,
                    key,
                    value,
                )

    def answer_length(self, prompt: int) -> int | None:
        """The most tokens of an answer, or None where the file names no number."""
        new, longest = self.values.get("max_new_tokens"), self.values.get("max_length")
        if new is None and longest is not None:
            return max(int(longest) - prompt, 1)
        return None if new is None else int(new)

    def sampling(self, options: Mapping[str, Any]) -> Sampling:
        """How tokens are chosen, by a caller's options and, where they are silent, by the file.

        Raises:
            UnsupportedOptionError: An option is unknown, or its value is out of range.
        """
        for name in options:
            if name not in _OPTIONS:
                raise UnsupportedOptionError(
                    f"{name} is not an option of an answer; use one of {', '.join(sorted(_OPTIONS))}."
                )
        chosen = {name: value for name, value in options.items() if value is not None}
        chosen.setdefault("repetition_penalty", self.values.get("repetition_penalty", 1.0))
        if "temperature" not in chosen:
            chosen["temperature"] = self.values.get("temperature", 1.0) if self.samples else 0.0
        if chosen["temperature"]:
            for name, value in (("top_k", _TOP_K), ("top_p", 1.0), ("min_p", 0.0)):
                chosen.setdefault(name, self.values.get(name, value))
            chosen["top_p"] = min(chosen["top_p"], 1.0)  # as much as all of them
        return Sampling(**chosen)


def read_defaults(artifact: Artifact) -> Defaults:
    """The artifact's defaults; call it within `Artifact.unchanged`.

    Raises:
        ArtifactError: The file is not JSON.
    """
    values, flaws = read_generation_config(artifact.folder, artifact.spec.vocab_size)
    ends = artifact.spec.to_config().get("eos_token_id") if values is None else values.get("eos_token_id")
    stop_ids = frozenset([ends] if isinstance(ends, int) else ends or ())
    path = artifact.folder / NAME
    return Defaults(values or {}, stop_ids, tuple(f"{path} {flaw}." for flaw in flaws))
