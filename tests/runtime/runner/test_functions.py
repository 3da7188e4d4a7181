"""`ToolFunctions`: what a file defines, what a model may do with it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exaone_export import ToolFunctions
from exaone_export.errors import ToolsError
from exaone_export.runtime.text.tool_calls import ToolCall
from tests.conftest import ROOT

FILE = '''"""Tools."""
from __future__ import annotations

import os
from dataclasses import dataclass
from json import loads
from pathlib import Path as Home
from typing import Annotated, Literal

from msgspec import Meta


@dataclass
class Place:
    name: str
    height: float = 0.0


def visit(place: Place, how: Literal["train", "foot"] = "train", times: Annotated[int, Meta(ge=1)] = 1):
    """Visit a place,
    and come back.

    Args:
        place: Where to,
            by name.
        how (str): The way.

    Returns:
        The place.
    """
    print("visited")
    return Place(place.name, 1.5) if times == 1 else [place.name] * times


def fail(why="no reason"):
    raise RuntimeError(f"because of {why}\\nand more")


def leave():
    raise SystemExit(3)


def say_half():
    return "\\ud800"


def give_object():
    return object()


def greet(name: str) -> str:
    return f"안녕, {name}"


def use_own_default(path=Home("/tmp"), seen: list[int] = []):
    return f"{path.name} {seen}"


def _secret():
    return "secret"


class Maker:
    pass


run = os.system
'''


@pytest.fixture
def tools(tmp_path: Path) -> ToolFunctions:
    path = tmp_path / "json.py"  # the library's module of this name stays what it is
    path.write_text(FILE)
    return ToolFunctions.from_file(path)


def call(tools: ToolFunctions, name: str, /, **arguments: Any) -> str:
    return tools.call(ToolCall(name, arguments))


def test_only_own_public_functions_can_be_called(tools: ToolFunctions) -> None:
    assert tools.names == ("visit", "fail", "leave", "say_half", "give_object", "greet", "use_own_default")
    for name in ("_secret", "loads", "Meta", "Maker", "Place", "run", "os", "system", "os.system", "__init__", "Visit"):
        assert call(tools, name).startswith(f"error: there is no function {name}; call one of visit, fail"), name
    assert json.loads("1") == 1


def test_a_schema_is_of_signature_and_docstring(tools: ToolFunctions) -> None:
    function = tools.schemas[0]["function"]
    assert (function["name"], function["description"]) == ("visit", "Visit a place, and come back.")
    parameters = function["parameters"]
    assert parameters["required"] == ["place"]
    assert parameters["properties"]["how"] == {
        "description": "The way.",
        "enum": ["foot", "train"],
        "default": "train",
    }
    assert parameters["properties"]["times"] == {"type": "integer", "minimum": 1, "default": 1}
    assert parameters["properties"]["place"]["description"] == "Where to, by name."
    assert parameters["$defs"]["Place"]["properties"]["height"] == {"type": "number", "default": 0.0}
    json.dumps(tools.schemas)


def test_results_are_text(tools: ToolFunctions) -> None:
    assert call(tools, "visit", place={"name": "Seoul"}) == '{"name":"Seoul","height":1.5}'
    assert call(tools, "visit", place={"name": "Jeju"}, times=2) == '["Jeju","Jeju"]'
    assert call(tools, "greet", name="세계") == "안녕, 세계"
    assert call(tools, "use_own_default") == "tmp []"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("visit", {}, "the arguments do not fit: Object missing required field `place`"),
        ("visit", {"place": "Seoul"}, "the arguments do not fit: Expected `object`, got `str` - at `$.place`"),
        ("visit", {"place": {"name": "a"}, "times": 0}, "the arguments do not fit: Expected `int` >= 1 - at `$.times`"),
        ("visit", {"place": {"name": "a"}, "how": "car"}, "Invalid enum value 'car' - at `$.how`"),
        ("greet", {"name": 3}, "Expected `str`, got `int` - at `$.name`"),
        ("greet", {"name": "a", "other": 1}, "Object contains unknown field `other`"),
        ("fail", {}, "error: RuntimeError: because of no reason\\nand more"),
        ("leave", {}, "error: SystemExit: 3"),
        ("say_half", {}, "error: UnicodeEncodeError"),
        ("give_object", {}, "error: TypeError: Encoding objects of type object is unsupported"),
    ],
)
def test_what_goes_wrong_is_text_too(tools: ToolFunctions, name: str, arguments: dict[str, Any], said: str) -> None:
    result = call(tools, name, **arguments)
    assert result.startswith("error: ") and said in result


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(:", "fails at line 1 with SyntaxError: invalid syntax"),
        ("\nimport nothing_of_this_name", "fails at line 2 with ModuleNotFoundError: No module named"),
        ("exit(3)", "fails at line 1 with SystemExit: 3"),
        ("from json import loads", "defines no public function; write one, such as: def roll"),
        ("def f(*values): ...", r"the parameter \*values of f has no name to pass it by"),
        ("def f(**values): ...", r"the parameter \*\*values of f has no name"),
        ("def f(a, /): ...", "the parameter a of f has no name"),
        ("async def f(): ...", "the function f is async; write it with def"),
        ("def f(a: 'Nothing'): ...", "the signature of f cannot be read .NameError: name 'Nothing'"),
        (
            "class C: ...\ndef f(a: C): ...",
            r"f has a parameter that JSON does not have .type <class .*\.C.> is not supported",
        ),
        ("x = '\udcff'", "the byte 0xff at offset 5, which is not UTF-8"),
        (None, "does not exist; check the path"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_sentence(tmp_path: Path, source: str | None, said: str) -> None:
    path = tmp_path / "tools.py"
    if source is not None:
        path.write_bytes(source.encode(errors="surrogateescape"))
    with pytest.raises(ToolsError, match=said):
        ToolFunctions.from_file(path)


def test_the_example_rolls_dice() -> None:
    tools = ToolFunctions.from_file(ROOT / "examples" / "tools" / "dice.py")
    assert tools.names == ("roll", "chance")
    rolled = json.loads(call(tools, "roll", count=50, sides=4))
    assert len(rolled) == 50 and set(rolled) <= {1, 2, 3, 4} and len(set(rolled)) > 1
    assert json.loads(call(tools, "chance", total=7)) == {"probability": 21 / 36}
    assert json.loads(call(tools, "chance", total=12)) == {"probability": 1 / 36}
    assert json.loads(call(tools, "chance", total=1, count=3)) == {"probability": 1.0}
    assert "do not fit" in call(tools, "roll", count=10**9)
