"""Text to tokens and back: the chat template, a stream of text, and what an answer is made of.

The form of an answer is EXAONE 4's: reasoning stands in ``<think>…</think>``, a call of a tool in
``<tool_call>{"name": …, "arguments": …}</tool_call>``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Exaone4Config, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer
from transformers.utils import get_json_schema

from exaone_export import hf_config, sidecar_files, strict_json
from exaone_export.errors import ArtifactError, ChatTemplateError, ConfigError
from exaone_export.runtime import chat_templates

THINK, END_THINK = "<think>", "</think>"
CALL, END_CALL = "<tool_call>", "</tool_call>"


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of an artifact or a checkpoint, padding on the left; nothing is downloaded and no code is run.

    Raises:
        ArtifactError: The folder holds none that can be read, or one that asks for code or for a file of another place.
        ConfigError: Its ``config.json`` is of no model that is exported.
    """
    if not Path(folder).is_dir():  # transformers would take the name for a repository's
        raise ArtifactError(f"{folder} is not a folder; give the folder that an export has written.")
    for name in sidecar_files.names_read(Path(folder)):
        sidecar_files.check_content(Path(folder, name), ArtifactError)
    config = _config(Path(folder))
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)
    except BaseException as error:
        # What the libraries raise on a damaged file is of any kind, and a panic of tokenizers is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ArtifactError(
            f"{folder} holds no tokenizer that can be read; copy tokenizer.json and tokenizer_config.json of the "
            f"checkpoint into it, or export the model again."
        ) from error
    tokenizer.padding_side = "left"
    return tokenizer


def _config(folder: Path) -> Exaone4Config | None:
    """The config as this package reads it: transformers does not read every spelling, and asks for kernels."""
    path = folder / "config.json"
    if not path.exists():
        return None
    content = strict_json.read_object(path, max_bytes=hf_config.MAX_CONFIG_BYTES, error=ConfigError)
    return Exaone4Config(**hf_config.read(content).to_config(), tokenizer_class=content.get("tokenizer_class"))


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for.

    Attributes:
        name: Of the tool.
        arguments: By name.
    """

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """One turn of the model, taken apart.

    Attributes:
        content: What is said to the user, calls left out. A call that cannot be read stays here as it was written.
        thinking: The reasoning, or None where there was none.
        tool_calls: The calls, in order.
    """

    content: str
    thinking: str | None = None
    tool_calls: Sequence[ToolCall] = field(default=())

    def to_message(self) -> dict[str, Any]:
        """The turn as a message for the next prompt, without the reasoning, which the template would leave out."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
                for call in self.tool_calls
            ]
        return message


class ChatFormat:
    """A checkpoint's chat template, applied and read back.

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
            raise ChatTemplateError("there is no message; give at least one.")
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
        """Take apart the tokens of one answer, the prompt left out."""
        return parse_answer(self.tokenizer.decode(tokens, skip_special_tokens=True), enable_thinking=enable_thinking)


def parse_answer(text: str, *, enable_thinking: bool = False) -> Answer:
    """Take an answer apart; one that was cut off or is malformed loses nothing.

    Args:
        text: The answer, without special tokens.
        enable_thinking: Whether the prompt ended in an open ``<think>``, so that the answer begins inside it.
    """
    body, thinking = text, None
    if body.lstrip().startswith(THINK):
        body, enable_thinking = body.lstrip().removeprefix(THINK), True
    if enable_thinking:
        thought, _, body = body.partition(END_THINK)
        thinking = thought.strip()
    content, calls = _take_calls(body)
    return Answer(content.strip(), thinking, calls)


def stream(model: Any, tokenizer: Any, prompt: Mapping[str, torch.Tensor], **options: Any) -> Iterator[str]:
    """Generate one answer, and give its text as it grows.

    Closing the iterator stops the generation after the token that is being computed.

    Args:
        model: An `exaone_export.runtime.generation.ExaoneForCausalLM`.
        tokenizer: As `load_tokenizer` gives it.
        prompt: As `ChatFormat.encode` gives it, one row.
        options: Of ``generate()``.

    Yields:
        Text, special tokens left out, cut behind whole words.

    Raises:
        ExaoneExportError: As ``generate()`` does.
    """
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    left, failure = _Left(), []
    criteria = StoppingCriteriaList([*options.pop("stopping_criteria", ()), left])

    def run() -> None:
        try:
            model.generate(**prompt, streamer=streamer, stopping_criteria=criteria, **options)
        except BaseException as error:  # noqa: BLE001 - handed to the one who waits
            failure.append(error)
            streamer.end()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield from (piece for piece in streamer if piece)
    finally:
        left.event.set()
        thread.join()
    if failure:
        raise failure[0]


class _Left(StoppingCriteria):
    """Stops when nobody listens any more."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set())


def _take_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Split ``text`` into what is said and the calls that can be read."""
    said, calls, position = [], [], 0
    while (start := text.find(CALL, position)) >= 0:
        call, end = _read_call(text, start + len(CALL))
        if call is None:
            said.append(text[position:end])
        else:
            said.append(text[position:start])
            calls.append(call)
        position = end
    said.append(text[position:])
    return "".join(said), tuple(calls)


def _read_call(text: str, start: int) -> tuple[ToolCall | None, int]:
    """The call that stands at ``start``, and where the text goes on; None leaves the opening tag in the text.

    The decoder finds the end of the JSON by itself, because an argument may hold the closing tag.
    """
    try:
        value, end = _DECODER.raw_decode(text, _skip_space(text, start))
        name, arguments = value["name"], value.get("arguments", {})
        if isinstance(arguments, str):
            arguments = _DECODER.decode(arguments)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None, start
    end = _skip_space(text, end)
    if not isinstance(name, str) or not isinstance(arguments, dict) or not text.startswith(END_CALL, end):
        return None, start
    return ToolCall(name, arguments), end + len(END_CALL)


def _skip_space(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _reject(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_reject)
