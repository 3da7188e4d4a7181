"""From a request to the constraint of its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exaone_export.errors import GrammarError

from ...constraints.requested import AnswerForm
from ...constraints.requested import constraint_of as compiled_constraint
from ...constraints.tool_calls import CalledTool
from ...text.call_form import JSON_CALLS
from ...text.chat import ChatFormat
from ...text.reasoning import Reasoning
from ..errors import ApiError
from ..protocol.chat import ChatRequest
from ..protocol.generating import Generating
from ..protocol.response_format import JsonObject, JsonSchema
from ..protocol.tools import NamedTool

if TYPE_CHECKING:
    from ...constraints.constraint import Compiled, Compiler

__all__ = ["constraint_of"]


def constraint_of(
    compiler: Compiler, body: Generating, chat: ChatFormat | None = None, reasoning: Reasoning | None = None
) -> Compiled | None:
    """What makes the constraint of one answer; None where an answer is free.

    Args:
        compiler: The artifact's.
        body: The request.
        chat: The artifact's chat template, of a chat.
        reasoning: The tags that the answer begins inside of, if any.

    Raises:
        ApiError: A schema or an expression is wrong, too large, or something in it is not supported.
    """
    form, more = _form_of(body), dict[str, Any]()
    if isinstance(body, ChatRequest):
        tools, choice = body.offered, body.tool_choice
        if isinstance(choice, NamedTool):
            tools, choice = [tool for tool in tools if tool.function.name == choice.function.name], "required"
        functions = [tool.function for tool in tools]
        more = {
            "tools": [CalledTool(each.name, each.parameters, strict=bool(each.strict)) for each in functions],
            "tool_choice": choice or "auto",
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "call_form": chat.call_form if chat is not None and tools else JSON_CALLS,
            "reasoning": reasoning,
        }
    try:
        return compiled_constraint(compiler, form=form, **more)
    except GrammarError as cause:
        param = "tools" if form is None or more.get("tool_choice") == "required" else form.name
        raise ApiError(400, str(cause), param=param, code="invalid_value") from cause


def _form_of(body: Generating) -> AnswerForm | None:
    asked, found = body.response_format, body.structured_outputs
    if isinstance(asked, JsonObject):
        return AnswerForm("json_object")
    if isinstance(asked, JsonSchema):
        return AnswerForm("json_schema", asked.json_schema.schema_, strict=bool(asked.json_schema.strict))
    if found is None:
        return None
    name = "structured_outputs"
    if found.json_ is not None:
        return AnswerForm("json_schema", found.json_, name)
    return AnswerForm("choice", found.choice, name) if found.regex is None else AnswerForm("regex", found.regex, name)
