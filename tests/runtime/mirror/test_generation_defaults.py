"""What a generation_config.json may say, and what an artifact makes of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Exaone4Config, GenerationConfig

from exaone_export.errors import ArtifactError
from exaone_export.runtime.defaults.refused import REFUSED
from exaone_export.runtime.defaults.rules import RULES, UNUSABLE, fits
from exaone_export.runtime.mirror.generation_defaults import fit_to_one_answer, no_defaults, read_defaults
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.runtime.parity.sides import greedy_tokens
from tests.conftest import HYBRID, TINY
from tests.runtime.conftest import VOCAB, tokens

CONFIG = Exaone4Config(**HYBRID)


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the module's logger is told."""
    sentences: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: sentences.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(read_defaults.__module__)
    logger.addHandler(handler)
    yield sentences
    logger.removeHandler(handler)


def read(folder: Path, told: list[str], **content: Any) -> tuple[GenerationConfig, list[str]]:
    """The defaults, and the sentences about what is left out."""
    path = folder / "generation_config.json"
    path.write_text(json.dumps(content))
    told.clear()
    found = read_defaults(folder, CONFIG)
    for sentence in told:
        assert sentence.startswith(f"{path} ") and sentence.endswith(".") and "defect" not in sentence
    return found, list(told)


def test_every_key_of_transformers_has_a_rule() -> None:
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")} - {"transformers_version"}
    assert known <= RULES.keys() | UNUSABLE.keys() | REFUSED.keys()
    assert not RULES.keys() & REFUSED.keys()


def test_a_folder_without_the_file(tmp_path: Path) -> None:
    assert read_defaults(tmp_path, CONFIG).eos_token_id == 2


@pytest.mark.parametrize("content", ["{", "[]", "\x80", '{"max_time": 1, "max_time": 2}'])
def test_a_file_that_is_not_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "generation_config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ArtifactError, match=r"generation_config.json cannot be read; correct it"):
        read_defaults(tmp_path, CONFIG)


HONOURED: dict[str, Any] = {
    "bad_words_ids": [[3, 4]],
    "eos_token_id": [2, 5],
    "exponential_decay_length_penalty": [3, 1.1],
    "forced_eos_token_id": 2,
    "guidance_scale": 1.5,
    "max_time": 2,
    "num_beams": 3,
    "pad_token_id": 0,
    "prompt_lookup_num_tokens": 3,
    "sequence_bias": [[[5], -2.0]],
    "stop_strings": ["a", "b"],
    "suppress_tokens": [5],
    "temperature": 0.6,
    "top_k": 0,
    "return_dict_in_generate": True,
    "use_cache": False,
}


@pytest.mark.parametrize("key", HONOURED)
def test_what_is_honoured(tmp_path: Path, told: list[str], key: str) -> None:
    found, sentences = read(tmp_path, told, **{"eos_token_id": 2, key: HONOURED[key]})
    assert getattr(found, key) == HONOURED[key] and not sentences
    assert read(tmp_path, told, **{key: None})[1] == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"watermarking_config": {"bias": 2.0}}, None),
        ({"sequence_bias": [[[5], -2]]}, [[[5], -2.0]]),
        ({"cache_implementation": "hybrid", "num_beam_groups": 1, "low_memory": False}, None),
        ({"token_healing": False, "is_assistant": False}, None),
        ({"to_dict": 1, "update": 2, "streamer": 3, "of_another_version": [4], "transformers_version": 5}, None),
    ],
)
def test_what_needs_no_sentence(tmp_path: Path, told: list[str], content: dict[str, Any], expected: Any) -> None:
    found, sentences = read(tmp_path, told, **content)
    assert sentences == []
    if expected is not None:
        assert getattr(found, next(iter(content))) == expected
    assert callable(found.to_dict) and found.cache_implementation is None


def test_a_rule_answers_the_same_however_often_it_is_asked() -> None:
    """msgspec frees the pattern of some types after the first use; see `exaone_export.files.records`."""
    values = [*HONOURED.values(), "", [""], [["a"]], {}, "\ud83d", 10**400]
    for kind, _ in RULES.values():
        first = [fits(value, kind) for value in values]
        assert all([fits(value, kind) for value in values] == first for _ in range(20))


