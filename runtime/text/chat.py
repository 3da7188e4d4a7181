"""Chat prompts and answers: the chat template renders messages, and an answer's tokens are parsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from exaone_export.errors import ArtifactError, ChatTemplateError

from . import chat_templates
from .answer import TAGS, Answer, parse_answer
from .call_form import CallForm, read_call_form
from .reasoning import REASONING, Reasoning, opened_by
from .tokenizer import AnyTokenizer, to_ids

__all__ = ["AnswerDecoder", "ChatFormat", "left_out_of_answers"]

_ASKED = ({"role": "user", "content": "?"},)
_LAST_TOKENS = 4 + max(len(tags.begin.encode()) for tags in REASONING)
"""Of a prompt, enough for an open tag and the space behind it, were each byte a token."""


def left_out_of_answers(tokenizer: AnyTokenizer) -> frozenset[int]:
    """Ids of the special tokens that an answer's text leaves out: all but the tags that `parse_answer` reads.

    Some checkpoints call ``<think>`` and ``<tool_call>`` special tokens, and some do not.
    """
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(index for index, token in added if token.special and token.content not in TAGS)


class AnswerDecoder:
    """Decodes the tokens of an answer; special tokens are left out, except the tags that `parse_answer` reads.

    Args:
        tokenizer: A `Tokenizer`, or what `exaone_export.load_tokenizer` gives.
    """

    def __init__(self, tokenizer: AnyTokenizer) -> None:
        self._tokenizer = tokenizer
        self._left_out = left_out_of_answers(tokenizer)

    def decode(self, tokens: Any, **_options: Any) -> str:
        """The text of one answer; a streamer of transformers calls this too.

        Args:
            tokens: ``[S]`` token ids, or one.
        """
        return self._tokenizer.decode([token for token in to_ids(tokens) if token not in self._left_out])


class ChatFormat:
    """A checkpoint's chat template: renders messages, and parses the answer's tokens.

    Args:
        tokenizer: Has the template.
        template: The name of the template, where the tokenizer has several (default: ``tool_use`` for a prompt with
            tools if there is one, else ``default``).

    Raises:
        ArtifactError: It has none, or several and none of them has the name.
    """

    def __init__(self, tokenizer: AnyTokenizer, template: str | None = None) -> None:
        if not tokenizer.chat_template:
            raise ArtifactError(
                "the tokenizer has no chat template; copy chat_template.jinja of the checkpoint into the folder, or "
                "pass plain prompts."
            )
        self.tokenizer, self._name = tokenizer, template
        self._template(None)  # refuses a name that there is not
        self._reasoning = dict[bool, Reasoning | None]()
        chat_templates.shared().start()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        enable_thinking: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt's text, down to where the model's turn begins, or to the end of the last message.

        Raises:
            ChatTemplateError: The template refuses the messages, or takes more time or memory than it may.
            ProcessStartError: The process that applies it did not start.
        """
        if not messages:
            raise ChatTemplateError("there are no messages; pass at least one.")
        if wrong := [message for message in messages if not isinstance(message, Mapping)]:
            raise ChatTemplateError(f"{wrong[0]!r:.60} is not a message; pass objects with role and content.")
        # As transformers' apply_chat_template does it, but in a process that has limits.
        return chat_templates.shared().render(
            conversations=[[{key: value for key, value in m.items() if value is not None} for m in messages]],
            tools=tools or None,
            chat_template=self._template(tools or None),
            add_generation_prompt=add_generation_prompt,
            **{**self.tokenizer.special_tokens_map, "enable_thinking": enable_thinking},
        )

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        enable_thinking: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """The prompt's token ids; the arguments and errors are those of `render`."""
        text = self.render(
            messages,
            enable_thinking=enable_thinking,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
        )
        # The template writes every special token itself.
        return self.tokenizer.encode(text, add_special_tokens=False)

    def opened(self, prompt: Sequence[int]) -> Reasoning | None:
        """The tags that a prompt of `encode` opens at its end; the answer to it then begins inside them."""
        return opened_by(self.tokenizer.decode(list(prompt[-_LAST_TOKENS:])))

    def reasoning(self, *, enable_thinking: bool) -> Reasoning | None:
        """The tags that the template opens at the end of a prompt; None where the model does not reason first.

        The template decides: EXAONE Deep's opens them in every prompt, and EXAONE 3.5's in none.

        Raises:
            ChatTemplateError: As `render`.
        """
        if enable_thinking not in self._reasoning:
            self._reasoning[enable_thinking] = opened_by(self.render(_ASKED, enable_thinking=enable_thinking))
        return self._reasoning[enable_thinking]

    @cached_property
    def call_form(self) -> CallForm:
        """How the template writes tool calls.

        Raises:
            ChatTemplateError: As `read_call_form`; the template is asked again the next time.
            ProcessStartError: As `render`.
        """
        return read_call_form(self.render)

    def decode(
        self, tokens: Any, *, enable_thinking: bool = False, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> Answer:
        """Parse the tokens of one answer, without the prompt.

        Args:
            tokens: ``[S]`` token ids.
            enable_thinking: As the prompt was encoded.
            tools: As the prompt was encoded; of arguments that may be read as a text or as JSON, they say which.

        Raises:
            ChatTemplateError: As `render`.
        """
        reasoning = self.reasoning(enable_thinking=enable_thinking)
        return parse_answer(AnswerDecoder(self.tokenizer).decode(tokens), reasoning=reasoning, tools=tools)

    def _template(self, tools: Any) -> str:
        found = self.tokenizer.chat_template
        named = found if isinstance(found, Mapping) else {"default": found}
        name = self._name
        if name is None:
            name = "tool_use" if tools is not None and "tool_use" in named else "default"
        if name not in named:
            raise ArtifactError(
                f"the tokenizer has no chat template with the name {name!r:.40}, and has {', '.join(sorted(named))}; "
                f"name one of them with ChatFormat(tokenizer, template=…)."
            )
        template: str = named[name]
        return template
