"""Makes transformers' ``generate()`` run an artifact, through its documented interface: arguments and ``forward``.

A cache is always handed over as the caller's own, options are checked and the answer's length is fitted before
transformers sees them, and prompt lookup is a ``custom_generate`` callable.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import GenerationMixin, StopStringCriteria

from exaone_export.errors import PromptError, UnsupportedOptionError

from ..defaults.refused import HUB_CODE, refuse_options
from . import options, packing
from .answer_length import fit_answer, is_length_named
from .cache import CACHE_NAME, HybridCache
from .pretrained import ExaonePreTrainedModel
from .prompt_lookup import LookupLoop

_COUNTED = ("attention_mask", "position_ids")
# Arguments of `generate()` that may be given by position, behind self, inputs and generation_config.
_POSITIONAL = tuple(inspect.signature(GenerationMixin.generate).parameters)[3:]


class GenerationHooks(ExaonePreTrainedModel, GenerationMixin):
    """`generate()`, with every option honoured or refused by name.

    The class that inherits gives ``generation_config`` and ``forward``.
    """

    input_modalities = ("text",)
    training = False
    _is_stateful = False

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Generate, as `transformers.GenerationMixin.generate` does; its documentation holds.

        An answer that the caller gives no length for stops where the artifact's cache is full.

        Raises:
            CacheInUseError: Another thread uses the cache that is given.
            CancelledError: Somebody called that cache's `cancel`.
            PromptError: The prompt is empty, holds a token outside the vocabulary, is padded on the right, or is too
                long for the artifact, together with ``max_new_tokens`` where that is given.
            UnsupportedOptionError: An option is given that is not honoured.
        """
        kwargs |= zip(_POSITIONAL, args, strict=False)
        asked = options.merge_options(self.generation_config, generation_config, kwargs)
        refuse_options(asked)
        if isinstance(asked.get("custom_generate"), str):
            raise UnsupportedOptionError(f"custom_generate is not supported as a name: {HUB_CODE}.")
        options.check_cache_options(asked)
        tokens = options.prompt_tokens(inputs, kwargs.pop("input_ids", None), asked.get("bos_token_id"))
        tokens = options.check_tokens(tokens, self.session.vocab_size)
        mask = asked.get("attention_mask")
        if mask is None:
            mask = options.infer_mask(tokens, asked)
        columns, longest = _measure(tokens, mask)
        explicit = is_length_named(generation_config, kwargs)
        changed: dict[str, Any] = fit_answer(asked, tokens.shape[1], longest, self.max_length, explicit)
        cache = self._cache_of(kwargs, asked)
        with contextlib.nullcontext() if cache is None else cache.used():
            if cache is not None:
                # The steps are cut in `forward`, where the padding of every row is known.
                cache.prefill_chunk_size = asked.get("prefill_chunk_size")
                changed |= {} if cache.prefill_chunk_size is None else {"prefill_chunk_size": None}
            if asked.get("prompt_lookup_num_tokens") is not None and asked.get("custom_generate") is None:
                options.check_prompt_lookup(asked, tokens.shape[0])
                kwargs["custom_generate"] = LookupLoop(columns, asked.get("streamer"))
                changed |= _stop_strings_as_criterion(kwargs, asked)
            generation_config = self._change(generation_config, kwargs, changed)
            kwargs |= {"attention_mask": mask, CACHE_NAME: cache}
            moved = (name for name in _COUNTED if isinstance(kwargs.get(name), torch.Tensor))
            # `forward` counts on the host, and transformers appends to them wherever they are; a caller's own loop gets
            # them beside the tokens.
            counted = self.device if asked.get("custom_generate") is not None else torch.device("cpu")
            kwargs |= {name: kwargs[name].to(counted) for name in moved}
            # Searching and sampling run where the logits are.
            return super().generate(tokens.to(self.device), generation_config, **kwargs)

    def _cache_of(self, kwargs: dict[str, Any], asked: dict[str, Any]) -> HybridCache | None:
        """The cache that is given, or an empty one if one is to be used; ``kwargs`` no longer holds it."""
        given, renamed = kwargs.pop("past_key_values", None), kwargs.pop("cache", None)
        if given is None and renamed is None and asked.get("use_cache") is False:
            return None
        cache = self.own_cache(given, renamed)
        if given is None and renamed is None and asked.get("is_assistant"):
            cache.activate_past_recording()
        return cache

    def _change(
        self, config: GenerationConfig | None, kwargs: dict[str, Any], changed: dict[str, Any]
    ) -> GenerationConfig | None:
        """The config with options changed; an option of the call, or a None, is changed in ``kwargs`` instead."""
        config = copy.deepcopy(config)
        for name, value in changed.items():
            # transformers replaces None by the model's default, unless it is an argument.
            forced = value is None and getattr(self.generation_config, name, None) is not None
            if config is None or name in kwargs or forced:
                kwargs[name] = value
            else:
                setattr(config, name, value)
        return config

    def generate_batch(self, *_args: Any, **_kwargs: Any) -> Any:
        """Refused: requests are not batched continuously."""
        raise UnsupportedOptionError("generate_batch is not supported; pass the prompts to generate() as one batch.")

    init_continuous_batching = continuous_batching_context_manager = generate_batch

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        next_sequence_length: int | None = None,
        past_key_values: HybridCache | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: HybridCache | None = None,
        is_first_iteration: bool = False,
        tokenizer: Any = None,  # of stop strings; transformers hands it on by mistake
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of the next `forward`: the columns that the cache has not seen."""
        if next_sequence_length is not None:
            if next_sequence_length < 1:
                raise PromptError(
                    f"input_ids has {input_ids.shape[1]} columns and past_key_values already holds "
                    f"{input_ids.shape[1] - next_sequence_length}; pass the whole conversation, or new tokens "
                    f"alone with an attention_mask over all columns."
                )
            input_ids = input_ids[:, -next_sequence_length:]
        if position_ids is not None:
            position_ids = position_ids[:, -input_ids.shape[1] :]
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            CACHE_NAME: past_key_values if cache is None else cache,
            **kwargs,
        }

    def can_generate(self) -> bool:
        """True."""
        return True

    def get_experts_implementation(self) -> dict[str, str]:
        """Nothing: a dense model has no experts."""
        return {}

    def is_remote_code(self) -> bool:
        """False."""
        return False


def _measure(tokens_BS: torch.Tensor, attention_mask: torch.Tensor | None) -> tuple[int, int]:
    """Columns, and tokens of the longest row; cached ones are counted where the mask covers them."""
    if attention_mask is None:
        return tokens_BS.shape[1], tokens_BS.shape[1]
    columns = attention_mask.shape[1] if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2 else 0
    pads = packing.left_pads(attention_mask.cpu() if columns else attention_mask, tokens_BS.shape[0], columns, ())
    return columns, columns - min(pads)


def _stop_strings_as_criterion(kwargs: dict[str, Any], asked: dict[str, Any]) -> dict[str, None]:
    """Make ``stop_strings`` a criterion of the call, because transformers gives a callable's call no tokenizer."""
    tokenizer, strings = kwargs.get("tokenizer"), asked.get("stop_strings")
    if tokenizer is None or strings is None:
        return {}
    kwargs["stopping_criteria"] = [*(kwargs.get("stopping_criteria") or ()), StopStringCriteria(tokenizer, strings)]
    return {"stop_strings": None}
