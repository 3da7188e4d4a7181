"""Python functions that a model may call: their schemas, and their results as text."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec

from exaone_export.errors import ToolsError
from exaone_export.files import strict_json
from exaone_export.files.unicode_text import decode_utf8
from exaone_export.terminal_text import one_line

from ..text.tool_calls import ToolCall

__all__ = ["ToolFunctions"]

_MAX_BYTES = 4 << 20
_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Yields|Raises|Example|Examples|Note|Notes):\s*$", re.M)
_ARGUMENT = re.compile(r"^(\w+)(?: *\([^)]*\))?: *(.*)$")
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class ToolFunctions:
    """Functions that a model may call, by exact name and with arguments that fit their signatures.

    A parameter's type is its annotation, which may hold bounds: ``Annotated[int, msgspec.Meta(ge=1)]``. Descriptions
    are those of the docstring, in Google's style.

    Example:
        tools = ToolFunctions.from_file("examples/tools/dice.py")
        tools.call(ToolCall("roll", {"count": 2}))  # "[3, 6]"

    Args:
        functions: By the name that the model calls them by.

    Raises:
        ToolsError: A function cannot be called with named arguments of JSON.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._functions = {name: _Function(name, function) for name, function in functions.items()}

    @classmethod
    def from_file(cls, path: str | Path) -> ToolFunctions:
        """Run a Python file, and take the public functions that it defines; those that it imports are not taken.

        Raises:
            ToolsError: The file cannot be read or run, defines no public function, or one that cannot be called.
        """
        path = Path(path)
        data = strict_json.read_bytes(path, max_bytes=_MAX_BYTES, error=ToolsError)
        # A name of its own: a file random.py must not take the library's place. Dataclasses look their module up.
        module = types.ModuleType(f"{path.stem} (tools)")
        module.__file__ = str(path)
        sys.modules[module.__name__] = module
        try:
            source = decode_utf8(data, str(path), ToolsError)
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
        except ToolsError:
            raise
        except (Exception, SystemExit) as cause:
            where = f" at line {line}" if (line := _line(cause, str(path))) else ""
            raise ToolsError(
                f"{path} fails{where} with {_describe(cause)}; correct it until python3 {path} runs."
            ) from cause
        found = {
            name: value
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
        }
        if not found:
            raise ToolsError(f"{path} defines no public function; write one, such as: def roll(sides: int) -> int.")
        return cls(found)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the functions."""
        return tuple(self._functions)

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """For the chat template, in the form of OpenAI's ``tools``."""
        return [function.schema for function in self._functions.values()]

    def call(self, call: ToolCall) -> str:
        """Call a function: its result as text, JSON unless it is a string; what goes wrong is text too.

        Nothing is called whose name is not among `names`, or whose arguments do not fit.
        """
        if call.name not in self._functions:
            return f"error: there is no function {call.name[:80]}; call one of {', '.join(self.names)}"
        try:
            return self._functions[call.name].call(call.arguments)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - of any function; the model is to read it
            return f"error: {_describe(error)}"


class _Function:
    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._function = function
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ToolsError(f"the function {name} is async; write it with def.")
        try:
            parameters = inspect.signature(function).parameters
            hints = get_type_hints(function, include_extras=True)
        except Exception as cause:
            raise ToolsError(f"the signature of {name} cannot be read ({_describe(cause)}); correct it.") from cause
        if wrong := [each for each in parameters.values() if each.kind not in _NAMED]:
            raise ToolsError(f"the parameter {wrong[0]} of {name} has no name to pass it by; name each parameter.")
        described, arguments = _read_docstring(function)
        try:
            fields = [_field(each, hints.get(each.name, Any), arguments.get(each.name)) for each in parameters.values()]
            self._arguments = msgspec.defstruct(name, fields, forbid_unknown_fields=True, kw_only=True)
            (made,), components = msgspec.json.schema_components([self._arguments], ref_template="#/$defs/{name}")
        except (TypeError, ValueError) as cause:
            why = str(cause).strip().splitlines()[-1]
            raise ToolsError(
                f"{name} has a parameter that JSON does not have ({why}); annotate another type."
            ) from cause
        schema = components.pop(made["$ref"].rpartition("/")[2])
        for each in parameters.values():
            _note_default(schema["properties"][each.name], each.default)
        form = {key: schema[key] for key in ("type", "properties", "required")}
        if components:
            form["$defs"] = components
        self.schema = {"type": "function", "function": {"name": name, "description": described, "parameters": form}}

    def call(self, arguments: Mapping[str, Any]) -> str:
        try:
            fitting = msgspec.convert(dict(arguments), self._arguments)
        except msgspec.ValidationError as error:
            return f"error: the arguments do not fit: {error}"
        given = {name: getattr(fitting, name) for name in self._arguments.__struct_fields__}
        result = self._function(**{name: value for name, value in given.items() if value is not msgspec.UNSET})
        text = result if isinstance(result, str) else msgspec.json.encode(result).decode()
        text.encode()  # half of a surrogate pair is not text that a prompt can hold
        return text


def _field(parameter: inspect.Parameter, hint: Any, description: str | None) -> tuple[Any, ...]:
    """Of `msgspec.defstruct`; an argument that is not given is left to the function's own default."""
    if description:
        hint = Annotated[hint, msgspec.Meta(description=description)]
    if parameter.default is inspect.Parameter.empty:
        return parameter.name, hint
    return parameter.name, hint | msgspec.UnsetType, msgspec.UNSET


def _note_default(schema: dict[str, Any], default: Any) -> None:
    if default is inspect.Parameter.empty:
        return
    with contextlib.suppress(TypeError, ValueError):  # the function has it all the same
        schema["default"] = json.loads(msgspec.json.encode(default))


def _read_docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What is before the first section, in one line, and the description of every argument."""
    text = inspect.getdoc(function) or ""
    first, *rest = _SECTION.split(text)
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    arguments, name = dict[str, str](), ""
    lines = next((sections[each] for each in ("Args", "Arguments", "Parameters") if each in sections), "").splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    for line in lines:
        begins = _ARGUMENT.match(line[margin:])
        if begins:
            name, arguments[begins[1]] = begins[1], begins[2].strip()
        elif name and line.strip():
            arguments[name] = f"{arguments[name]} {line.strip()}".strip()
    return " ".join(first.split()), arguments


def _describe(error: BaseException) -> str:
    """An exception in a line."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg}"
    text = one_line(str(error).strip())[:500].rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _line(error: BaseException, path: str) -> int | None:
    """The last line of a file that an exception came by."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return error.lineno
    trace, found = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            found = trace.tb_lineno
        trace = trace.tb_next
    return found
