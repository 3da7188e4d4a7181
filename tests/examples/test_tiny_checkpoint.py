"""The tiny checkpoint: its files, its chat format, and what it has learned."""

import json
import sys
from itertools import islice
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.examples.scripts import EXAMPLES, imported

FOLDER = EXAMPLES / "exaone4-tiny"
THINK_NOTHING = "<think>\n\n</think>\n\n"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def evaluate():
    with imported(FOLDER / "training" / "evaluate.py") as script:
        yield script


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def test_folder_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 8_000_000


def test_config_is_a_hybrid_with_unrotated_global_layers(model):
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert config["layer_types"] == (["sliding_attention"] * 3 + ["full_attention"]) * 2
    assert config["sliding_window"] == 32
    assert config["num_attention_heads"] > config["num_key_value_heads"] > 1
    assert config["tie_word_embeddings"] is False
    assert config["rope_parameters"]["rope_type"] == "llama3"
    # Position 500 in place of 0: keys of the global layers stay, keys of the local layers turn.
    ids = torch.tensor([[40, 41, 42, 43]])
    keys = []
    for start in (0, 500):
        positions = torch.arange(start, start + 4)[None]
        keys.append([layer.keys for layer in model(ids, position_ids=positions).past_key_values.layers])
    rotated = [not torch.allclose(first, second, atol=1e-2) for first, second in zip(*keys, strict=True)]
    assert rotated == [kind == "sliding_attention" for kind in config["layer_types"]]


def test_rope_scaling_changes_some_frequencies_only(model):
    config = model.config
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
    ratio = model.model.rotary_emb.inv_freq / plain
    assert ratio[0] == 1
    assert ratio[-1] == pytest.approx(1 / 16)
    assert ((ratio > 1 / 15) & (ratio < 0.99)).any()


def test_weights_are_finite_and_untied(model):
    weights = dict(model.named_parameters())
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])


def test_special_tokens(tokenizer):
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[BOS]", "[EOS]"]) == [0, 1, 2]
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == ("[PAD]", "[BOS]", "[|endofturn|]")
    assert tokenizer.padding_side == "left"
    for token in ("[|system|]", "[|user|]", "[|assistant|]", "[|tool|]", "<think>", "</think>", "<tool_call>"):
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1
    reply = "<think>\n\n</think>\n\n57[|endofturn|]"
    assert tokenizer.decode(tokenizer.encode(reply), skip_special_tokens=True) == "<think>\n\n</think>\n\n57"


@pytest.mark.parametrize(
    "text", ["안녕하세요, 세계!", "naïve café 😀👍🏽", " two  spaces\n\n\ttab ", "١٢٣ 数字 100", "\x00\u200d"]
)
def test_any_text_survives_a_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def render(tokenizer, messages, **options):
    return tokenizer.apply_chat_template(messages, tokenize=False, **options)


def test_template_plain(tokenizer):
    user = [{"role": "user", "content": "Hi!"}]
    turn = "[|user|]\nHi![|endofturn|]\n"
    assert render(tokenizer, user) == turn
    assert render(tokenizer, user, add_generation_prompt=True) == f"{turn}[|assistant|]\n{THINK_NOTHING}"


def test_template_thinking(tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!"}]
    assert render(tokenizer, messages, add_generation_prompt=True, enable_thinking=True) == (
        "[|system|]\nBe brief.[|endofturn|]\n[|user|]\nHi![|endofturn|]\n[|assistant|]\n<think>\n"
    )


def test_template_empties_earlier_think_blocks(tokenizer):
    messages = [
        {"role": "user", "content": "What is 2 + 3?"},
        {"role": "assistant", "content": "<think>\nOnes: 5.\n</think>\n\n5"},
        {"role": "user", "content": "Thanks"},
    ]
    assert render(tokenizer, messages, add_generation_prompt=True) == (
        f"[|user|]\nWhat is 2 + 3?[|endofturn|]\n[|assistant|]\n{THINK_NOTHING}5[|endofturn|]\n"
        f"[|user|]\nThanks[|endofturn|]\n[|assistant|]\n{THINK_NOTHING}"
    )


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_template_tools(tokenizer, system):
    messages = [{"role": "user", "content": "Hi!"}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    opening = "Be brief.\n\n" if system else ""
    schema = json.dumps(WEATHER)
    assert render(tokenizer, messages, tools=[WEATHER, WEATHER]) == (
        f"[|system|]\n{opening}Tools you may call:\n<tool>{schema}</tool>\n<tool>{schema}</tool>[|endofturn|]\n"
        "[|user|]\nHi![|endofturn|]\n"
    )


@pytest.mark.parametrize("arguments", [{"city": "서울"}, '{"city": "서울"}'])
def test_template_tool_turns(tokenizer, arguments):
    call = {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "content": '{"degrees": 21}'},
        {"role": "tool", "content": {"degrees": 22}},
    ]
    rendered = '<tool_call>{"name": "get_weather", "arguments": {"city": "서울"}}</tool_call>'
    assert render(tokenizer, messages, add_generation_prompt=True) == (
        f"[|user|]\nWeather?[|endofturn|]\n[|assistant|]\n{THINK_NOTHING}{rendered}\n{rendered}[|endofturn|]\n"
        '[|tool|]\n<tool_result>{"degrees": 21}</tool_result>\n'
        '<tool_result>{"degrees": 22}</tool_result>[|endofturn|]\n'
        f"[|assistant|]\n{THINK_NOTHING}"
    )


def test_template_refuses_an_unknown_role(tokenizer):
    with pytest.raises(Exception, match="Unknown or misplaced role: developer"):
        render(tokenizer, [{"role": "developer", "content": "Hi!"}])


def test_splits_do_not_meet(evaluate: ModuleType):
    tasks = sys.modules["tasks"]
    training = islice(tasks.stream(1, dict.fromkeys(tasks.HAS_HELD_OUT, 1.0), dict.fromkeys(tasks.TASKS, 16)), 2000)
    seen = {(example.task, example.identity) for example in training}
    asked = {(e.task, e.identity) for task in tasks.HAS_HELD_OUT for e in evaluate.held_out(task, 100)}
    assert not seen & asked


FLOORS = {
    "recall": 0.9,
    "far recall": 0.9,
    "recall list": 0.9,
    "arithmetic": 0.85,
    "tool call": 0.85,
    "tool result": 0.9,
    "greeting": 1.0,
}


@pytest.mark.parametrize("task", FLOORS)
def test_answers(evaluate: ModuleType, model, tokenizer, task):
    hits = evaluate.score(model, tokenizer, evaluate.held_out(task, 8))
    assert sum(hits) / len(hits) >= FLOORS[task]


@pytest.mark.parametrize(
    ("fault", "task", "ceiling"),
    [
        ("window-on-every-layer", "recall", 0.3),
        ("no-window", "tool result", 0.5),
        ("half-window", "tool result", 0.5),
        ("no-rotation", "arithmetic", 0.2),
        ("narrow-window", "tool result", 0.8),
        ("rotate-global-layers", "far recall", 0.8),
    ],
)
def test_a_fault_loses_answers(evaluate: ModuleType, model, tokenizer, fault, task, ceiling):
    sys.modules["faults"].FAULTS[fault](model)
    hits = evaluate.score(model, tokenizer, evaluate.held_out(task, 8))
    assert sum(hits) / len(hits) <= ceiling
