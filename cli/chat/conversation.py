"""The conversation of ``exaone-export chat``: what a line of the user does, whoever reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from exaone_export.errors import ChatTemplateError, KeptPromptError, PromptError
from exaone_export.runtime.runner.chat import Chat
from exaone_export.runtime.runner.presets import apply_preset, recommended
from exaone_export.runtime.runner.runner import Runner
from exaone_export.runtime.text.chat import ChatFormat
from exaone_export.runtime.text.tool_calls import ToolCall

from ..sampling import check_draws
from .exchange import Exchange, run_exchange
from .interrupts import Interrupts
from .loading import Loading
from .shown import Screen
from .tools import Tools, with_answers

__all__ = ["Conversation", "Settings", "sampling_of"]


@dataclass
class Settings:
    """Of every turn; `Conversation.change` changes them between turns.

    Attributes:
        system: The system message at the start, or None.
        thinking: Whether the model reasons.
        mode: A preset of sampling, or None.
        tools: What the model may call.
        max_new_tokens: Of a turn, or None for what fits.
        options: How tokens are chosen, as far as it was given.
        kept_prompt: A file that the first prompt is to be saved to, or None.
    """

    system: str | None = None
    thinking: bool = False
    mode: str | None = None
    tools: Tools = None
    max_new_tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    kept_prompt: Path | None = None


def sampling_of(runner: Runner, chat: ChatFormat, settings: Settings) -> dict[str, Any]:
    """Options of a turn: as ``exaone-export generate`` has them, greedy unless it reasons or a mode is named.

    Raises:
        ChatTemplateError: The chat template fails, so that it is not known whether the model reasons.
        UnsupportedOptionError: The model has no such mode, or an option has no effect since the answer is greedy.
    """
    options = dict(settings.options)
    reasons = chat.reasoning(enable_thinking=settings.thinking) is not None
    if settings.mode is None and not reasons:
        options.setdefault("temperature", 0.0)
    model = recommended(runner.artifact, runner.tokenizer.chat_template)
    chosen = apply_preset(settings.mode, options, runner.defaults, model, reasons=reasons)
    check_draws(runner.defaults.sampling(chosen), settings.options)
    return chosen


class Conversation:
    """A conversation, whose model may still be loading.

    Args:
        name: Of the artifact.
        loading: Gives the runner.
        settings: Of every turn.
        screen: Shows it.
        ask: Asks the user for a tool call's result.

    Attributes:
        settings: As given.
        screen: As given.
        file: Where it was last saved or loaded from, or None.
        last: What came of the latest message, or None.
    """

    def __init__(
        self,
        name: str,
        loading: Loading[Runner],
        settings: Settings,
        screen: Screen,
        ask: Callable[[ToolCall], str],
    ) -> None:
        self.name, self.loading, self.settings, self.screen = name, loading, settings, screen
        self.file: Path | None = None
        self.last: Exchange | None = None
        self._answer = with_answers(settings.tools, ask)
        self._chat: Chat | None = None
        self._runner: Runner | None = None

    @property
    def runner(self) -> Runner:
        """The model; waits until it is loaded."""
        if self._runner is None:
            self._runner = self.loading.wait(lambda: self.screen.show_loading(self.name, self.loading.seconds))
        return self._runner

    @property
    def chat(self) -> Chat:
        """The messages; waits until the model is loaded."""
        if self._chat is None:
            self._chat = Chat(self.runner, system=self.settings.system, tools=self.settings.tools)
        return self._chat

    @property
    def reasons(self) -> bool:
        """Whether the model reasons before it answers, which its chat template decides.

        Raises:
            ChatTemplateError: It fails.
        """
        return self.chat.format.reasoning(enable_thinking=self.settings.thinking) is not None

    @property
    def sampling(self) -> dict[str, Any]:
        """Options of a turn; see `sampling_of`."""
        return sampling_of(self.runner, self.chat.format, self.settings)

    def change(self, **changes: Any) -> None:
        """Change settings of sampling.

        Raises:
            ExaoneExportError: Nothing can be sampled with them; they are as before.
        """
        before, self.settings = self.settings, replace(self.settings, **changes)
        try:
            self.sampling  # noqa: B018 - raises
        except BaseException:
            self.settings = before
            raise

    def send(self, message: str) -> Exchange:
        """Send a message, and show what comes of it.

        Raises:
            ExaoneExportError: The message was refused, or the model failed; the conversation can go on.
        """
        chat, settings = self.chat, self.settings
        chat.enable_thinking = settings.thinking
        options = self.sampling
        self.last = None
        with Interrupts() as interrupts:
            try:
                with interrupts.raising():
                    self._keep_prompt(message)
                done = run_exchange(
                    chat,
                    message,
                    self.screen,
                    max_length=self.runner.max_length,
                    answer=self._answer,
                    interrupts=interrupts,
                    max_new_tokens=settings.max_new_tokens,
                    **options,
                )
            except ChatTemplateError:
                raise
            except PromptError as error:
                if len(chat.messages) <= 1:
                    raise
                sentence = str(error).removesuffix(".")
                raise PromptError(f"{sentence}, or make room with /undo or /reset.") from error
            done.interrupted = done.interrupted or interrupts.seen
        self.last = done
        self.screen.note(done.to_text())
        if done.advice is not None:
            self.screen.note(f"warning: {done.advice}")
        return done

    def _keep_prompt(self, message: str) -> None:
        """Save the first prompt where that is wanted; the answer goes on from it."""
        if self.settings.kept_prompt is None:
            return
        tokens = self.chat.encode(message)
        self.screen.begin_turn()
        try:
            number = self.runner.save_prompt(self.settings.kept_prompt, tokens, progress=self.screen.show_progress)
            self.screen.note(f"kept the prompt, {number:,} tokens, in {self.settings.kept_prompt}")
        except KeptPromptError as error:
            self.screen.error(str(error))
        self.settings.kept_prompt = None

    def replace(self, messages: list[Any]) -> int:
        """Let the conversation be these messages, and give its tokens.

        Raises:
            PromptError: The chat template refuses them, or they do not fit; the conversation is as before.
        """
        chat = self.chat
        before, chat.messages = chat.messages, messages
        try:
            used = chat.count_tokens()
            if used >= self.runner.max_length:
                raise PromptError(
                    f"the conversation has {used:,} tokens, and the artifact holds {self.runner.max_length:,}; export "
                    f"with a larger --max-length."
                )
        except BaseException:
            chat.messages = before
            raise
        self.last = None
        return used
