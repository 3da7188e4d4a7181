"""`ExaoneForCausalLM`: an artifact that answers the calls of transformers' ``generate()``.

Legend: B batch, S columns of a call, P columns that the cache has seen, K columns whose logits are wanted,
V vocabulary.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from dataclasses import fields
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from exaone_export.artifact.reader import Artifact
from exaone_export.model.heads import CAUSAL_LM

from ..sessions import Session
from . import options
from .cache import CACHE_NAME, HybridCache
from .generation_defaults import read_defaults
from .hooks import GenerationHooks

_UNSET = dict.fromkeys(field.name for field in fields(CausalLMOutputWithPast))


def new_output(logits: torch.Tensor, cache: HybridCache | None) -> CausalLMOutputWithPast:
    """``CausalLMOutputWithPast(logits=…, cache=…)``, made without its ``__init__``.

    That looks at every field several times, for which Python needs longer than for all else in `forward`.

    Args:
        logits: ``[B, K, V]``.
        cache: Under the name that the installed transformers has for it; None for none.
    """
    output = CausalLMOutputWithPast.__new__(CausalLMOutputWithPast)
    given = {"logits": logits} if cache is None else {"logits": logits, CACHE_NAME: cache}
    vars(output).update(_UNSET, **given)
    for name, value in given.items():
        OrderedDict.__setitem__(output, name, value)
    return output


def _without(signature: inspect.Signature, name: str) -> inspect.Signature:
    return signature.replace(parameters=[each for each in signature.parameters.values() if each.name != name])


class ExaoneForCausalLM(GenerationHooks):
    """A causal language model that a session runs.

    It is used as transformers' ``Exaone4ForCausalLM`` is, and gives the same tokens; an option that it does not honour
    is refused by name. Threads may share a model, each with caches of its own: their steps take turns. Leave it, or
    call `close`, to release the weights.

    Args:
        session: Runs the graph.
        config: The model's architecture.
        generation_config: The defaults of ``generate()``.
        prefill_chunk_size: Tokens of a prompt that one step takes at most; by default 128 on the CPU and 512 on a GPU.

    Attributes:
        config: As given.
        generation_config: As given; it may be changed.
        session: As given.
    """

    kind = CAUSAL_LM
    pads_right = False  # an answer is appended on the right

    def __init__(
        self,
        session: Session,
        config: PreTrainedConfig,
        generation_config: GenerationConfig,
        *,
        prefill_chunk_size: int | None = None,
    ) -> None:
        super().__init__(session, config, prefill_chunk_size=prefill_chunk_size)
        self.generation_config = generation_config

    @classmethod
    def _read_beside(cls, artifact: Artifact, config: PreTrainedConfig) -> tuple[GenerationConfig]:
        return (read_defaults(artifact.folder, config),)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: HybridCache | None = None,
        inputs_embeds: None = None,
        labels: None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        return_dict: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        cache: HybridCache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Run the model on ``S`` more columns.

        Args:
            input_ids: ``[B, S]`` token ids, left-padded.
            attention_mask: ``[B, P + S]``, 0 for padding, over all columns, those of ``past_key_values`` included.
            position_ids: Those that follow from the mask; others are refused.
            past_key_values: A cache of this model, which is advanced in place.
            inputs_embeds: Refused.
            labels: Refused.
            use_cache: Whether the cache is returned; True by default.
            logits_to_keep: The number of last columns whose logits are wanted, 0 for all, or their indices.
            return_dict: Whether an object is returned; False for a tuple.
            output_attentions: Refused.
            output_hidden_states: Refused.
            cache: ``past_key_values`` under the name that it has from transformers 5.24 on.
            kwargs: Refused.

        Returns:
            Logits ``[B, K, V]`` in the layout of the call, zero in padded columns, and the cache.

        Raises:
            CacheInUseError: Another thread uses the cache.
            CancelledError: Somebody called the cache's `cancel`.
            PromptError: The tokens, their padding or their number cannot be run.
            UnsupportedOptionError: An argument is given that is not honoured.
        """
        if kwargs or not (inputs_embeds is labels is output_attentions is output_hidden_states is None):
            given = {"inputs_embeds": inputs_embeds, "labels": labels, "output_attentions": output_attentions}
            options.refuse_unknown({**given, "output_hidden_states": output_hidden_states, **kwargs})
        cache = self.own_cache(past_key_values, cache)
        (logits,) = self.outputs(input_ids, attention_mask, position_ids, cache, logits_to_keep)
        output = new_output(logits, None if use_cache is False else cache)
        return output.to_tuple() if return_dict is False else output

    # transformers asks for it nine times a call; without this it is worked out anew every time. For one that names
    # position_ids it makes them, and makes them longer for every token; here they follow from the mask.
    forward.__signature__ = _without(inspect.signature(forward), "position_ids")  # type: ignore[attr-defined]
