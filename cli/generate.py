"""``exaone-export generate``."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError, ConfigError, PromptError
from exaone_export.files import strict_json
from exaone_export.files.unicode_text import check_unicode, decode_utf8
from exaone_export.planning.sizes import format_size

from . import options as shared
from .numbers import Count, Real
from .output import say
from .paths import PATH, PathArgument
from .written import predict_command

_ANSWER_TOKENS = 256
_CONFIGURED = "(default: generation_config.json's)"
_LEAST_TEMPERATURE = 1e-4  # Logits are divided by it, and must stay finite.
_MOST_TOOLS_BYTES = _MOST_PROMPT_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class _Message:
    """The prompt, and the options of the chat template."""

    prompt: str
    system: str | None
    thinking: bool
    tools: Path | None
    raw: bool


@click.command("generate")
@click.argument("artifact", type=PATH)
@shared.option("-p", "--prompt", required=True, metavar="TEXT", help="The user's message, or - to read it from stdin.")
@shared.option("--system", metavar="TEXT", help="System message (default: none).")
@shared.option("--thinking", is_flag=True, help="Let the model reason before it answers.")
@shared.option(
    "--tools",
    type=PathArgument(exists=True, dir_okay=False),
    metavar="FILE",
    help="JSON file with a list of tool schemas.",
)
@shared.option("--raw", is_flag=True, help="Use the prompt as it is, without the chat template.")
@shared.option(
    "--max-new-tokens", type=Count(min=1), help="Maximum tokens to generate (default: 256, or what the cache holds)."
)
@shared.option("--temperature", type=Real(0, 1000), help="Sampling temperature; 0 is greedy (default: 0).")
@shared.option(
    "--top-p",
    type=Real(0, 1, min_open=True),
    help=f"Sample from the smallest set of tokens with this probability {_CONFIGURED}.",
)
@shared.option("--top-k", type=Count(min=1), help=f"Sample from this many most likely tokens {_CONFIGURED}.")
@shared.option(
    "--min-p", type=Real(0, 1), help=f"Sample tokens with this share of the largest probability {_CONFIGURED}."
)
@shared.option(
    "--repetition-penalty", type=Real(0.01, 100), help=f"Penalty on repeated tokens; 1 is none {_CONFIGURED}."
)
@shared.option("--num-beams", type=Count(1, 64), help=f"Beams of beam search; 1 is none {_CONFIGURED}.")
@shared.option(
    "--prompt-lookup",
    type=Count(min=1),
    help="Guess up to this many tokens from the prompt: the same answer, often sooner (default: off).",
)
@shared.seed("sampling", None)
@shared.threads
@shared.trusted_key
@shared.json_option("answer, its parts and times")
def command(
    artifact: Path,
    max_new_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    threads: int | None,
    trusted_key: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Generate text with ARTIFACT, and print the answer as it is generated.

    Example: exaone-export generate out -p "What is 27 + 45?"
    """
    message = _Message(**{field.name: options.pop(field.name) for field in dataclasses.fields(_Message)})
    if message.raw and (message.system is not None or message.thinking or message.tools is not None):
        raise click.UsageError("--raw uses the prompt as it is; leave out --system, --thinking and --tools")
    chosen = _settings(temperature, options)
    said = _read_stdin() if message.prompt == "-" else message.prompt
    check_unicode(said, "the prompt", PromptError)
    schemas = _read_tools(message.tools) if message.tools is not None else None
    opened = Artifact.open(artifact, trusted_key=trusted_key)
    head = opened.spec.head
    if not head.is_causal_lm:
        raise ArtifactError(
            f"{artifact} holds an {head.architecture}, which generates no text; run: "
            f"{predict_command(artifact, head, 'TEXT')}."
        )

    import torch

    from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
    from exaone_export.runtime.mirror.generation_defaults import fit_to_one_answer
    from exaone_export.runtime.mirror.text import chat
    from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
    from exaone_export.runtime.text.answer import parse_answer
    from exaone_export.runtime.text.chat import AnswerDecoder
    from exaone_export.runtime.text.tokenizer import check_vocabulary

    with ExaoneForCausalLM.from_artifact(opened, threads=threads) as model:
        with opened.unchanged():
            tokenizer = load_tokenizer(artifact)
        encoded = _encode(tokenizer, said, message, schemas)
        check_vocabulary(tokenizer, encoded["input_ids"], model.session.vocab_size)
        room = max(model.max_length - encoded["input_ids"].shape[1], 1)
        settings = {"max_new_tokens": max_new_tokens or min(_ANSWER_TOKENS, room), **chosen}
        fit_to_one_answer(model.generation_config, settings, tokenizer)
        if seed is not None:
            torch.manual_seed(seed)
        start = time.perf_counter()
        if as_json or settings.get("num_beams", model.generation_config.num_beams or 1) > 1:
            output = model.generate(**encoded, **settings, **chat.tokenizer_option(model, tokenizer, settings))
            tokens = output[0, encoded["input_ids"].shape[1] :]
            seconds = time.perf_counter() - start
            said = AnswerDecoder(tokenizer).decode(tokens)
            answer = parse_answer(said, enable_thinking=message.thinking)
            say(_as_json(encoded, tokens, answer, seconds) if as_json else said)
        else:
            for piece in chat.stream(model, tokenizer, encoded, **settings):
                say(piece, nl=False)
            say("")


