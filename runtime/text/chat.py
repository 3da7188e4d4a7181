"""Text to tokens and back: the chat template, the text of an answer, and a stream of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer
from transformers.utils import get_json_schema

from exaone_export.errors import ArtifactError, ChatTemplateError

from . import chat_templates
from .answer import TAGS, Answer, ToolCall, parse_answer
from .tokenizer import load_tokenizer

__all__ = [
    "Answer",
    "AnswerDecoder",
    "ChatFormat",
    "ToolCall",
    "load_tokenizer",
    "parse_answer",
    "stream",
    "tokenizer_option",
]


class AnswerDecoder:
    """Decodes the tokens of an answer; special tokens are left out, except the tags that `parse_answer` reads.

    Some checkpoints call ``<think>`` and ``<tool_call>`` special tokens, and some do not.

    Args:
        tokenizer: As `load_tokenizer` gives it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._left_out = {
            index
            for index, token in tokenizer.added_tokens_decoder.items()
            if token.special and token.content not in TAGS
        }

    def decode(self, tokens: Any, **_options: Any) -> str:
        """The text of one answer; a streamer of transformers calls this too.

        Args:
            tokens: ``[S]`` token ids, or one.
        """
        ids = torch.as_tensor(tokens).flatten().tolist()
        text: str = self._tokenizer.decode([token for token in ids if token not in self._left_out])
        return text


class ChatFormat:
    """A checkpoint's chat template: renders messages, and parses the answer's tokens.

    Args:
        tokenizer: Has the template.

    Raises:
        ArtifactError: It has none.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise ArtifactError(
                "the tokenizer has no chat template; copy chat_template.jinja of the checkpoint into the folder, or "
                "pass plain prompts."
            )
        self.tokenizer = tokenizer
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
        """
        if not messages:
            raise ChatTemplateError("there are no messages; pass at least one.")
        # As transformers' apply_chat_template does it, but in a process that has limits.
        schemas = [get_json_schema(tool) if callable(tool) else tool for tool in tools] if tools else None
        return chat_templates.shared().render(
            conversations=[[{key: value for key, value in m.items() if value is not None} for m in messages]],
            tools=schemas,
            chat_template=self.tokenizer.get_chat_template(None, schemas),
            add_generation_prompt=add_generation_prompt,
            **self.tokenizer.special_tokens_map | {"enable_thinking": enable_thinking},
        )

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        enable_thinking: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> dict[str, torch.Tensor]:
        """The prompt as ``input_ids`` and ``attention_mask``, each ``[1, S]``, for ``generate(**prompt)``."""
        text = self.render(
            messages,
            enable_thinking=enable_thinking,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
        )
        # The template writes every special token itself.
        encoded = self.tokenizer(text, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)
        return dict(encoded)

    def decode(self, tokens: Any, *, enable_thinking: bool = False) -> Answer:
        """Parse the tokens of one answer, without the prompt."""
        return parse_answer(AnswerDecoder(self.tokenizer).decode(tokens), enable_thinking=enable_thinking)


def stream(model: Any, tokenizer: Any, prompt: Mapping[str, torch.Tensor], **options: Any) -> Iterator[str]:
    """Generate one answer, and yield its text as it grows.

    Closing the iterator, or Ctrl-C while it waits, stops the generation: a prompt ends between two of its steps and, on
    ONNX Runtime's CPU, inside one.

    Args:
        model: An `exaone_export.runtime.mirror.causal_lm.ExaoneForCausalLM`.
        tokenizer: As `load_tokenizer` gives it.
        prompt: As `ChatFormat.encode` gives it, one row.
        options: Of ``generate()``.

    Yields:
        The text that `AnswerDecoder` gives of the whole answer, in pieces.

    Raises:
        ExaoneExportError: As ``generate()`` does.
    """
    streamer = TextIteratorStreamer(AnswerDecoder(tokenizer), skip_prompt=True)  # only decode() is called
    options |= tokenizer_option(model, tokenizer, options)
    cache = options.get("past_key_values", options.get("cache"))
    if cache is None and options.get("use_cache") is not False:
        cache = options["past_key_values"] = model.new_cache()
    left, failure = _Left(), []
    criteria = StoppingCriteriaList([*options.pop("stopping_criteria", ()), left])

    def run() -> None:
        try:
            model.generate(**prompt, streamer=streamer, stopping_criteria=criteria, **options)
        except BaseException as error:  # noqa: BLE001 - raised by the caller's thread
            failure.append(error)
            streamer.end()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield from (piece for piece in streamer if piece)
    except BaseException:
        left.event.set()
        if cache is not None:
            cache.cancel()
        thread.join()
        if cache is not None:
            cache.cancellation.clear()  # the cancelled call has ended
        raise
    thread.join()
    if failure:
        raise failure[0]


def tokenizer_option(model: Any, tokenizer: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword ``tokenizer`` of ``generate()``, where a setting of the call or of the artifact needs it."""
    defaults = getattr(model, "generation_config", None)
    needed = (options.get(name) or getattr(defaults, name, None) for name in ("stop_strings", "token_healing"))
    return {"tokenizer": tokenizer} if any(needed) else {}


class _Left(StoppingCriteria):
    """Stops once the iterator is closed."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set())
