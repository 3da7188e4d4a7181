"""The tools that ``--tools`` names: Python functions, which are called, or schemas, whose results the user gives."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from exaone_export.runtime.runner.functions import ToolFunctions
from exaone_export.runtime.text.tool_calls import ToolCall

from ..tool_schemas import read_tool_schemas

__all__ = ["Tools", "describe_tools", "read_tools", "with_answers"]

Tools = ToolFunctions | Sequence[Mapping[str, Any]] | None


def read_tools(path: Path | None) -> Tools:
    """What a file defines; a Python file is run, and what it prints goes to stderr.

    Raises:
        ConfigError: A file of schemas cannot be read.
        ToolsError: A Python file cannot be read or run, or defines a function that cannot be called.
        BadParameter: A file of schemas does not hold a list.
    """
    if path is None:
        return None
    if path.suffix != ".py":
        return read_tool_schemas(path)
    with contextlib.redirect_stdout(sys.stderr):
        return ToolFunctions.from_file(path)


def with_answers(tools: Tools, ask: Callable[[ToolCall], str]) -> Callable[[ToolCall], str]:
    """How a call is answered: by its function, which prints to stderr, or by the user."""
    if not isinstance(tools, ToolFunctions):
        return ask

    def call(wanted: ToolCall) -> str:
        with contextlib.redirect_stdout(sys.stderr):
            return tools.call(wanted)

    return call


def describe_tools(tools: Tools) -> str:
    """A line a tool."""
    schemas = tools.schemas if isinstance(tools, ToolFunctions) else tools
    if not schemas:
        return "there are no tools; start with --tools FILE."
    return "\n".join(_describe(schema) for schema in schemas)


def _describe(schema: Any) -> str:
    """A schema in a line, as far as it has the usual form."""
    form = schema.get("function", schema) if isinstance(schema, Mapping) else None
    if not isinstance(form, Mapping) or "name" not in form:
        return str(schema)[:80]
    parameters = form.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    what = form.get("description")
    return f"{form['name']}({', '.join(map(str, properties or ()))}){f'  {what}' if what else ''}"
