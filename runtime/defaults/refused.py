"""Options of a call of transformers' ``generate()`` or ``forward()`` that no artifact honours, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exaone_export.errors import UnsupportedOptionError

__all__ = ["HUB_CODE", "REFUSED", "refuse_options"]

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
    "token_healing": "it decodes the prompt without its special tokens; end the prompt behind a whole word and omit it",
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
