"""``exaone-export generate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError, ConfigError, PromptError
from exaone_export.extras import needs_export
from exaone_export.files import strict_json
from exaone_export.files.unicode_text import check_unicode, decode_utf8
from exaone_export.planning.sizes import format_size
from exaone_export.runtime.text import chat_templates

from . import options as shared
from .asked import Asked
from .numbers import Count, Real
from .paths import PATH, PathArgument
from .written import predict_command

_CONFIGURED = "(default: generation_config.json's)"
_LEAST_TEMPERATURE = 1e-4  # Logits are divided by it, and must stay finite.
_MOST_TOOLS_BYTES = _MOST_PROMPT_BYTES = 4 << 20


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
    prompt: str,
    system: str | None,
    thinking: bool,
    tools: Path | None,
    raw: bool,
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
    if raw and (system is not None or thinking or tools is not None):
        raise click.UsageError("--raw uses the prompt as it is; leave out --system, --thinking and --tools")
    chosen = _settings(temperature, options)
    said = _read_stdin() if prompt == "-" else prompt
    check_unicode(said, "the prompt", PromptError)
    schemas = None if tools is None else _read_tools(tools)
    if not raw:
        chat_templates.shared().start()  # it starts while the artifact is checked
    opened = Artifact.open(artifact, trusted_key=trusted_key)
    head = opened.spec.head
    if not head.is_causal_lm:
        raise ArtifactError(
            f"{artifact} holds an {head.architecture}, which generates no text; run: "
            f"{predict_command(artifact, head, 'TEXT')}."
        )

    asked = Asked(said, system, thinking, raw, schemas, max_new_tokens, chosen, seed, threads, as_json)
    beyond = _beyond_the_runner(opened, chosen)
    if beyond is None:
        from .answer import print_answer
    else:
        with needs_export(beyond):
            from .answer_by_mirror import print_answer
    print_answer(opened, asked)


def _beyond_the_runner(artifact: Artifact, chosen: Mapping[str, Any]) -> str | None:
    """What is left to transformers' own loop, in words; None where the runner honours every setting."""
    from exaone_export.runtime.runner.defaults import read_defaults
    from exaone_export.runtime.runner.runner import runs_here

    if not runs_here(artifact):
        return f"the target {artifact.manifest.target}"
    if chosen.get("num_beams", 1) > 1:
        return "--num-beams"
    if "prompt_lookup_num_tokens" in chosen:
        return "--prompt-lookup"
    with artifact.unchanged():
        left = read_defaults(artifact).beyond_the_runner.keys() - chosen.keys()
    return f"{min(left)} of generation_config.json" if left else None


def _read_stdin() -> str:
    data = sys.stdin.buffer.read(_MOST_PROMPT_BYTES + 1)
    if len(data) > _MOST_PROMPT_BYTES:
        raise PromptError(f"the prompt on stdin is longer than {format_size(_MOST_PROMPT_BYTES)}; shorten it.")
    return decode_utf8(data, "the prompt on stdin", PromptError)


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
