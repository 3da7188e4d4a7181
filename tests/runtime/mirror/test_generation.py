"""`generate()` against transformers': the same call, the same seed, the same tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.runtime.conftest import VOCAB, left_padded, tokens

PROMPT = tokens(1, 40)
LOOPING = tokens(1, 9, seed=3).repeat(1, 5)
BATCH, MASK = left_padded(30, [0, 5, 13, 29])

CASES: dict[str, dict[str, Any]] = {
    "greedy": {"inputs": PROMPT, "max_new_tokens": 40},
    "greedy from one token": {"inputs": PROMPT[:, :1], "max_new_tokens": 20},
    "by max_length": {"inputs": PROMPT, "max_length": 52},
    "sampling": {
        "inputs": PROMPT,
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "max_new_tokens": 25,
    },
    "more processors": {
        "inputs": PROMPT,
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[5], [6, 7]],
        "suppress_tokens": [9],
        "min_new_tokens": 5,
        "max_new_tokens": 20,
    },
    "sampling several": {"inputs": PROMPT, "do_sample": True, "num_return_sequences": 3, "max_new_tokens": 15},
    "batch": {"inputs": BATCH, "attention_mask": MASK, "max_new_tokens": 25},
    "batch without a mask": {"inputs": BATCH, "max_new_tokens": 10},
    "batch sampling": {"inputs": BATCH, "attention_mask": MASK, "max_new_tokens": 15, "do_sample": True},
    "beams": {"inputs": PROMPT, "max_new_tokens": 20, "num_beams": 4, "num_return_sequences": 3},
    "beam sampling": {"inputs": PROMPT, "max_new_tokens": 15, "num_beams": 3, "do_sample": True},
    "beams of a batch": {
        "inputs": BATCH,
        "attention_mask": MASK,
        "max_new_tokens": 15,
        "num_beams": 3,
        "num_return_sequences": 2,
        "length_penalty": 0.5,
        "early_stopping": True,
    },
    "prompt lookup": {"inputs": LOOPING, "max_new_tokens": 40, "prompt_lookup_num_tokens": 10},
    "prompt lookup sampling": {
        "inputs": LOOPING,
        "max_new_tokens": 30,
        "prompt_lookup_num_tokens": 3,
        "max_matching_ngram_size": 1,
        "do_sample": True,
    },
    "prompt lookup behind padding": {
        "inputs": torch.cat((torch.zeros(1, 6, dtype=torch.int64), LOOPING), 1),
        "attention_mask": (torch.arange(51) >= 6).long()[None],
        "max_new_tokens": 25,
        "prompt_lookup_num_tokens": 4,
    },
    "no cache": {"inputs": PROMPT, "max_new_tokens": 8, "use_cache": False},
    "guidance": {"inputs": PROMPT, "max_new_tokens": 12, "guidance_scale": 1.7},
    "guidance away": {
        "inputs": PROMPT,
        "max_new_tokens": 12,
        "guidance_scale": 2.0,
        "negative_prompt_ids": tokens(1, 12, seed=8),
    },
    "prefill chunks": {"inputs": BATCH, "attention_mask": MASK, "max_new_tokens": 10, "prefill_chunk_size": 4},
    "watched by max_time": {"inputs": PROMPT, "max_new_tokens": 5, "max_time": 60.0},
    "no token ends it": {"inputs": PROMPT, "max_new_tokens": 30, "eos_token_id": None, "pad_token_id": 0},
    "many tokens end it": {
        "inputs": BATCH,
        "attention_mask": MASK,
        "max_new_tokens": 30,
        "eos_token_id": list(range(30)),
    },
}

_expected: dict[str, torch.Tensor] = {}


def both(reference: Any, model: Any, **options: Any) -> tuple[Any, Any]:
    answers = []
    for side in (reference, model):
        torch.manual_seed(0)
        answers.append(side.generate(**copy.deepcopy(options)))
    return answers[0], answers[1]


@pytest.mark.parametrize("case", CASES)
def test_the_same_tokens(reference: Any, model: Any, case: str) -> None:
    if case not in _expected:
        torch.manual_seed(0)
        _expected[case] = reference.generate(**copy.deepcopy(CASES[case]))
    torch.manual_seed(0)
    assert torch.equal(model.generate(**copy.deepcopy(CASES[case])), _expected[case])


def test_prompt_lookup_accepts_and_rejects(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its case above would prove little."""
    from exaone_export.runtime.mirror.cache import HybridCache

    crops: list[int] = []
    crop = HybridCache.crop
    monkeypatch.setattr(HybridCache, "crop", lambda cache, n: (crops.append(n), crop(cache, n))[1])
    model.generate(LOOPING, max_new_tokens=40, prompt_lookup_num_tokens=10)
    assert min(crops) < 0 and len(crops) < 40


def test_scores_and_logits(reference: Any, model: Any) -> None:
    options = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "max_new_tokens": 12}
    for more in (
        {"inputs": PROMPT},
        {"inputs": LOOPING, "prompt_lookup_num_tokens": 4},
        {"inputs": PROMPT, "num_beams": 2},
    ):
        expected, found = both(reference, model, repetition_penalty=1.1, **options, **more)
        assert torch.equal(found.sequences, expected.sequences)
        for name in ("scores", "logits"):
            torch.testing.assert_close(
                torch.stack(getattr(found, name)), torch.stack(getattr(expected, name)), rtol=0, atol=5e-5
            )


def test_an_assistant_and_as_an_assistant(reference: Any, model: Any) -> None:
    expected = reference.generate(PROMPT, max_new_tokens=30)
    for main, assistant in ((model, reference), (reference, model), (model, model)):
        assert torch.equal(main.generate(PROMPT, max_new_tokens=30, assistant_model=assistant), expected)


