"""The engine keeps to a constraint, and what goes on beside it stays free."""

import json

import jsonschema
import pytest

from exaone_export.errors import UnsupportedOptionError
from exaone_export.runtime.constraints.constraint import Compiler
from exaone_export.runtime.constraints.requested import AnswerForm, constraint_of
from exaone_export.runtime.constraints.tool_calls import CalledTool
from exaone_export.runtime.core.requests import Request
from exaone_export.runtime.runner.chat import Chat
from exaone_export.runtime.runner.runner import Runner
from exaone_export.runtime.text.chat import ChatFormat
from tests.conftest import TINY

pytest.importorskip("llguidance", reason="needs the extra serve")
CITY = {"type": "object", "properties": {"city": {"enum": ["Seoul", "Oslo"]}}, "required": ["city"]}


def test_greedy_answers_of_a_trained_model_keep_their_forms_side_by_side(export_artifact):
    folder = export_artifact(TINY, "ort-cpu")
    with Runner.open(folder, slots=4) as runner:
        chat = ChatFormat(runner.tokenizer)
        prompt = chat.encode([{"role": "user", "content": "Hello"}])
        compiler = Compiler(runner.tokenizer, runner.session.vocab_size, runner.defaults.stop_ids)
        strict = CalledTool("weather", CITY, strict=True)

        def begin(**options):
            made = constraint_of(compiler, **options) if options else None
            constraint = None if made is None else made()
            return runner.engine.submit(
                Request(
                    prompt, 60, stop_ids=runner.defaults.stop_ids, prompt_lookup_num_tokens=4, constraint=constraint
                )
            )

        alone = [token.id for token in begin()]
        begun = [
            begin(),
            begin(form=AnswerForm("choice", ["certainly", "never"])),
            begin(form=AnswerForm("json_schema", {**CITY, "additionalProperties": False})),
            begin(tools=[strict], tool_choice="required", parallel_tool_calls=False),
        ]
        free, *held = [[token.id for token in each] for each in begun]
        assert free == alone
        assert [each.finish_reason for each in begun[1:]] == ["stop"] * 3
        choice, schema, called = (chat.decode(tokens) for tokens in held)
        assert choice.content in ("certainly", "never")
        jsonschema.validate(json.loads(schema.content), CITY)
        assert not called.content
        assert [call.name for call in called.tool_calls] == ["weather"]
        jsonschema.validate(called.tool_calls[0].arguments, CITY)


def test_a_runner_and_a_chat_keep_to_a_constraint_in_every_turn(export_artifact):
    with Runner.open(export_artifact(TINY, "ort-cpu")) as runner:
        compiler = Compiler(runner.tokenizer, runner.session.vocab_size, runner.defaults.stop_ids)
        made = constraint_of(compiler, form=AnswerForm("choice", ["certainly", "never"]))
        assert runner.generate("Hello", constraint=made).read() in ("certainly", "never")
        chat = Chat(runner, constraint=made)
        assert {chat.send("Hi").read().content for _ in range(2)} <= {"certainly", "never"}
        with pytest.raises(UnsupportedOptionError, match="constraint is 'json'; pass what constraint_of"):
            runner.generate("Hello", constraint="json")
