"""What is refused by name, and how long an answer may become."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest
import torch
from transformers import CompileConfig, DynamicCache, GenerationConfig
from transformers.generation import GenerationMixin

from exaone_export.errors import PromptError, UnsupportedOptionError
from exaone_export.runtime.defaults.refused import REFUSED
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.runtime.mirror.hooks import GenerationHooks
from tests.runtime.conftest import MAX_LENGTH, left_padded, tokens

GIVEN: dict[str, Any] = {
    "assistant_early_exit": 2,
    "cache_config": {"nbits": 4},
    "cache_implementation": "static",
    "compile_config": CompileConfig(),
    "constraints": [object()],
    "continuous_batching_config": object(),
    "diversity_penalty": 0.5,
    "dola_layers": "high",
    "force_words_ids": [[5]],
    "inputs_embeds": torch.zeros(1, 3, 32),
    "labels": torch.zeros(1, 3),
    "low_memory": True,
    "max_cache_len": 64,
    "num_beam_groups": 2,
    "output_attentions": True,
    "output_hidden_states": True,
    "penalty_alpha": 0.6,
    "speculation_type": "dflash",
    "synced_gpus": True,
    "token_healing": True,
    "trust_remote_code": True,
    "use_mtp": True,
}
# Every other option of transformers is its own and reaches the tokens through logits, or does not matter here.
_HONOURED = """
    assistant_confidence_threshold assistant_ensemble_weight assistant_lookbehind assistant_model bad_words_ids
    begin_suppress_tokens bos_token_id custom_generate decoder_start_token_id disable_compile do_sample early_stopping
    encoder_no_repeat_ngram_size encoder_repetition_penalty eos_token_id epsilon_cutoff eta_cutoff
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id generation_config guidance_scale inputs
    is_assistant length_penalty logits_processor max_length max_matching_ngram_size max_new_tokens max_time min_length
    min_new_tokens min_p negative_prompt_attention_mask negative_prompt_ids no_repeat_ngram_size num_assistant_tokens
    num_assistant_tokens_schedule num_beams num_return_sequences output_logits output_scores pad_token_id
    prefill_chunk_size prefix_allowed_tokens_fn prompt_lookup_num_tokens remove_invalid_values renormalize_logits
    repetition_penalty return_dict_in_generate sequence_bias stop_strings stopping_criteria streamer suppress_tokens
    target_lookbehind temperature top_h top_k top_p transformers_version typical_p use_cache
    watermarking_config
