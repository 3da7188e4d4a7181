"""Answers of random logits keep the form that they are held to."""

import json
import re
import sys

import jsonschema
import numpy as np
import pytest

from exaone_export.errors import GrammarError, ProcessStartError
from exaone_export.runtime.constraints import constraint, trial
from exaone_export.runtime.constraints.constraint import Compiler
from exaone_export.runtime.constraints.requested import AnswerForm, constraint_of
from exaone_export.runtime.constraints.tool_calls import CalledTool
from exaone_export.runtime.text.answer import parse_answer
from exaone_export.runtime.text.reasoning import opened_by
from exaone_export.runtime.text.tokenizer import Tokenizer
from tests.conftest import TINY
from tests.runtime.constraints.random_answers import STOP, allows, say

pytest.importorskip("llguidance", reason="needs the extra serve")
CALL = 13
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "kind": {"enum": ["a", "é"]}},
    "required": ["x", "kind"],
    "additionalProperties": False,
}
TOOLS = [CalledTool("get", POINT, strict=True), CalledTool("get_all")]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.open(TINY)


@pytest.fixture(scope="module")
def compiler(tokenizer):
    return Compiler(tokenizer, len(tokenizer), {STOP})


def random_schema(rng, depth=0):
    kinds = [
        "integer",
        "number",
        "boolean",
        "null",
        "string",
        "enum",
        *(["object", "array", "anyOf"] if depth < 2 else []),
    ]
    kind = kinds[rng.integers(len(kinds))]
    if kind == "enum":
        return {"enum": ["a", 1, None, "한글"][: rng.integers(1, 5)]}
    if kind == "object":
        names = [f"p{index}" for index in range(rng.integers(0, 4))]
        properties = {name: random_schema(rng, depth + 1) for name in names}
        return {"type": kind, "properties": properties, "required": names[::2], "additionalProperties": False}
    if kind == "array":
        return {
            "type": kind,
            "items": random_schema(rng, depth + 1),
            "minItems": 1,
            "maxItems": int(rng.integers(1, 4)),
        }
    if kind == "anyOf":
        return {kind: [random_schema(rng, depth + 1) for _ in range(2)]}
    limits = {"integer": {"minimum": -5, "maximum": 300}, "string": {"minLength": 2, "maxLength": 9}}
    return {"type": kind, **limits.get(kind, {})}


@pytest.mark.parametrize("seed", range(40))
def test_text_of_random_logits_is_json_that_the_schema_accepts(tokenizer, compiler, seed):
    schema = random_schema(np.random.default_rng(seed))
    made = constraint_of(compiler, form=AnswerForm("json_schema", schema))
    jsonschema.validate(json.loads(say(tokenizer, made, seed)), schema)


@pytest.mark.parametrize("seed", range(4))
def test_the_other_forms(tokenizer, compiler, seed):
    def text(kind, value=None, **options):
        return say(tokenizer, constraint_of(compiler, form=AnswerForm(kind, value), **options), seed)

    assert isinstance(json.loads(text("json_object")), dict)
    assert re.fullmatch(r"[a-c]{3}/[0-9]+\n(x|y)?z", text("regex", "[a-c]{3}/[0-9]+\n(x|y)?z"))
    options = ['no"\n\\/', "네", "yes", "yes please", "<tool_call>"]
    assert text("choice", options) in options


def test_reasoning_is_free_and_the_form_begins_behind_it(tokenizer, compiler):
    made = constraint_of(compiler, form=AnswerForm("choice", ["yes", "no"]), reasoning=opened_by("<think>\n"))
    constraint = made()
    for token in tokenizer.encode("so {\n<tool_call> it is</think>\n\nyes"):
        scores = np.zeros(len(tokenizer), np.float32)
        constraint.forbid(scores)
        assert np.isfinite(scores[token])
        ended = constraint.take(token)
    assert ended


def test_calls_that_must_be_made_can_be_read(tokenizer, compiler):
    for seed in range(6):
        made = constraint_of(compiler, tools=TOOLS, tool_choice="required", parallel_tool_calls=seed % 2 > 0)
        answer = parse_answer(say(tokenizer, made, seed))
        assert answer.tool_calls and not answer.content
        assert seed % 2 or len(answer.tool_calls) == 1
        for call in answer.tool_calls:
            jsonschema.validate(call.arguments, POINT if call.name == "get" else {"maxProperties": 0})


