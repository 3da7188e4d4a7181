"""The command group: commands are loaded when they are run, errors are one sentence."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sys
import traceback
from typing import Any

import click

import exaone_export
from exaone_export.errors import ExaoneExportError
from exaone_export.terminal_text import escape, one_line

from .output import log_in_lines, tell

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


# PyTorch and ONNX Runtime raise a RuntimeError of their own, on a processor and on a GPU.
_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator|CUDA out of memory|Failed to allocate memory|std::bad_alloc|bad allocation"
)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"exaone_export.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        _take_traceback(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            vars(error)["message"] = one_line(error.message)  # declared final, and printed by click
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            _discard_output()  # Whoever read it has seen enough.
            sys.exit(128 + signal.SIGPIPE)
        except KeyboardInterrupt as interruption:
            _fail(ctx, interruption, "interrupted.", 128 + signal.SIGINT)
        except ExaoneExportError as error:
            _fail(ctx, error, str(error), 2 if isinstance(error, ValueError) else 1)
        except OSError as error:
            where = f"{error.filename}: " if error.filename is not None else ""
            _fail(ctx, error, f"{where}{error.strerror or error}; check the path, its permissions and the disk.", 1)
        except Exception as error:  # noqa: BLE001 - the last line of defence between a defect and the user
            if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
                _fail(ctx, error, "there is not enough memory; free some, or ask for less at a time.", 1)
            if isinstance(error, ImportError) and not (error.name or "exaone_export").startswith("exaone_export"):
                _fail(ctx, error, f"{error}; run: exaone-export doctor, which says what to install.", 1)
            hint = "this is a defect of exaone-export: run again with --traceback and report it"
            _fail(ctx, error, f"{type(error).__name__}: {error}; {hint}.", 1)


def _set_traceback(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    ctx.meta[_TRACEBACK] = value or ctx.meta.get(_TRACEBACK, False)  # shared by the contexts of all commands


_TRACEBACK = f"{__name__}.traceback"
_traceback_option = click.option(
    "--traceback",
    is_flag=True,
    expose_value=False,
    callback=_set_traceback,
    help="Show the traceback of an error.",
)


def _take_traceback(command: click.Command) -> None:
    """Let a command and those within it take ``--traceback`` as well as the group does."""
    if not any(parameter.name == "traceback" for parameter in command.params):
        _traceback_option(command)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _take_traceback(inner)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 a check failed or the work did, 2 what was asked cannot be, 130 interrupted.",
)
@_traceback_option
@click.version_option(exaone_export.__version__, prog_name="exaone-export")
def cli() -> None:
    """EXAONE 4 from a Hugging Face checkpoint to production runtimes."""
    log_in_lines()


def _discard_output() -> None:
    """Let what is still buffered go nowhere, so that Python does not complain of it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # A closed stream is None.
            os.dup2(nowhere, stream.fileno())


def _fail(ctx: click.Context, error: BaseException, message: str, status: int) -> None:
    if ctx.meta.get(_TRACEBACK):
        click.echo(escape("".join(traceback.format_exception(error))), err=True, nl=False)
    tell(f"error: {message}")
    sys.exit(status)
