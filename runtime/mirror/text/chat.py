"""Chat prompts as tensors, and answers of ``generate()`` as a stream of text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer
from transformers.utils import get_json_schema

from ...text import chat
from ...text.answer import Answer
from ...text.chat import AnswerDecoder

__all__ = ["ChatFormat", "stream", "tokenizer_option"]


class ChatFormat:
    """A checkpoint's chat template: renders messages for ``generate(**prompt)``, and parses the answer's tokens.

    Args:
        tokenizer: Has the template.
        template: The name of the template, where the tokenizer has several (default: ``tool_use`` for a prompt with
            tools if there is one, else ``default``).

    Raises:
        ArtifactError: It has none, or several and none of them has the name.
    """

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        self.tokenizer, self._format = tokenizer, chat.ChatFormat(tokenizer, template)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        enable_thinking: bool = False,
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt's text, down to where the model's turn begins, or to the end of the last message.

        Args:
            messages: The conversation.
            enable_thinking: Let the model reason first.
            tools: JSON schemas, or functions with type hints and a docstring that transformers makes schemas of.
            add_generation_prompt: End where the model's turn begins.

        Raises:
            ChatTemplateError: The template refuses the messages, or takes more time or memory than it may.
        """
        return self._format.render(
            messages,
            enable_thinking=enable_thinking,
            tools=_schemas(tools),
            add_generation_prompt=add_generation_prompt,
        )

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        enable_thinking: bool = False,
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> dict[str, torch.Tensor]:
        """The prompt as ``input_ids`` and ``attention_mask``, int64, each ``[1, S]``; otherwise as `render`."""
        tokens = self._format.encode(
            messages,
            enable_thinking=enable_thinking,
            tools=_schemas(tools),
            add_generation_prompt=add_generation_prompt,
        )
        ids = torch.tensor([tokens], dtype=torch.int64)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def decode(
        self,
        tokens: Any,
        *,
        enable_thinking: bool = False,
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
    ) -> Answer:
        """Parse the tokens of one answer, without the prompt, which was encoded with these options."""
        return self._format.decode(tokens, enable_thinking=enable_thinking, tools=_schemas(tools))


def _schemas(tools: Sequence[Any] | None) -> list[Any] | None:
    return [get_json_schema(tool) if callable(tool) else tool for tool in tools] if tools else None


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
