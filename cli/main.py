"""The command group: a command is loaded when it is run, and an error is one sentence."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

import exaone_export
from exaone_export.errors import ExaoneExportError, MissingExtraError
from exaone_export.extras import EXPORT, EXPORT_MODULES, missing_extra
from exaone_export.terminal_text import escape

from .output import log_in_lines, tell

# Help must not wait for torch, so a command's module is imported only when the command is run or described.
COMMANDS = {
    "plan": "Estimate the memory and disk that an export needs, and what fits.",
    "export": "Export a checkpoint to an artifact folder.",
    "calibrate": "Measure activations and round weights for quantization.",
    "build": "Build a TensorRT engine from an artifact.",
    "generate": "Generate text with an artifact.",
    "chat": "Talk with an artifact in the terminal.",
    "predict": "Classify, tag, answer or embed texts with an artifact.",
    "serve": "Serve an artifact over HTTP as OpenAI's API.",
    "batch": "Answer a file of requests in OpenAI's batch form.",
    "parity": "Compare an artifact with PyTorch, logits and tokens.",
    "eval": "Measure the quality that a quantized artifact lost.",
    "bench": "Measure the speed and memory of an artifact.",
    "sign": "Sign an artifact with an Ed25519 key.",
    "verify": "Check an artifact's files and signature.",
    "push": "Publish an artifact on the Hugging Face hub.",
    "package": "Write an artifact as a model repository of a server.",
    "doctor": "Check this machine, or whether an artifact runs on it.",
    "inspect": "Show an artifact's model, layers and precision.",
    "random-checkpoint": "Write a checkpoint of random weights in a published shape.",
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

    def main(self, *args: Any, standalone_mode: bool = True, **more: Any) -> Any:
        """As `click.Command.main`, which ends the process; an invalid command line is one sentence as well."""
        main: Callable[..., Any] = super().main
        if not standalone_mode:
            return main(*args, standalone_mode=False, **more)
        try:
            status = main(*args, standalone_mode=False, **more)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            tell(f"error: {_sentence(error)}")
            sys.exit(error.exit_code)
        except click.Abort:  # Ctrl-C or the end of stdin at a question
            tell("error: interrupted.")
            sys.exit(128 + signal.SIGINT)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise  # to `main`
        except BrokenPipeError:
            _discard_output()  # Whoever read it has seen enough.
            sys.exit(128 + signal.SIGPIPE)
        except KeyboardInterrupt as interruption:
            notes = getattr(interruption, "__notes__", [])  # of who keeps what was done
            _fail(ctx, interruption, f"{'; '.join(['interrupted', *notes])}.", 128 + signal.SIGINT)
        except ExaoneExportError as error:
            _fail(ctx, error, str(error), 2 if isinstance(error, ValueError) else 1)
        except OSError as error:
            where = f"{error.filename}: " if error.filename is not None else ""
            _fail(ctx, error, f"{where}{error.strerror or error}; check the path, its permissions and the disk.", 1)
        except Exception as error:  # noqa: BLE001 - the last line of defence between a defect and the user
            if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
                _fail(ctx, error, "out of memory; free some, or use a smaller batch or length.", 1)
            if isinstance(error, ImportError) and (missing := _missing_export(ctx, error)) is not None:
                _fail(ctx, missing, str(missing), 1)
            if isinstance(error, ImportError) and not (error.name or "exaone_export").startswith("exaone_export"):
                _fail(ctx, error, f"{error}; run: exaone-export doctor, which says what to install.", 1)
            hint = "this is a defect of exaone-export: run again with --traceback and report it"
            _fail(ctx, error, f"{type(error).__name__}: {error}; {hint}.", 1)


def _missing_export(ctx: click.Context, error: ImportError) -> MissingExtraError | None:
    """What to raise where a command cannot import the packages of the extra ``export``, whichever it tried first."""
    missing = missing_extra(error, f"{ctx.invoked_subcommand}", *EXPORT_MODULES, extra=EXPORT)
    if missing is not None:
        missing.__cause__ = error
    return missing


def _sentence(error: click.ClickException) -> str:
    """The message in this package's style: one sentence, with what to do about it."""
    message = (
        error.format_message().replace("\n\t", " ").replace(". Did you", "; did you").rstrip(".")
    )  # where click lists choices
    message = message[:1].lower() + message[1:]
    context = getattr(error, "ctx", None)
    if context is None or "; " in message or message.endswith("?"):
        return message if message.endswith("?") else f"{message}."
    return f"{message}; run: {context.command_path} --help."


def _set_traceback(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    ctx.meta[_TRACEBACK] = value or ctx.meta.get(_TRACEBACK, False)  # shared by the contexts of all commands


_TRACEBACK = f"{__name__}.traceback"
_traceback_option = click.option(
    "--traceback",
    is_flag=True,
    expose_value=False,
    callback=_set_traceback,
    help="Print the Python traceback of an error.",
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
    epilog="Exit status: 0 done, 1 a check or the work failed, 2 invalid or unsupported request, 128+N ended by signal "
    "N (130: interrupted).",
)
@_traceback_option
@click.version_option(exaone_export.__version__, prog_name="exaone-export")
def cli() -> None:
    """Export EXAONE checkpoints to ONNX Runtime and TensorRT, and run them.

    Results go to stdout, progress and errors to stderr. Start with: exaone-export plan MODEL
    """
    log_in_lines()


def _discard_output() -> None:
    """Send what is still buffered to the null device, so that Python does not report it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # A closed stream is None.
            os.dup2(nowhere, stream.fileno())


def _fail(ctx: click.Context, error: BaseException, message: str, status: int) -> None:
    if ctx.meta.get(_TRACEBACK):
        click.echo(escape("".join(traceback.format_exception(error))), err=True, nl=False)
    tell(f"error: {message}")
    sys.exit(status)