"""
HONOURED = set(_HONOURED.split())


def test_no_option_of_transformers_is_overlooked() -> None:
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    known |= set(inspect.signature(GenerationMixin.generate).parameters) - {"self", "kwargs"}
    assert known <= set(REFUSED) | HONOURED, "decide about each, and test it"
    assert not set(REFUSED) & HONOURED and set(GIVEN) == set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_refused_by_name(model: Any, name: str) -> None:
    with pytest.raises(UnsupportedOptionError, match=f"^{name} is not supported: .*"):
        model.generate(tokens(1, 3), max_new_tokens=2, **{name: GIVEN[name]})


@pytest.mark.parametrize("name", sorted(set(REFUSED) & set(vars(GenerationConfig()))))
@pytest.mark.filterwarnings("ignore")
def test_refused_in_a_generation_config(model: Any, name: str) -> None:
    options = GenerationConfig(max_new_tokens=2)
    setattr(options, name, GIVEN[name])
    with pytest.raises(UnsupportedOptionError, match=f"^{name} is not supported: "):
        model.generate(tokens(1, 3), generation_config=options)


def test_values_that_ask_for_nothing_are_taken(model: Any) -> None:
    options = dict.fromkeys(("low_memory", "output_attentions", "output_hidden_states", "trust_remote_code"), False)
    options |= {
        "num_beam_groups": 1,
        "diversity_penalty": 0.0,
        "cache_implementation": "hybrid",
        "disable_compile": True,
    }
    model.generate(tokens(1, 3), max_new_tokens=2, labels=None, **options)


def test_options_given_by_position_are_seen(model: Any) -> None:
    with pytest.raises(UnsupportedOptionError, match=r"^synced_gpus is not supported"):
        model.generate(tokens(1, 3), None, None, None, None, True)


def test_nothing_private_of_transformers_is_replaced() -> None:
    own = {name for cls in (ExaoneForCausalLM, GenerationHooks) for name, value in vars(cls).items() if callable(value)}
    assert not {
        name for name in own if name.startswith("_") and not name.startswith("__") and hasattr(GenerationMixin, name)
    }


def test_code_and_batching_of_others(model: Any) -> None:
    with pytest.raises(UnsupportedOptionError, match="custom_generate is not supported as a name"):
        model.generate(tokens(1, 3), custom_generate="someone/something")
    for name in ("generate_batch", "init_continuous_batching"):
        with pytest.raises(UnsupportedOptionError, match="generate_batch is not supported"):
            getattr(model, name)([[3, 4]])


def test_a_foreign_cache(model: Any) -> None:
    for cache in (DynamicCache(), (1, 2)):
        with pytest.raises(
            UnsupportedOptionError, match=f"past_key_values is a {type(cache).__name__} of another model"
        ):
            model.generate(tokens(1, 3), past_key_values=cache, max_new_tokens=2)


def test_a_cache_has_two_names_and_is_one(model: Any) -> None:
    options = {"max_new_tokens": 4, "eos_token_id": None, "pad_token_id": 0}
    plain = model.generate(tokens(1, 9), **options)
    for name in ("past_key_values", "cache"):
        cache = model.new_cache()
        model(tokens(1, 9)[:, :5], **{name: cache})
        assert cache.get_seq_length() == 5
        assert torch.equal(model.generate(tokens(1, 9), **{name: cache}, **options), plain)
        assert cache.get_seq_length() == 12
    for call in (model, model.generate):
        with pytest.raises(UnsupportedOptionError, match="past_key_values and cache are the same argument"):
            call(tokens(1, 3), past_key_values=model.new_cache(), cache=model.new_cache())
    with pytest.raises(UnsupportedOptionError, match=r"^cache is a DynamicCache of another model"):
        model.generate(tokens(1, 3), cache=DynamicCache())


def test_a_callers_config_is_left_as_it_is(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = GenerationConfig(prefill_chunk_size=4, eos_token_id=None, pad_token_id=0)
    before = config.to_dict()
    plain = model.generate(tokens(1, 30), eos_token_id=None, pad_token_id=0, max_new_tokens=20)
    assert torch.equal(model.generate(tokens(1, 30), config, max_new_tokens=20), plain)
    assert config.to_dict() == before
    # The model's own default must not come back behind the call.
    monkeypatch.setattr(model, "generation_config", GenerationConfig(prefill_chunk_size=3))
    input_ids, mask = left_padded(30, [0, 11])
    options = {"attention_mask": mask, "max_new_tokens": 3}
    for given in (None, GenerationConfig(eos_token_id=None, pad_token_id=0), config):
        ends = {"eos_token_id": None, "pad_token_id": 0} if given is None else {}
        answer = model.generate(input_ids, given, **options, **ends)
        assert answer.shape == (2, 33)


def test_values_out_of_range(model: Any) -> None:
    with pytest.raises(UnsupportedOptionError, match="prefill_chunk_size is 0; it must be at least 1"):
        model.generate(tokens(1, 3), prefill_chunk_size=0)
    with pytest.raises(UnsupportedOptionError, match="assistant_model is not supported with use_cache=False"):
        model.generate(tokens(1, 3), assistant_model=model, use_cache=False)


def test_misspelt_options_are_named_by_transformers(model: Any) -> None:
    with pytest.raises(ValueError, match="max_new_token'"):
        model.generate(tokens(1, 3), max_new_token=2)


def test_prompts_that_cannot_be_run(model: Any) -> None:
    with pytest.raises(PromptError, match="a prompt has at least one token"):
        model.generate(torch.zeros(1, 0, dtype=torch.int64), max_new_tokens=2)
    with pytest.raises(PromptError, match="holds token 97"):
        model.generate(torch.tensor([[97]]), max_new_tokens=2)
    with pytest.raises(PromptError, match="row 1 of the batch holds no token"):
        model.generate(tokens(2, 3), attention_mask=torch.tensor([[1, 1, 1], [0, 0, 0]]), max_new_tokens=2)
    with pytest.raises(PromptError, match="a 0 behind a 1"):
        model.generate(tokens(1, 3), attention_mask=torch.tensor([[1, 1, 0]]), max_new_tokens=2)
    for mask in (torch.ones(3), torch.ones(1, 1, 3, 3), [[1, 1, 1]]):
        with pytest.raises(UnsupportedOptionError, match="attention_mask must have two dimensions"):
            model.generate(tokens(1, 3), attention_mask=mask, max_new_tokens=2)
    with pytest.raises(UnsupportedOptionError, match="position_ids must count"):
        model.generate(tokens(1, 3), position_ids=torch.tensor([[5, 7, 9]]), max_new_tokens=2)


def test_no_prompt_begins_a_text(model: Any, reference: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = reference.generate(max_new_tokens=6)
    assert torch.equal(model.generate(max_new_tokens=6), expected)
    assert expected[0, 0] == model.generation_config.bos_token_id
    monkeypatch.setattr(model.generation_config, "bos_token_id", None)
    with pytest.raises(PromptError, match="there is no prompt, and the model has no bos_token_id"):
        model.generate(max_new_tokens=6)
    with pytest.raises(PromptError, match="inputs and input_ids are the same argument"):
        model.generate(tokens(1, 3), input_ids=tokens(1, 3))


def test_a_cache_that_already_holds_the_prompt(model: Any) -> None:
    first = model.generate(tokens(1, 9), max_new_tokens=4, return_dict_in_generate=True)
    with pytest.raises(PromptError, match="has 9 columns and past_key_values already holds 12"):
        model.generate(tokens(1, 9), past_key_values=first.past_key_values, max_new_tokens=2)


class TestLength:
    """Capacity -1, 0, +1."""

    @pytest.mark.parametrize("spare", [0, 1])
    def test_an_answer_that_fits(self, model: Any, spare: int) -> None:
        prompt = tokens(1, MAX_LENGTH - 4 - spare)
        for options in ({"max_new_tokens": 4}, {"max_length": MAX_LENGTH - spare}):
            answer = model.generate(prompt, eos_token_id=None, pad_token_id=0, **options)
            assert answer.shape[1] == MAX_LENGTH - spare

    def test_an_answer_that_was_named_and_does_not_fit(self, model: Any) -> None:
        message = (
            f"come to {MAX_LENGTH + 1}, and the artifact holds {MAX_LENGTH}; .*--max-length {MAX_LENGTH + 1} or more"
        )
        for options in (
            {"max_new_tokens": 5},
            {"max_length": MAX_LENGTH + 1},
            {"generation_config": GenerationConfig(max_new_tokens=5)},
        ):
            with pytest.raises(PromptError, match=message):
                model.generate(tokens(1, MAX_LENGTH - 4), **options)

    def test_a_default_that_does_not_fit_is_shortened(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        prompt = tokens(1, MAX_LENGTH - 4)
        options = {"eos_token_id": None, "pad_token_id": 0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert model.generate(prompt, **options).shape[1] == MAX_LENGTH
        for name, value in (("max_new_tokens", 9), ("max_length", 4096)):
            monkeypatch.setattr(model, "generation_config", GenerationConfig(**{name: value}))
            assert model.generate(prompt, **options).shape[1] == MAX_LENGTH

    @pytest.mark.filterwarnings("ignore")
    def test_a_prompt_that_leaves_no_room(self, model: Any) -> None:
        with pytest.raises(PromptError, match=f"a prompt of {MAX_LENGTH} tokens and an answer of up to 20"):
            model.generate(tokens(1, MAX_LENGTH))
        with pytest.raises(PromptError, match=f"come to {MAX_LENGTH + 1} tokens"):
            model.generate(tokens(1, MAX_LENGTH + 1))

    def test_a_length_that_leaves_no_room(self, model: Any) -> None:
        for length, given in ((9, 9), (9, 5), (MAX_LENGTH - 1, MAX_LENGTH - 1)):
            with pytest.raises(
                PromptError, match=f"max_length is {given}, the {length} columns of the prompt included"
            ):
                model.generate(tokens(1, length), max_length=given)
        # A larger max_length would not help here.
        with pytest.raises(PromptError, match=f"come to {MAX_LENGTH + 1} tokens, .* --max-length {MAX_LENGTH + 1}"):
            model.generate(tokens(1, MAX_LENGTH), max_length=MAX_LENGTH)
        with pytest.raises(PromptError, match="max_new_tokens is 0; it must be at least 1"):
            model.generate(tokens(1, 9), max_new_tokens=0)

    def test_the_default_is_that_of_transformers(self, model: Any, reference: Any) -> None:
        options = {"eos_token_id": None, "pad_token_id": 0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = reference.generate(tokens(1, 9), **options)
            assert torch.equal(model.generate(tokens(1, 9), **options), expected)
            # One token less of room than that.
            prompt = tokens(1, MAX_LENGTH - expected.shape[1] + 10)
            assert model.generate(prompt, **options).shape[1] == MAX_LENGTH

    def test_padding_takes_no_room(self, model: Any) -> None:
        input_ids, mask = left_padded(MAX_LENGTH, [4, 9])
        answer = model.generate(input_ids, attention_mask=mask, max_new_tokens=4, eos_token_id=None, pad_token_id=0)
        assert answer.shape[1] == MAX_LENGTH + 4
        with pytest.raises(PromptError, match=f"a prompt of {MAX_LENGTH - 4} tokens and an answer of up to 5"):
            model.generate(input_ids, attention_mask=mask, max_new_tokens=5)

    def test_a_cache_counts(self, model: Any) -> None:
        options = {"return_dict_in_generate": True, "eos_token_id": None, "pad_token_id": 0}
        first = model.generate(tokens(1, MAX_LENGTH - 20), max_new_tokens=9, **options)
        more = torch.cat((first.sequences[:, -1:], tokens(1, 6)), 1)
        mask = torch.ones(1, MAX_LENGTH - 5, dtype=torch.int64)
        with pytest.raises(PromptError, match=f"a prompt of {MAX_LENGTH - 5} tokens and an answer of up to 6"):
            model.generate(
                more, attention_mask=mask, past_key_values=first.past_key_values, max_new_tokens=6, **options
            )
        model.generate(more, attention_mask=mask, past_key_values=first.past_key_values, max_new_tokens=5, **options)

    def test_prompt_lookup_reaches_the_end(self, model: Any) -> None:
        prompt = tokens(1, 8).repeat(1, MAX_LENGTH // 8)[:, : MAX_LENGTH - 9]
        options = {"eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 9}
        expected = model.generate(prompt, **options)
        assert torch.equal(model.generate(prompt, prompt_lookup_num_tokens=10, **options), expected)
