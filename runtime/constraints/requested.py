"""From what a request asks for to the constraint of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..text.call_form import JSON_CALLS, CallForm
from ..text.reasoning import Reasoning
from . import lark
from .constraint import Compiled, Compiler
from .tool_calls import CalledTool, CallGrammar

__all__ = ["AnswerForm", "constraint_of"]


@dataclass(frozen=True)
class AnswerForm:
    """What the content of an answer is held to.

    Attributes:
        kind: A JSON object, JSON of a schema, text that a regular expression matches, or one of some texts.
        value: The schema, the expression or the texts; of an object, nothing.
        name: Of the field that asks for it, for errors.
        strict: Of a schema: whether keywords that are not supported are refused, which are else ignored.
    """

    kind: Literal["json_object", "json_schema", "regex", "choice"]
    value: Any = None
    name: str = "response_format"
    strict: bool = True

    @property
    def rule(self) -> str:
        """The rule `content` of a grammar.

        Raises:
            GrammarError: The value is wrong.
        """
        if self.kind == "regex":
            return lark.regex(self.value, name=self.name)
        if self.kind == "choice":
            return lark.choice(self.value, name=self.name)
        schema = {"type": "object"} if self.kind == "json_object" else self.value
        return f"content: {lark.json_schema(schema, name=self.name, lenient=not self.strict)}"


def constraint_of(
    compiler: Compiler,
    *,
    form: AnswerForm | None = None,
    tools: Sequence[CalledTool] = (),
    tool_choice: Literal["auto", "none", "required"] = "auto",
    parallel_tool_calls: bool = True,
    call_form: CallForm = JSON_CALLS,
    reasoning: Reasoning | None = None,
) -> Compiled | None:
    """What makes the constraint of each answer to a request; None where answers are free.

    Call it outside an event loop: it takes milliseconds, and for thousands of properties seconds. The first takes a
    second more, unless the compiler is loaded.

    Args:
        compiler: The artifact's.
        form: Of the content; None for text.
        tools: Those of the request; for a named one, that alone, with ``required``.
        tool_choice: Whether tools may, may not or must be called.
        parallel_tool_calls: Whether an answer may have several calls.
        call_form: How the model writes calls, as `ChatFormat.call_form` gives it.
        reasoning: The tags that the prompt opens at its end, if any, as `ChatFormat.reasoning` and `ChatFormat.opened`
            give them: what is inside them is free, and the form begins behind it.

    Raises:
        ArtifactError: The artifact's tokenizer is not supported.
        GrammarError: A schema or expression is wrong, too large, or something in it is not supported.
        MissingExtraError: llguidance is not installed.
    """
    grammar = None
    if tools and tool_choice != "none":
        grammar = CallGrammar(tools, parallel=parallel_tool_calls, form=call_form)
    rules = [] if grammar is None else grammar.rules
    if grammar is not None and tool_choice == "required":
        wanted = grammar.calls_alone
    elif form is not None:
        wanted = "content" if grammar is None else f"{grammar.calls_alone} | content"
        rules = [*rules, form.rule]
    elif grammar is not None and (not parallel_tool_calls or any(tool.strict for tool in tools)):
        wanted = grammar.calls_in_text
    else:
        return None
    name = "tools" if form is None else form.name if grammar is None else f"{form.name} with tools"
    return compiler.compile(lark.grammar_of(wanted, rules, reasoning=reasoning), name=name)
