"""`Chat`: a conversation with a runner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from exaone_export.errors import ExaoneExportError, ToolsError

from ..one_process import OneProcess
from ..text.answer import ToolCall
from ..text.chat import ChatFormat
from .functions import ToolFunctions
from .runner import Runner
from .turn import Message, Turn

__all__ = ["Chat"]

Tools = ToolFunctions | Sequence[Mapping[str, Any]] | Sequence[Callable[..., Any]] | None


class Chat(OneProcess):
    """A conversation, whose turns go on from what the runner's cache holds of it.

    Example:
        with Runner.open("out") as runner:
            chat = Chat(runner, system="Be brief.")
            for piece in chat.send("What is 27 + 45?"):
                print(piece, end="", flush=True)

    Args:
        runner: Generates; conversations may share it, and take turns.
        system: The system message, or None.
        tools: What the model may call: functions, in a list too, or JSON schemas alone.
        enable_thinking: Whether the model reasons before it answers.
        template: The name of the chat template, where the tokenizer has several.
        options: Of every turn, those of `Runner.generate`.

    Attributes:
        format: The chat template.
        messages: The conversation, the model's turns included; it may be changed between turns.
        tools: As given; others may be set between turns.
        enable_thinking: As given; it may be changed between turns.
        options: As given; they may be changed between turns.

    Raises:
        ArtifactError: The artifact has no chat template, or several and none of that name.
        ToolsError: A function cannot be called by a model, or two have one name.
    """

    instead = "make another Chat of the runner, or in another process of a runner there, and give it the messages"

    def __init__(
        self,
        runner: Runner,
        *,
        system: str | None = None,
        tools: Tools = None,
        enable_thinking: bool = False,
        template: str | None = None,
        **options: Any,
    ) -> None:
        self._runner, self.format = runner, ChatFormat(runner.tokenizer, template)
        self.tools = tools
        self.enable_thinking, self.options = enable_thinking, options
        self.messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._turn: Turn | None = None

    @property
    def tools(self) -> Tools:
        """What the model may call."""
        return self._tools

    @tools.setter
    def tools(self, tools: Tools) -> None:
        self._tools = tuple(tools) if isinstance(tools, list) else tools  # changes in place would not be noticed
        self._offered = _offered(self._tools)

    def send(self, *messages: str | Message, **options: Any) -> Turn:
        """Add messages, and begin the model's turn; what is left of the turn before it is read first.

        Args:
            messages: Texts of the user, or messages such as a tool's result, ``{"role": "tool", "content": …}``.
            options: Those of `Runner.generate`, for this turn.

        Returns:
            The turn; iterate over it for what the model says. It is added to the conversation when it ends, cut off or
            not.

        Raises:
            ChatTemplateError: The template refuses the messages; the conversation is as before.
            PromptError: The conversation does not fit; it is as before.
            UnsupportedOptionError: An option is unknown, or its value is out of range.
            ExaoneExportError: The turn before failed; it is in the conversation as far as it came.
        """
        self._read_left()
        prompt = self.encode(*messages)
        answer = self._runner.generate(prompt, **{**self.options, **options})
        self.messages += _to_messages(messages)
        self._turn = Turn(answer, self.messages, reasoning=self.format.opened(prompt), tools=self._schemas)
        return self._turn

    def converse(
        self,
        *messages: str | Message,
        answer: Callable[[ToolCall], str] | None = None,
        max_rounds: int = 8,
        **options: Any,
    ) -> Iterator[Turn]:
        """Add messages, and let the model take turns until one has no tool call: every other one is answered.

        A call is answered, "not run", where its turn was cut off, where there were ``max_rounds`` rounds of calls
        before it, or where an answer was interrupted; the conversation then ends with that.

        Args:
            messages: As `send`.
            answer: Gives a call's result (default: calls the function of `tools`; of schemas alone, there is no answer,
                and the first turn is the only one).
            max_rounds: The most turns whose calls are answered.
            options: As `send`, for every turn.

        Yields:
            The turns; what is left of one is read before the next begins.

        Raises:
            PromptError: As `send`; the conversation is as before, also where a tool's result does not fit.
            ExaoneExportError: As `send`.
        """
        self._read_left()
        if answer is None and isinstance(self._offered, ToolFunctions):
            answer = self._offered.call
        length, added = len(self.messages), messages
        for count in range(max_rounds + 1):
            try:
                turn = self.send(*added, **options)
            except ExaoneExportError:
                del self.messages[length:]
                raise
            yield turn
            calls = turn.read().tool_calls
            if not calls or answer is None:
                return
            results = list[str]()
            why = "the turn was cut off" if turn.finish_reason != "stop" else "an earlier call was interrupted"
            try:
                if count == max_rounds:
                    why = f"there were {max_rounds} rounds of calls already"
                elif turn.finish_reason == "stop":
                    for call in calls:
                        results.append(answer(call))
            finally:
                told: list[Message] = [
                    {"role": "tool", "content": result}
                    for result in [*results, *[f"not run: {why}"] * (len(calls) - len(results))]
                ]
                if len(results) < len(calls):
                    self.messages += told
            if len(results) < len(calls):
                return
            added = tuple(told)

    def encode(self, *messages: str | Message) -> list[int]:
        """Token ids of the prompt that `send` would run, such as `Runner.save_prompt` takes.

        Raises:
            ChatTemplateError: The template refuses the messages.
        """
        return self._encode([*self.messages, *_to_messages(messages)])

    def count_tokens(self) -> int:
        """Tokens that the conversation has in the next prompt, where the template drops past reasoning.

        Raises:
            ChatTemplateError: The template refuses the messages.
        """
        return len(self._encode(self.messages, add_generation_prompt=False)) if self.messages else 0

    def _read_left(self) -> None:
        """Read what is left of the turn before, so that the conversation has it."""
        if self._turn is not None:
            self._turn.read()

    def _encode(self, messages: Sequence[Message], **options: Any) -> list[int]:
        return self.format.encode(messages, enable_thinking=self.enable_thinking, tools=self._schemas, **options)

    @property
    def _schemas(self) -> Sequence[Mapping[str, Any]] | None:
        return self._offered.schemas if isinstance(self._offered, ToolFunctions) else self._offered


def _offered(tools: Tools) -> ToolFunctions | Sequence[Mapping[str, Any]] | None:
    """With functions of a list by their names."""
    if isinstance(tools, ToolFunctions | str) or not tools:
        return tools  # type: ignore[return-value]
    functions = [each for each in tools if callable(each)]
    if not functions:
        return tools  # type: ignore[return-value]  # the template refuses what is not a schema
    if len(functions) < len(tools):
        raise ToolsError("tools has functions and schemas; pass functions alone, or schemas alone.")
    named = dict[str, Callable[..., Any]]()
    for each in functions:
        name = getattr(each, "__name__", type(each).__name__)
        if named.setdefault(name, each) is not each:
            raise ToolsError(f"two tools have the name {name!r:.80}; name them: ToolFunctions({{'a': …, 'b': …}}).")
    return ToolFunctions(named)


def _to_messages(messages: Sequence[str | Message]) -> list[Message]:
    return [{"role": "user", "content": each} if isinstance(each, str) else each for each in messages]
