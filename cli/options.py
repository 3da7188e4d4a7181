"""Options that commands share, each written once; what a command does not name itself, it takes as ``**options``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from exaone_export.model.heads import ARCHITECTURES
from exaone_export.planning.prefill import PREFILL_THRESHOLD
from exaone_export.runtime.runner.presets import MODES
from exaone_export.targets.precision import PRECISIONS
from exaone_export.targets.target import CACHE_PRECISIONS, PREFILL_PRECISIONS, TARGETS

from .numbers import LOOKUP, SEED, THREADS, Count, Real
from .paths import IMAGE, PATH, WRITTEN_FILE
from .tables import FORMATS

if TYPE_CHECKING:
    from exaone_export.runtime.sessions.prefill.choice import GraphChoice

_Command = TypeVar("_Command", bound=Callable[..., Any])

__all__ = [
    "CONFIGURED",
    "batch_graph",
    "dry_run",
    "export_options",
    "format_option",
    "graph_options",
    "head",
    "image_option",
    "json_option",
    "lookup",
    "no_plan_check",
    "option",
    "overwrite",
    "prompt_options",
    "read_signing_key",
    "report_option",
    "revision",
    "sampling_options",
    "seed",
    "sign",
    "take_graph_choice",
    "target_options",
    "threads",
    "trusted_key",
]

CONFIGURED = "(default: generation_config.json's)"


def option(*names: str, help: str, default: Any = None, **more: Any) -> Callable[[_Command], _Command]:
    """As `click.option`; a default is told at the end of the help, as ``(default: …)``, and nowhere else."""
    if default is not None:
        told = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        help = f"{help.rstrip('.')} (default: {told})."
        more["default"] = default
    return click.option(*names, help=help, **more)


def _all(*options: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    """One decorator of several, listed in the help in this order."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


revision = option("--revision", metavar="NAME", help="Branch, tag or commit, if MODEL is a hub id (default: main).")

head = option(
    "--head",
    type=click.Choice(list(ARCHITECTURES)),
    help="Head of the model, where config.json names none; hidden-states for any checkpoint (default: its own).",
)

target_options = _all(
    option("--target", type=click.Choice(list(TARGETS)), default="ort-cpu", help="Runtime to export for."),
    option(
        "--precision",
        metavar="NAME",
        help=f"One of {', '.join(PRECISIONS)} (default: the target's first supported precision).",
    ),
    option(
        "--compute-type",
        metavar="NAME",
        help="Floating-point type that a quantized precision computes in (default: the target's first).",
    ),
    option(
        "--cache-precision",
        type=click.Choice(CACHE_PRECISIONS),
        help="KV cache precision (default: the compute type).",
    ),
    option(
        "--max-length",
        type=Count(min=2),
        help="Maximum tokens per sequence, prompt and answer together (default: the model's limit).",
    ),
    option(
        "--prefill-chunk",
        type=Count(min=1),
        help="Maximum tokens per prefill step, for targets whose cache is sized for it (default: the target's).",
    ),
    option(
        "--prefill-precision",
        type=click.Choice(PREFILL_PRECISIONS),
        help="Also write a graph of this precision that reads prompts, for the target ort-cpu: faster prompts for more "
        "memory (default: none).",
    ),
    option(
        "--prefill-threshold",
        type=Count(min=2),
        help=f"Tokens of a step from which on the graph for prompts runs it (default: {PREFILL_THRESHOLD}).",
    ),
    head,
    option("--hidden-states", is_flag=True, help="Also give what every layer takes in; for the head hidden-states."),
    revision,
)
"""What is exported, for which target."""

prompt_options = _all(
    option("--system", metavar="TEXT", help="System message (default: none)."),
    option(
        "--thinking",
        is_flag=True,
        help="Let the model reason before it answers, sampled as recommended for the model if known (see --mode).",
    ),
)
"""What stands around a user's message."""

sampling_options = _all(
    option(
        "--mode",
        type=click.Choice(MODES),
        metavar="NAME",
        help="Sampling that LG AI Research recommends for the model: default or reasoning; for EXAONE 4.0, default is "
        "greedy and reasoning uses temperature 0.6 and top-p 0.95 (default: greedy; where the model reasons, "
        "generation_config.json's if it samples, else reasoning).",
    ),
    option("--temperature", type=Real(0, 1000), help="Sampling temperature; 0 is greedy (default: see --mode)."),
    option(
        "--top-p",
        type=Real(0, 1, min_open=True),
        help="Sample from the smallest set of tokens with this probability (default: the mode's, else the file's).",
    ),
    option("--top-k", type=Count(min=1), help=f"Sample from this many most likely tokens {CONFIGURED}."),
    option("--min-p", type=Real(0, 1), help=f"Sample tokens with this share of the largest probability {CONFIGURED}."),
    option("--repetition-penalty", type=Real(0.01, 100), help=f"Penalty on repeated tokens; 1 is none {CONFIGURED}."),
    option(
        "--presence-penalty",
        type=Real(-2, 2),
        help="Penalty on tokens that are in the answer; 1.5 is advised where reasoning repeats itself (default: 0).",
    ),
    option(
        "--frequency-penalty",
        type=Real(-2, 2),
        help="Penalty for every time that a token is in the answer (default: 0).",
    ),
)
"""How tokens are chosen; what is not given is None."""