def test_drafts_that_are_rejected(model: Any, reference: Any, save_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models that do not agree, each as the other's assistant."""
    from transformers import Exaone4ForCausalLM

    other = Exaone4ForCausalLM.from_pretrained(save_model(seed=5)).eval()
    for main, assistant, plain in ((other, model, other), (model, other, reference)):
        monkeypatch.setattr(assistant.generation_config, "num_assistant_tokens", 6)
        # Random models are never sure, and would draft one token at a time.
        monkeypatch.setattr(assistant.generation_config, "assistant_confidence_threshold", 0.0)
        expected = plain.generate(PROMPT, max_new_tokens=16)
        assert torch.equal(main.generate(PROMPT, max_new_tokens=16, assistant_model=assistant), expected)


def test_processors_criteria_and_allowed_tokens(reference: Any, model: Any) -> None:
    from transformers import LogitsProcessor, StoppingCriteria

    class Odd(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return scores.index_fill(1, torch.arange(0, VOCAB, 2), -torch.inf)

    class Long(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return torch.full((input_ids.shape[0],), input_ids.shape[1] >= 47)

    expected, found = both(
        reference, model, inputs=PROMPT, logits_processor=[Odd()], stopping_criteria=[Long()], max_new_tokens=30
    )
    assert torch.equal(found, expected) and found.shape[1] == 47 and (found[0, 40:] % 2 == 1).all()
    expected, found = both(
        reference, model, inputs=PROMPT, prefix_allowed_tokens_fn=lambda _row, _ids: [11, 12, 13], max_new_tokens=9
    )
    assert torch.equal(found, expected)


def test_a_callable_of_ones_own(reference: Any, model: Any) -> None:
    from transformers.generation import GenerationMixin

    expected, found = both(reference, model, inputs=PROMPT, custom_generate=GenerationMixin._sample, max_new_tokens=9)
    assert torch.equal(found, expected)


def test_going_on_from_a_returned_cache(reference: Any, model: Any) -> None:
    first = {"return_dict_in_generate": True, "max_new_tokens": 10}
    expected, found = both(reference, model, inputs=PROMPT, **first)
    for turn in range(3):
        sequences = torch.cat((expected.sequences, tokens(1, 7, seed=turn)), 1)
        expected = reference.generate(sequences, past_key_values=expected.past_key_values, **first)
        found = model.generate(sequences, past_key_values=found.past_key_values, **first)
        assert torch.equal(found.sequences, expected.sequences)
    assert found.past_key_values.get_seq_length() == expected.past_key_values.get_seq_length()


def test_going_on_with_new_tokens_alone(reference: Any, model: Any) -> None:
    expected, found = both(reference, model, inputs=PROMPT, return_dict_in_generate=True, max_new_tokens=10)
    more = torch.cat((expected.sequences[:, -1:], tokens(1, 6, seed=1)), 1)
    mask = torch.ones(1, 49 + more.shape[1], dtype=torch.int64)
    options = {"attention_mask": mask, "max_new_tokens": 8}
    assert torch.equal(
        model.generate(more, past_key_values=found.past_key_values, **options),
        reference.generate(more, past_key_values=expected.past_key_values, **options),
    )


def test_the_cache_of_a_batch_goes_on_too(reference: Any, model: Any) -> None:
    options = {"return_dict_in_generate": True, "max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}
    expected, found = both(reference, model, inputs=BATCH, attention_mask=MASK, **options)
    sequences = torch.cat((expected.sequences, tokens(4, 5, seed=2)), 1)
    mask = torch.cat((MASK, torch.ones(4, 11, dtype=torch.int64)), 1)
    assert torch.equal(
        model.generate(sequences, attention_mask=mask, past_key_values=found.past_key_values, **options).sequences,
        reference.generate(
            sequences, attention_mask=mask, past_key_values=expected.past_key_values, **options
        ).sequences,
    )


def test_streamers(model: Any, tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import TextIteratorStreamer, TextStreamer

    expected = tokenizer.decode(model.generate(PROMPT, max_new_tokens=9)[0, 40:])
    model.generate(PROMPT, max_new_tokens=9, streamer=TextStreamer(tokenizer, skip_prompt=True))
    assert capsys.readouterr().out.strip() == expected
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    model.generate(PROMPT, max_new_tokens=9, streamer=streamer)
    assert "".join(streamer) == expected


def test_stop_strings(reference: Any, model: Any, tokenizer: Any) -> None:
    answer = tokenizer.decode(reference.generate(PROMPT, max_new_tokens=20)[0, 40:]).split()
    options = {"stop_strings": [answer[6]], "tokenizer": tokenizer, "max_new_tokens": 20}
    expected, found = both(reference, model, inputs=PROMPT, **options)
    assert torch.equal(found, expected) and found.shape[1] < 60


def test_pipeline(model: Any, tokenizer: Any) -> None:
    from transformers import pipeline

    generate = pipeline("text-generation", model=model, tokenizer=tokenizer)
    prompt = tokenizer.decode(PROMPT[0])
    found = generate(prompt, max_new_tokens=8, do_sample=False, return_full_text=False)[0]["generated_text"]
    assert found.split() == tokenizer.decode(model.generate(PROMPT, max_new_tokens=8)[0, 40:]).split()


@pytest.fixture(scope="module", name="tokenizer")
def word_tokenizer_once() -> Any:
    return word_tokenizer()


def word_tokenizer() -> Any:
    """One word for every token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # Stop strings are found with the help of this very word.
    names = [f"w{i}w" for i in range(VOCAB - 1)] + ["abcdef"]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="w0w"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0w", padding_side="left")
