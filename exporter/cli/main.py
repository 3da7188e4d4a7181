"""The command group: commands are loaded when they are run, errors are one sentence."""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Any

import click

import exaone_export
from exaone_export.errors import ExaoneExportError

# Help must not wait for torch, so a command's module is imported only when the command is run or described.
COMMANDS = {
    "plan": "Say what an export would take in memory and on disk.",
    "export": "Turn a checkpoint into an artifact folder.",
    "calibrate": "Measure the activations that int8 and fp8 need.",
    "build": "Turn an artifact of a TensorRT target into an engine.",
    "generate": "Continue a prompt with an artifact.",
    "parity": "Prove an artifact equal to PyTorch.",
    "eval": "Measure what a quantized artifact lost of its model.",
    "bench": "Measure how fast an artifact runs.",
    "sign": "Say who vouches for an artifact.",
    "verify": "Check an artifact against its manifest and its signature.",
    "doctor": "Say what works here, why the rest does not, and what mends it.",
    "inspect": "Show what an artifact is, read from its files.",
    "random-checkpoint": "Make a checkpoint of random weights in a published shape.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"exaone_export.exporter.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except ExaoneExportError as error:
            _fail(ctx, error, str(error), 2 if isinstance(error, ValueError) else 1)
        except (OSError, MemoryError) as error:
            _fail(ctx, error, f"{type(error).__name__}: {error}.", 1)
        except Exception as error:  # noqa: BLE001 - the last line of defence between a defect and the user
            hint = "this is a defect of exaone-export: run again with --traceback and report it"
            _fail(ctx, error, f"{type(error).__name__}: {error}; {hint}.", 1)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 a check failed or the work did, 2 what was asked cannot be.",
)
@click.option("--traceback", is_flag=True, help="Show the traceback of an error.")
@click.version_option(exaone_export.__version__, prog_name="exaone-export")
def cli(traceback: bool) -> None:
    """EXAONE 4 from a Hugging Face checkpoint to production runtimes."""


def _fail(ctx: click.Context, error: BaseException, message: str, status: int) -> None:
    if ctx.params.get("traceback"):
        traceback.print_exception(error)
    click.echo(f"error: {message}", err=True)
    sys.exit(status)