IGNORED: list[tuple[dict[str, Any], str, str]] = [
    ({"cache_implementation": "static"}, "cache_implementation", "an artifact runs on its own hybrid cache"),
    ({"cache_implementation": "nonsense"}, "cache_implementation", "an artifact runs on its own hybrid cache"),
    ({"cache_config": {"nbits": 4}}, "cache_config", "an artifact runs on its own hybrid cache"),
    ({"compile_config": {"x": 1}}, "compile_config", "nothing is compiled"),
    ({"continuous_batching_config": {}}, "continuous_batching_config", "not batched continuously"),
    ({"output_attentions": True}, "output_attentions", "an exported graph gives logits and caches only"),
    ({"penalty_alpha": 0.6}, "penalty_alpha", "code of a Hub repository is never run"),
    ({"num_beam_groups": 2}, "num_beam_groups", "code of a Hub repository is never run"),
    ({"assistant_early_exit": 2}, "assistant_early_exit", "the artifact holds no draft heads"),
    ({"token_healing": True}, "token_healing", "transformers drops the special tokens of a chat for it"),
    ({"is_assistant": True}, "is_assistant", "generate() sets it itself"),
    ({"eos_token_id": {"a": 1}}, "eos_token_id", "it must be a token id or a list of them"),
    ({"eos_token_id": "2"}, "eos_token_id", "it must be a token id or a list of them"),
    ({"eos_token_id": True}, "eos_token_id", "it must be a token id or a list of them"),
    ({"eos_token_id": VOCAB}, "eos_token_id", f"the vocabulary is 0 to {VOCAB - 1}"),
    ({"eos_token_id": 2**80}, "eos_token_id", f"the vocabulary is 0 to {VOCAB - 1}"),
    ({"pad_token_id": -1}, "pad_token_id", f"the vocabulary is 0 to {VOCAB - 1}"),
    ({"pad_token_id": [0]}, "pad_token_id", "it must be a token id"),
    ({"forced_bos_token_id": VOCAB}, "forced_bos_token_id", f"the vocabulary is 0 to {VOCAB - 1}"),
    ({"bad_words_ids": [[3, VOCAB]]}, "bad_words_ids", f"the vocabulary is 0 to {VOCAB - 1}"),
    ({"bad_words_ids": [3]}, "bad_words_ids", "it must be a list of lists of token ids"),
    ({"sequence_bias": {"3": 1.0}}, "sequence_bias", "it must be a list of pairs of token ids and a number"),
    ({"max_time": "1"}, "max_time", "it must be a number above 0"),
    ({"max_time": 10**400}, "max_time", "it must be a number above 0"),
    ({"stop_strings": []}, "stop_strings", "it must be a text or a list of texts"),
    ({"stop_strings": [""]}, "stop_strings", "it must be a text or a list of texts"),
    ({"stop_strings": ["\ud83d"]}, "stop_strings", "it must be a text or a list of texts"),
    ({"num_beams": "4"}, "num_beams", "it must be a whole number from 1"),
    ({"num_return_sequences": 3}, "num_return_sequences", "without sampling there are as many answers as beams"),
    ({"prompt_lookup_num_tokens": 0}, "prompt_lookup_num_tokens", "it must be a whole number from 1"),
    ({"prompt_lookup_num_tokens": 2**70}, "prompt_lookup_num_tokens", "it must be a whole number from 1"),
    ({"temperature": 0}, "temperature", "it must be a number above 0"),
    ({"repetition_penalty": [1]}, "repetition_penalty", "it must be a number above 0"),
    ({"early_stopping": "soon"}, "early_stopping", "it must be true, false or 'never'"),
    ({"watermarking_config": {"greenlist_ratio": 7}}, "watermarking_config", "WatermarkingConfig takes"),
    ({"watermarking_config": {"unknown": 7}}, "watermarking_config", "WatermarkingConfig takes"),
    ({"watermarking_config": {"hashing_key": "x"}}, "watermarking_config", "WatermarkingConfig takes"),
    ({"num_beams": 2, "prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens", "guesses are for one row"),
    ({"use_cache": False, "prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens", "guesses need the cache"),
    (
        {"prompt_lookup_num_tokens": 3, "assistant_ensemble_weight": 0.5},
        "assistant_ensemble_weight",
        "prompt lookup has no second model",
    ),
    (
        {"exponential_decay_length_penalty": [1, 1.5]},
        "exponential_decay_length_penalty",
        "the file names no eos_token_id",
    ),
    ({"suppress_tokens": [2, 3], "forced_eos_token_id": 2}, "forced_eos_token_id", "forbids the same token"),
]


@pytest.mark.parametrize(("content", "key", "reason"), IGNORED)
def test_what_is_ignored_is_told(
    tmp_path: Path, told: list[str], content: dict[str, Any], key: str, reason: str
) -> None:
    found, (sentence,) = read(tmp_path, told, **content)
    assert key in sentence and "which is ignored: " in sentence and reason in sentence
    assert getattr(found, key) is None


def test_of_a_list_what_there_is_stays(tmp_path: Path, told: list[str]) -> None:
    found, sentences = read(
        tmp_path, told, eos_token_id=[2, 999], bad_words_ids=[[3], [3, 999]], sequence_bias=[[[999], 1.0], [[4], 1.0]]
    )
    assert found.eos_token_id == [2] and found.bad_words_ids == [[3]] and found.sequence_bias == [[[4], 1.0]]
    assert len(sentences) == 3 and all("999" in sentence for sentence in sentences)


DISTURBING = {
    "stop_strings": ["a"],
    "num_beams": 3,
    "min_new_tokens": 9,
    "max_time": 1e-9,
    "suppress_tokens": [5, 6, 7],
}


@pytest.mark.filterwarnings("ignore")
def test_compared_tokens_know_no_defaults(loaded: Any, tmp_path: Path, told: list[str]) -> None:
    """`parity`, `eval` and `bench` compare what the arguments say."""
    prompt = tokens(1, 6)[0]
    before, expected = loaded.generation_config, greedy_tokens(loaded, prompt, 3)
    loaded.generation_config, _ = read(tmp_path, told, **DISTURBING)
    try:
        assert greedy_tokens(loaded, prompt, 3) == expected
        with no_defaults(loaded):
            assert loaded.generation_config.max_time is None
        assert loaded.generation_config.max_time == 1e-9
    finally:
        loaded.generation_config = before


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[Any]:
    return load_tokenizer(TINY)


def test_one_answer(tokenizer: Any, told: list[str]) -> None:
    defaults = GenerationConfig(
        num_beams=3, num_return_sequences=2, return_dict_in_generate=True, output_scores=True, stop_strings=["85"]
    )
    fit_to_one_answer(defaults, {}, tokenizer)
    assert (defaults.num_beams, defaults.num_return_sequences, defaults.return_dict_in_generate) == (3, None, None)
    assert defaults.output_scores is None and defaults.stop_strings == ["85"]
    assert told == ["generation_config.json gives num_return_sequences=2, which is ignored: one answer is printed."]
    fit_to_one_answer(defaults, {"prompt_lookup_num_tokens": 4, "num_beams": 1}, tokenizer)
    guessing = GenerationConfig(prompt_lookup_num_tokens=4)
    fit_to_one_answer(guessing, {"num_beams": 2}, tokenizer)
    assert guessing.prompt_lookup_num_tokens is None


def test_stop_strings_that_the_vocabulary_cannot_write(told: list[str]) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")), unk_token="[UNK]"
    )
    defaults = GenerationConfig(stop_strings=["a", "b"])
    fit_to_one_answer(defaults, {}, words)
    assert defaults.stop_strings == ["a"]
    assert told == [
        "generation_config.json gives stop_strings ['b'], which is ignored: no token of the vocabulary ends it."
    ]


SHARED: list[dict[str, Any]] = [
    {"stop_strings": ["85"]},
    {"stop_strings": "8"},
    {"num_beams": 3, "length_penalty": 0.5},
    {"eos_token_id": 99999, "suppress_tokens": [8]},
    {"bad_words_ids": [[40]], "repetition_penalty": 1.2},
    {"sequence_bias": [[[40], -8]]},
    {"forced_bos_token_id": 5, "forced_eos_token_id": 8},
    {"guidance_scale": 1.5},
    {"watermarking_config": {"bias": 9.0, "seeding_scheme": "selfhash"}},
    {"no_repeat_ngram_size": 1, "min_new_tokens": 4},
    {"prompt_lookup_num_tokens": 3},
]


@pytest.mark.parametrize("content", SHARED)
@pytest.mark.filterwarnings("ignore")
def test_defaults_give_transformers_tokens(
    content: dict[str, Any], export_artifact: Any, tiny: Any, tokenizer: Any, tmp_path: Path
) -> None:
    from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM

    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 8, "pad_token_id": 0} | content))
    prompt = tokenizer(
        "[|user|]\nWhat is 38 + 47?[|endofturn|]\n[|assistant|]\n<think>\n\n</think>\n\n", return_tensors="pt"
    )
    prompt.pop("token_type_ids", None)
    options = {"max_new_tokens": 8, "tokenizer": tokenizer}
    theirs = {key: value for key, value in content.items() if key != "sequence_bias"}
    theirs |= {"sequence_bias": [[[40], -8.0]]} if "sequence_bias" in content else {}
    tiny.generation_config = GenerationConfig(**{"eos_token_id": 8, "pad_token_id": 0} | theirs)
    expected = tiny.generate(**prompt, **options)
    with ExaoneForCausalLM.from_pretrained(export_artifact(TINY, "ort-cpu", max_length=512), threads=1) as model:
        model.generation_config = read_defaults(tmp_path, model.config)
        found = model.generate(**prompt, **options)
    assert torch.equal(found, expected)


@pytest.fixture(scope="module")
def tiny() -> Any:
    from transformers import Exaone4ForCausalLM

    return Exaone4ForCausalLM.from_pretrained(TINY).eval()