def test_strict_calls_in_text_can_be_read(tokenizer, compiler):
    made = constraint_of(compiler, tools=TOOLS)
    found = [parse_answer(say(tokenizer, made, seed, favour=[CALL])) for seed in range(6)]
    assert sum(len(answer.tool_calls) for answer in found) > 6
    assert not any("<tool_call>" in answer.content for answer in found)
    once = constraint_of(compiler, tools=TOOLS[1:], parallel_tool_calls=False)
    assert len(parse_answer(say(tokenizer, once, 0, favour=[CALL])).tool_calls) == 1


def test_what_asks_for_nothing_is_free(compiler):
    assert constraint_of(compiler) is None
    assert constraint_of(compiler, tools=TOOLS, tool_choice="none") is None
    assert constraint_of(compiler, tools=TOOLS[1:]) is None


@pytest.mark.parametrize("size", [700, 900])
def test_logits_may_be_more_or_fewer_than_the_tokenizers_tokens(tokenizer, size):
    for stop in ({STOP}, set()):
        made = constraint_of(Compiler(tokenizer, size, stop), form=AnswerForm("choice", ["a<tool_call>"]))
        constraint, tokens = made(), []
        while True:
            scores = np.random.default_rng(0).normal(size=size).astype(np.float32)
            constraint.forbid(scores)
            tokens.append(int(scores.argmax()))
            if constraint.take(tokens[-1]):
                break
        assert tokenizer.decode(tokens) == "a<tool_call>"


def deep(levels):
    found = {"type": "string"}
    for _ in range(levels):
        found = {"type": "array", "items": found}
    return found


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("choice", [], "empty"),
        ("regex", "", "empty"),
        ("regex", "(a", "unclosed group"),
        ("regex", "(?=a)b", "look-around"),
        ("regex", "(" * 5000 + "a" + ")" * 5000, "nested"),
        ("regex", ".*" * 500, "lexer error"),
        ("json_schema", {"type": "strin"}, "Invalid type: strin"),
        ("json_schema", {"not": {}}, 'Unimplemented keys: \\["not"\\]'),
        ("json_schema", {"type": "string", "format": "x"}, "Unknown format: x"),
        ("json_schema", {"$ref": "http://localhost/x"}, "not present in a registry"),
        ("json_schema", {"$ref": "#"}, "no text fulfils it"),
        ("json_schema", {"minimum": float("nan")}, "not JSON"),
        ("json_schema", deep(70), "nested more than 64"),
        ("json_schema", {"multipleOf": 9_999_991}, "multipleOf 9999991, and it may be above 0, up to 1000"),
        ("json_schema", {"multipleOf": 0}, "multipleOf 0, and"),
        (
            "json_schema",
            {"type": "integer", "minimum": 10**30},
            "minimum 10+, and .* as a string with",
        ),
        ("json_schema", {"items": {"exclusiveMaximum": -1e300}}, "exclusiveMaximum -1e.300, and numbers beyond"),
        ("json_schema", {"properties": {"enum": {"minLength": 10**30}}}, "minLength 10+, and answers are shorter"),
        ("json_schema", {"enum": ["x" * 300_000]}, "bytes"),
        ("json_schema", {"allOf": [{"type": "string", "pattern": f".*{i}.*"} for i in range(50)]}, "600 ms of time"),
        ("json_schema", {"type": "object", "properties": {f"p{i}": {} for i in range(1000)}}, "[0-9]{4} items"),
    ],
)
def test_wrong_and_hostile_forms_are_refused_in_a_sentence(compiler, kind, value, message):
    with pytest.raises(GrammarError, match=message) as caught:
        constraint_of(compiler, form=AnswerForm(kind, value, name="response_format"))
    assert str(caught.value).startswith("response_format") and len(str(caught.value)) < 300


def test_bounds_that_only_look_large_are_kept(tokenizer, compiler):
    whole = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}  # as other languages write their types
    real = {"type": "number", "exclusiveMinimum": -(2.0**63), "maximum": 2.0**63}
    data = {"enum": [{"maximum": 10**30, "minimum": -(10**30)}]}
    text = {"type": "string", "maxLength": 10**30}
    items = {"type": "array", "maxItems": 2**64, "items": whole}
    properties = {"minimum": whole, "real": real, "data": data, "text": text, "list": items}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    for seed in range(4):
        found = json.loads(say(tokenizer, constraint_of(compiler, form=AnswerForm("json_schema", schema)), seed))
        jsonschema.validate(found, schema)


