"""What the tests of a conversation share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TINY

WEATHER = '''
def get_weather(city: str) -> dict:
    """Weather of a city"""
    print("looking out of the window")
    if city == "Oslo":
        raise RuntimeError("no window there")
    return {"degrees": 21}
'''


@pytest.fixture(scope="session")
def artifact(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=2048)


@pytest.fixture
def schemas(tmp_path: Path) -> Path:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": "get_weather", "description": "Weather of a city", "parameters": city}
    path = tmp_path / "tools.json"
    path.write_text(json.dumps([{"type": "function", "function": function}]))
    return path


@pytest.fixture
def weather(tmp_path: Path) -> Path:
    path = tmp_path / "weather.py"
    path.write_text(WEATHER)
    return path
