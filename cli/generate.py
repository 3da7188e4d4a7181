"""``exaone-export generate``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError, PromptError, UnsupportedOptionError
from exaone_export.extras import needs_export
from exaone_export.files.unicode_text import check_unicode, decode_utf8
from exaone_export.planning.sizes import format_size
from exaone_export.runtime.text import chat_templates

from . import options as shared
from .asked import ANSWER_TOKENS, REASONING_TOKENS, Asked
from .numbers import SEED, Count
from .paths import ARTIFACT, PathArgument
from .sampling import check_temperature, flag
from .tool_schemas import read_tool_schemas
from .written import predict_command

if TYPE_CHECKING:
    from exaone_export.runtime.runner.defaults import Defaults

_PENALTIES = {"presence_penalty", "frequency_penalty"}
_MOST_PROMPT_BYTES = 4 << 20


@click.command("generate")
@click.argument("artifact", type=ARTIFACT)
@shared.option("-p", "--prompt", required=True, metavar="TEXT", help="The user's message, or - to read it from stdin.")
@shared.prompt_options
@shared.option(
    "--tools",
    type=PathArgument(exists=True, dir_okay=False),
    metavar="FILE",
    help="JSON file with a list of tool schemas.",
)
@shared.option("--raw", is_flag=True, help="Use the prompt as it is, without the chat template.")
@shared.option(
    "--max-new-tokens",
    type=Count(min=1),
    help=f"Maximum tokens to generate (default: {ANSWER_TOKENS}, {REASONING_TOKENS} with reasoning, or what the cache "
    "holds).",
)
@shared.option(
    "--stop",
    multiple=True,
    metavar="TEXT",
    help=f"Text that ends the answer; may be repeated {shared.CONFIGURED}.",
)
@shared.sampling_options
@shared.option("--num-beams", type=Count(1, 64), help=f"Beams of beam search; 1 is none {shared.CONFIGURED}.")
@shared.option(
    "--prompt-lookup",
    type=Count(min=1),
    help="Guess up to this many tokens from the prompt: the same answer, often sooner (default: off).",
)
@shared.option("--seed", type=SEED, help="Seed of sampling (default: a fresh one, which is printed).")
@shared.threads
@shared.graph_options
@shared.trusted_key
@shared.json_option("answer, its parts and times")
def command(
    artifact: str,
    prompt: str,
    system: str | None,
    thinking: bool,
    tools: Path | None,
    raw: bool,
    max_new_tokens: int | None,
    mode: str | None,
    seed: int | None,
    threads: int | None,
    trusted_key: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Generate text with ARTIFACT, and print the answer as it is generated.

    Example: exaone-export generate out -p "What is 27 + 45?"
    """
    if raw and (system is not None or thinking or tools is not None):
        raise click.UsageError("--raw uses the prompt as it is; leave out --system, --thinking and --tools")
    graphs = shared.take_graph_choice(options)
    settings = _settings(options)
    said = _read_stdin() if prompt == "-" else prompt
    check_unicode(said, "the prompt", PromptError)
    schemas = None if tools is None else read_tool_schemas(tools)
    if not raw:
        chat_templates.shared().start()  # it starts while the artifact is checked
    opened = Artifact.open(artifact, trusted_key=trusted_key, weights_later=True)
    head = opened.spec.head
    if not head.is_causal_lm:
        raise ArtifactError(
            f"{artifact} holds an {opened.spec.architecture}, which generates no text; run: "
            f"{predict_command(artifact, head, 'TEXT')}."
        )

    from exaone_export.runtime.runner.defaults import read_defaults

    from .prepared import prepare

    with opened.unchanged():
        defaults = read_defaults(opened)
    beyond = _beyond_the_runner(settings, defaults)
    _refuse_together(settings, defaults, beyond)
    asked = Asked(said, system, thinking, raw, schemas, max_new_tokens, mode, settings, seed, threads, graphs, as_json)
    prepared = prepare(opened, defaults, asked)
    if beyond is None:
        from .answer import print_answer
    else:
        with needs_export(beyond):
            from .answer_by_mirror import print_answer
    return print_answer(opened, asked, prepared)


def _beyond_the_runner(settings: Mapping[str, Any], defaults: Defaults) -> str | None:
    """What is left to transformers' own loop, in words; None where the runner honours every setting."""
    if settings.get("num_beams", 1) > 1:
        return "--num-beams"
    left = defaults.beyond_the_runner.keys() - settings.keys()
    return f"{min(left)} of generation_config.json" if left else None


def _refuse_together(settings: Mapping[str, Any], defaults: Defaults, beyond: str | None) -> None:
    beams = defaults.values.get("num_beams", 1)
    if "prompt_lookup_num_tokens" in settings and settings.get("num_beams", beams) > 1:
        raise UnsupportedOptionError(
            f"generation_config.json of the artifact gives num_beams={beams}, and prompt lookup continues one row; "
            f"pass --num-beams 1 too, or leave --prompt-lookup out."
        )
    for name in _PENALTIES & settings.keys() if beyond is not None else ():
        raise UnsupportedOptionError(f"{flag(name)} is not supported with {beyond}; leave it out.")


def _read_stdin() -> str:
    data = sys.stdin.buffer.read(_MOST_PROMPT_BYTES + 1)
    if len(data) > _MOST_PROMPT_BYTES:
        raise PromptError(f"the prompt on stdin is longer than {format_size(_MOST_PROMPT_BYTES)}; shorten it.")
    return decode_utf8(data, "the prompt on stdin", PromptError)


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, by their names in ``generate()``."""
    names = {"prompt_lookup": "prompt_lookup_num_tokens", "stop": "stop_strings"}
    settings = {names.get(name, name): value for name, value in options.items() if value not in (None, ())}
    for text in settings.get("stop_strings", ()):
        check_unicode(text, "--stop", PromptError)
        if not text:
            raise click.UsageError("--stop is empty; give at least one character, or leave it out")
    for name in _PENALTIES & settings.keys():
        if settings[name] == 0:
            del settings[name]
    check_temperature(settings)
    if "prompt_lookup_num_tokens" in settings and settings.get("num_beams", 1) > 1:
        raise click.UsageError("--prompt-lookup continues one row; leave out --num-beams")
    return settings