@pytest.mark.parametrize(
    ("schema", "allowed", "forbidden"),
    [
        ({"minimum": 0, "maximum": 2**63 - 1}, [123456789012345678, 2**63 - 1024], [-1, 2**63, 10**19]),
        ({"minimum": -(2**63), "maximum": 2**63 - 1}, [-1234567890123456789], [-(2**63) - 1]),
        ({"exclusiveMinimum": -(2**63) - 1, "maximum": 2**60}, [-(10**20), 2**60], [2**60 + 1]),
        ({"minimum": 0, "maximum": 2**64 - 1}, [14695981039346656037], [-1]),
        ({"type": "number", "minimum": -1e300, "maximum": 1e300}, ["-6.02E23", "6.02E23"], []),
    ],
)
def test_numbers_of_many_digits_are_not_cut_short(tokenizer, compiler, schema, allowed, forbidden):
    made = constraint_of(compiler, form=AnswerForm("json_schema", {"type": "integer", **schema}))
    numbers = [*allowed, *forbidden]
    found = [each for each in numbers if allows(made(), tokenizer.encode(str(each)), len(tokenizer))]
    assert found == allowed


def test_large_grammars_are_not_kept_and_small_ones_up_to_a_size(tokenizer, monkeypatch):
    compiler, tried = Compiler(tokenizer, len(tokenizer), {STOP}), []
    monkeypatch.setattr(trial.shared(), "find_error", lambda grammar, name: tried.append(grammar))
    monkeypatch.setattr(constraint, "_LARGEST_KEPT", 60)
    monkeypatch.setattr(constraint, "_MOST_CHARACTERS", 100)
    small, other, large = ("start: /" + letter * count + "/" for letter, count in (("a", 40), ("b", 40), ("c", 60)))
    for grammar in (small, other, small, other, large, large):
        compiler.compile(grammar, name="x")
    assert tried == [small, other, large, large]
    compiler.compile(f"{other}\n", name="x")  # a third one, so that the first has to go
    compiler.compile(small, name="x")
    assert tried[4:] == [f"{other}\n", small]


def test_a_grammar_is_compiled_once_and_its_answers_are_apart(tokenizer, monkeypatch):
    compiler, tried = Compiler(tokenizer, len(tokenizer), {STOP}), []
    shared = trial.shared()
    find = shared.find_error
    monkeypatch.setattr(shared, "find_error", lambda grammar, name: tried.append(grammar) or find(grammar, name=name))
    form = AnswerForm("regex", "[ab]{2}c")
    first, second = (constraint_of(compiler, form=form) for _ in range(2))
    assert len(tried) == 1
    one, other = first(), second()
    for text in "ab":
        assert not one.take(tokenizer.encode(text)[0])
    scores = np.zeros(len(tokenizer), np.float32)
    other.forbid(scores)
    assert np.isfinite(scores[tokenizer.encode("a")[0]]) and not np.isfinite(scores[tokenizer.encode("c")[0]])
    for index in range(32):  # as many as are kept
        constraint_of(compiler, form=AnswerForm("choice", [f"{index}"]))
    constraint_of(compiler, form=form)
    assert tried.count(tried[0]) == 2


def test_a_process_that_does_not_start_is_not_called_a_large_grammar(monkeypatch, tmp_path):
    (tmp_path / "worker.py").write_text("import sys; sys.exit('no library')")
    monkeypatch.setattr(trial, "_WORKER", tmp_path / "worker.py")
    told = rf"did not start \(it wrote: no library\); run: {re.escape(sys.executable)} -c .import llguidance."
    with pytest.raises(ProcessStartError, match=told) as caught:
        trial.Trials().find_error("start: /a/", name="x")
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from exaone_export.runtime.serve.errors import error_of

    error = error_of(caught.value)  # the client is told nothing of this machine
    assert error.status == 500 and "library" not in str(error.body)


def test_keywords_that_are_not_supported_are_ignored_where_nothing_is_strict(tokenizer, compiler):
    made = constraint_of(compiler, form=AnswerForm("json_schema", {"type": "boolean", "not": {}}, strict=False))
    assert say(tokenizer, made, 0) in ("true", "false")
