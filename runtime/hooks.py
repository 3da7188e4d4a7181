"""How transformers' ``generate()`` is told about an artifact: the one file that knows its inner names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMixin, PromptLookupCandidateGenerator

from exaone_export.errors import PromptError, UnsupportedOptionError
from exaone_export.runtime import options, prompt_lookup
from exaone_export.runtime.cache import HybridCache

_MOVED = ("input_ids", "attention_mask", "position_ids")


class GenerationHooks(GenerationMixin):
    """`generate()`, with every option honoured or refused by name.

    The class that inherits gives ``config``, ``generation_config``, ``session``, ``max_length``, ``own_cache`` and
    ``forward``.
    """

    session: Any

    @property
    def device(self) -> torch.device:
        """Where logits are given."""
        raise NotImplementedError

    @property
    def max_length(self) -> int:
        """The most tokens, prompt and answer together, that a row may hold."""
        raise NotImplementedError

    def own_cache(self, past_key_values: Any) -> HybridCache:
        """The cache that is given, or an empty one for None."""
        raise NotImplementedError

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
            PromptError: The prompt is empty, holds a token outside the vocabulary, is padded on the right, or is too
                long for the artifact, together with ``max_new_tokens`` where that is given.
            UnsupportedOptionError: An option is given that is not honoured.
        """
        options.refuse_options(kwargs)
        if isinstance(kwargs.get("custom_generate"), str):
            raise UnsupportedOptionError(f"custom_generate is not supported as a name: {options.HUB_CODE}.")
        given = inputs if inputs is not None else kwargs.get("input_ids")
        if given is not None:
            options.check_tokens(given, self.session.vocab_size)
        # Searching and sampling run where the logits are.
        inputs = inputs.to(self.device) if inputs is not None else None
        kwargs |= {name: kwargs[name].to(self.device) for name in _MOVED if isinstance(kwargs.get(name), torch.Tensor)}
        return super().generate(inputs, generation_config, *args, **kwargs)

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
            "past_key_values": past_key_values,
            **kwargs,
        }

    def get_experts_implementation(self) -> dict[str, str]:
        """Nothing: a dense model has no experts."""
        return {}

    def is_remote_code(self) -> bool:
        """False."""
        return False

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """The options as one object, before anything is done with them."""
        named = [kwargs.get("max_new_tokens"), kwargs.get("max_length")]
        if generation_config is not None:
            named += [generation_config.max_new_tokens, generation_config.max_length]
        prepared, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        options.refuse_options(vars(prepared))
        options.check_prompt_lookup(prepared)
        prepared._length_is_explicit = any(value is not None for value in named)
        return prepared, model_kwargs

    def _prepare_generated_length(self, generation_config: GenerationConfig, **kwargs: Any) -> GenerationConfig:
        prepared = super()._prepare_generated_length(generation_config=generation_config, **kwargs)
        prepared._input_columns = kwargs["input_ids_length"]
        return prepared

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *_args: Any, **_kwargs: Any
    ) -> None:
        """Fit the answer's length to the artifact, and give `forward` a cache.

        transformers calls this once all lengths are known and before it builds the stopping criteria.
        """
        given = model_kwargs.get("past_key_values")
        cache = self.own_cache(given)
        mask, new_columns = model_kwargs.get("attention_mask"), generation_config._input_columns
        held = mask.shape[1] if mask is not None else max(getattr(generation_config, "_mask_length", 0), new_columns)
        if mask is not None:
            held -= int((mask == 0).sum(1).min())
        asked = generation_config.max_length - new_columns
        allowed = options.allowed_answer(held, asked, self.max_length, generation_config._length_is_explicit)
        generation_config.max_length = new_columns + allowed
        if generation_config.use_cache is False:
            return
        model_kwargs["past_key_values"], cache._is_user_defined = cache, given is not None
        if generation_config.is_assistant and given is None:
            cache.activate_past_recording()
        # The steps are cut in `forward`, where the padding of every row is known.
        cache.prefill_chunk_size, generation_config.prefill_chunk_size = generation_config.prefill_chunk_size, None

    def _assisted_decoding(
        self,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        inputs_tensor: torch.Tensor | None = None,
        assistant_model: Any = None,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Prompt lookup by `exaone_export.runtime.prompt_lookup`; drafts of another model by transformers' own loop."""
        if generation_config.prompt_lookup_num_tokens is None:
            return super()._assisted_decoding(
                input_ids,
                logits_processor,
                stopping_criteria,
                generation_config,
                inputs_tensor=inputs_tensor,
                assistant_model=assistant_model,
                streamer=streamer,
                **model_kwargs,
            )
        options.check_prompt_lookup_inputs(input_ids.shape[0], assistant_model)
        lookup = PromptLookupCandidateGenerator(
            eos_token_id=generation_config._eos_token_tensor,
            num_output_tokens=generation_config.prompt_lookup_num_tokens,
            max_matching_ngram_size=generation_config.max_matching_ngram_size or 2,
            max_length=generation_config.max_length,
        )
        full, cache = generation_config.return_dict_in_generate, model_kwargs["past_key_values"]
        chooser = prompt_lookup.Chooser(
            logits_processor,
            stopping_criteria,
            generation_config.do_sample,
            streamer,
            scores=[] if full and generation_config.output_scores else None,
            logits=[] if full and generation_config.output_logits else None,
        )
        with cache.guessing():
            sequences = prompt_lookup.decode(
                input_ids,
                chooser,
                guess=lambda tokens: lookup.get_candidates(tokens)[0],
                step=self._lookup_step(input_ids.shape[1], generation_config, model_kwargs),
                take_back=lambda count: cache.crop(-count),
                longest=generation_config.max_length,
            )
        if streamer is not None:
            streamer.end()
        if not full:
            return sequences
        scores, logits = (None if kept is None else tuple(kept) for kept in (chooser.scores, chooser.logits))
        return GenerateDecoderOnlyOutput(sequences=sequences, scores=scores, logits=logits, past_key_values=cache)

    def _lookup_step(
        self, prompt: int, generation_config: GenerationConfig, model_kwargs: dict[str, Any]
    ) -> Callable[[torch.Tensor, int], torch.Tensor]:
        """From ``[1, C]`` columns and K to the logits ``[1, K, V]`` of the last K, running those not in the cache."""
        cache: HybridCache = model_kwargs["past_key_values"]
        mask, positions = model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")
        columns = mask.shape[1] if mask is not None else getattr(generation_config, "_mask_length", prompt)
        # A cache may be gone on from with the whole conversation, or with new tokens alone.
        absent = 0 if columns == prompt else cache.get_seq_length()

        def step(tokens: torch.Tensor, kept: int) -> torch.Tensor:
            nonlocal positions
            guesses = tokens.shape[1] - prompt
            if positions is not None and guesses:
                positions = torch.cat((positions, positions[:, -1:] + torch.arange(1, guesses + 1).to(positions)), 1)
            inputs = self.prepare_inputs_for_generation(
                tokens,
                next_sequence_length=tokens.shape[1] - cache.get_seq_length() + absent,
                past_key_values=cache,
                attention_mask=None if mask is None else torch.cat((mask, mask.new_ones(1, guesses)), 1),
                position_ids=positions,
                logits_to_keep=kept,
            )
            positions = None  # those of later steps follow from the first ones
            return self(**inputs).logits

        return step
