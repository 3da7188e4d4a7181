"""``exaone-export chat``."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import UnsupportedOptionError
from exaone_export.files.unicode_text import check_unicode
from exaone_export.terminal_text import one_line

from .. import options as shared
from ..asked import NO_REASONING
from ..numbers import Count
from ..paths import ARTIFACT, WRITTEN_FILE, PathArgument
from ..sampling import check_temperature

if TYPE_CHECKING:
    from exaone_export.runtime.runner.lookup import Lookup

_log = logging.getLogger(__name__)


@click.command("chat")
@click.argument("artifact", type=ARTIFACT)
@shared.prompt_options
@shared.option(
    "--tools",
    type=PathArgument(exists=True, dir_okay=False),
    metavar="FILE",
    help="Python file with functions that the model may call, or JSON file with a list of tool schemas.",
)
@shared.option("--max-new-tokens", type=Count(min=1), help="Maximum tokens of an answer (default: what fits).")
@shared.sampling_options
@shared.seed("sampling", None)
@shared.option(
    "--prompt-cache",
    type=WRITTEN_FILE,
    metavar="FILE",
    help="Go on from the prompt that FILE keeps; if there is none, keep the first prompt of this conversation in it.",
)
@shared.option("--no-history", is_flag=True, help="Do not keep what is typed for the next conversation.")
@shared.lookup
@shared.threads
@shared.graph_options
@shared.trusted_key
@shared.option("--json", "as_json", is_flag=True, help="Read lines, and print a JSON object for each message.")
def command(
    artifact: str,
    system: str | None,
    thinking: bool,
    mode: str | None,
    tools: Path | None,
    max_new_tokens: int | None,
    prompt_cache: Path | None,
    prompt_lookup: Lookup,
    no_history: bool,
    threads: int | None,
    trusted_key: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Talk with ARTIFACT in the terminal; if stdin or stdout is redirected, each line of stdin is a message.

    /help lists the commands of the conversation. Alt+Enter or a backslash at the end begins a new line, Ctrl-C ends an
    answer, Ctrl-D leaves.

    Example: exaone-export chat out --thinking
    """
    graphs = shared.take_graph_choice(options)
    chosen = {name: value for name, value in options.items() if value is not None}
    check_temperature(chosen)
    if system is not None:
        check_unicode(system, "the system message", UnsupportedOptionError)
    opened = Artifact.open(artifact, trusted_key=trusted_key, weights_later=True)

    from exaone_export.runtime.runner.eligible import check_runs_here
    from exaone_export.runtime.runner.lookup import default_lookup
    from exaone_export.runtime.runner.runner import Runner
    from exaone_export.runtime.text.chat import ChatFormat

    from .conversation import Conversation, Settings, sampling_of
    from .loading import Loading
    from .shown import Screen
    from .tools import read_tools

    check_runs_here(opened)
    functions = read_tools(tools)

    is_kept = prompt_cache is not None and prompt_cache.exists()
    settings = Settings(system, thinking, mode, functions, max_new_tokens, chosen, None if is_kept else prompt_cache)

    def load() -> Runner:
        runner = Runner.from_artifact(opened, threads=threads, graphs=graphs)
        runner.defaults.warn(overridden=chosen)
        chat = ChatFormat(runner.tokenizer)
        sampling_of(runner, chat, settings)
        if thinking and chat.reasoning(enable_thinking=True) is None:
            _log.warning("%s", NO_REASONING)
        runner.prompt_lookup = default_lookup(runner.defaults) if prompt_lookup is None else prompt_lookup
        if prompt_cache is not None and is_kept:
            runner.load_prompt(prompt_cache)
        return runner

    conversation: Conversation
    loading = Loading(load)
    start = partial(Conversation, one_line(Path(artifact).name or artifact), loading, settings)
    if not as_json and _is_terminal(sys.stdin) and _is_terminal(sys.stdout):
        from . import terminal

        screen = Screen(sys.stdout, is_terminal=True, folded=False)
        conversation = start(screen, lambda call: terminal.ask(conversation, call))
        terminal.converse(conversation, keeps_history=not no_history)
        return

    from . import plain

    lines = plain.Lines(None if sys.stdin is None else sys.stdin.buffer)
    screen = Screen(sys.stderr, is_terminal=False, folded=True, says=not as_json)
    conversation = start(screen, lambda call: plain.ask(conversation, lines, call))
    if not plain.converse(conversation, lines, as_json=as_json):
        raise click.exceptions.Exit(1)


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()