threads = option("--threads", type=THREADS, help="Threads per operator (default: the physical cores).")

lookup = option(
    "--prompt-lookup",
    type=LOOKUP,
    metavar="N|auto|off",
    help="Guess up to N tokens from the text so far: the same answer, often sooner (default: generation_config.json's "
    "N, else auto, which guesses where that is measured to save time and no seed is given).",
)
"""Of programs that guess by themselves."""

graph_options = _all(
    option(
        "--no-prefill-graph",
        is_flag=True,
        help="Leave out the graph that an export with --prefill-precision has for prompts, and the memory it takes.",
    ),
    option(
        "--prefill-threshold",
        type=Count(min=2),
        help="Tokens of a step from which on the graph for prompts runs it (default: the artifact's).",
    ),
)
"""Which graphs of an artifact run, where it has one of its own for prompts; see `take_graph_choice`."""

batch_graph = option(
    "--batch-graph",
    is_flag=True,
    help="Let the graph for prompts also run steps of many answers, from the threshold on; what an answer says then "
    "depends, within rounding, on how many others there are.",
)

overwrite = option("--overwrite", is_flag=True, help="Replace an existing OUT.")

no_plan_check = option("--no-plan-check", is_flag=True, help="Start even if disk or memory seem too small.")

dry_run = option(
    "--dry-run", is_flag=True, help="Plan memory and disk, build and verify the graph, print both, write nothing."
)

trusted_key = option(
    "--verify",
    "trusted_key",
    type=PATH,
    metavar="KEY",
    help="Open ARTIFACT only if it is signed by this public key.",
)

sign = option("--sign", "key_file", type=PATH, metavar="KEY", help="Sign OUT with this Ed25519 private key.")

report_option = option(
    "--report", "report_file", type=WRITTEN_FILE, metavar="FILE", help="Also write the result to FILE as JSON."
)


def seed(what: str, default: int | None = 0) -> Callable[[_Command], _Command]:
    """``--seed``."""
    return option(
        "--seed",
        type=SEED,
        default=default,
        help=f"Seed of {what}." if default is not None else f"Seed of {what} (default: none).",
    )


def image_option(what: str) -> Callable[[_Command], _Command]:
    """``--plot FILE``, which draws ``what``."""
    return option("--plot", "plot_file", type=IMAGE, metavar="FILE", help=f"Plot {what} to a .png, .svg or .pdf.")


def json_option(what: str = "result") -> Callable[[_Command], _Command]:
    """``--json``, which gives ``as_json``."""
    return option("--json", "as_json", is_flag=True, help=f"Print the {what} as JSON.")


def _set_form(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    """Keep the last of ``--format`` and ``--json``, as ``form``."""
    if value:
        context.params["form"] = "json" if value is True else value
    elif "form" not in context.params:
        context.params["form"] = "table" if sys.stdout.isatty() else "markdown"


_format = option(
    "--format",
    "_format",
    type=click.Choice(FORMATS),
    expose_value=False,
    callback=_set_form,
    help="How to print the result (default: table on a terminal, markdown elsewhere).",
)
_json_format = option(
    "--json", "_json", is_flag=True, expose_value=False, callback=_set_form, help="Same as --format json."
)
format_option = _all(_format, _json_format)
"""``--format`` and ``--json`` of a command that prints a table; gives ``form``, one of `FORMATS`."""

export_options = _all(overwrite, no_plan_check, dry_run)
"""What the commands that write an artifact share."""


def read_signing_key(path: Path | None) -> Any:
    """The private key in a file, read before the work that it signs; prompts for the passphrase of an encrypted key."""
    if path is None:
        return None
    from exaone_export.artifact.signature import read_private_key

    def ask() -> str:
        answer: str = click.prompt(f"passphrase of {path}", hide_input=True, err=True)
        return answer

    return read_private_key(path, ask if sys.stdin.isatty() else None)


def take_graph_choice(options: dict[str, Any]) -> GraphChoice:
    """Take what `graph_options` give, and ``batch_graph`` where there is one, out of a command's options."""
    from exaone_export.runtime.sessions.prefill.choice import GraphChoice

    without, threshold = options.pop("no_prefill_graph"), options.pop("prefill_threshold")
    batches = options.pop("batch_graph", False)
    if without and (threshold is not None or batches):
        other = "--batch-graph" if batches else "--prefill-threshold"
        raise click.UsageError(f"--no-prefill-graph leaves out the graph that {other} is for; give one of them")
    return GraphChoice(not without, threshold, batches)