def _read_stdin() -> str:
    data = sys.stdin.buffer.read(_MOST_PROMPT_BYTES + 1)
    if len(data) > _MOST_PROMPT_BYTES:
        raise PromptError(f"the prompt on stdin is longer than {format_size(_MOST_PROMPT_BYTES)}; shorten it.")
    return decode_utf8(data, "the prompt on stdin", PromptError)


def _encode(tokenizer: Any, prompt: str, message: _Message, tools: list[Any] | None) -> Mapping[str, Any]:
    from exaone_export.runtime.mirror.text.chat import ChatFormat

    if message.raw:
        return dict(tokenizer(prompt, return_tensors="pt", return_token_type_ids=False))
    messages = [{"role": "user", "content": prompt}]
    if message.system is not None:
        messages.insert(0, {"role": "system", "content": message.system})
    return ChatFormat(tokenizer).encode(messages, enable_thinking=message.thinking, tools=tools)


def _settings(temperature: float | None, options: dict[str, Any]) -> dict[str, Any]:
    names = {"num_beams": "num_beams", "prompt_lookup": "prompt_lookup_num_tokens"}
    settings = {names.get(name, name): value for name, value in options.items() if value is not None}
    sampled = {"temperature", "top_p", "top_k", "min_p"} & set(settings)
    if temperature and temperature < _LEAST_TEMPERATURE:
        raise click.UsageError(f"--temperature {temperature:g} is too small to sample with; leave it out for greedy")
    if not temperature and sampled:
        raise click.UsageError(f"--{sorted(sampled)[0].replace('_', '-')} is for sampling; pass --temperature too")
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    return {**sampling, **settings}


def _read_tools(path: Path) -> list[Any]:
    data = strict_json.read_bytes(path, max_bytes=_MOST_TOOLS_BYTES, error=ConfigError)
    try:
        tools = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(
            f"{path} is not JSON in UTF-8: {error}; correct the file", param_hint="--tools"
        ) from error
    if not isinstance(tools, list):
        raise click.BadParameter(
            f"{path} does not hold a list of tool schemas; write them as [{{…}}, …]", param_hint="--tools"
        )
    return tools


def _as_json(encoded: Mapping[str, Any], tokens: Any, answer: Any, seconds: float) -> str:
    parts = {
        "content": answer.content,
        "thinking": answer.thinking,
        "tool_calls": [dataclasses.asdict(call) for call in answer.tool_calls],
        "prompt_tokens": encoded["input_ids"].shape[1],
        "tokens": tokens.tolist(),
        "seconds": round(seconds, 3),
    }
    return json.dumps(parts, indent=2, ensure_ascii=False)
