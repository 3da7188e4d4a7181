"""The schemas of tools, as a JSON file lists them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from exaone_export.errors import ConfigError
from exaone_export.files import strict_json

__all__ = ["read_tool_schemas"]

_MOST_BYTES = 4 << 20


def read_tool_schemas(path: Path) -> list[Any]:
    """Read the file that ``--tools`` names.

    Raises:
        ConfigError: It cannot be read.
        BadParameter: It does not hold a list of objects.
    """
    data = strict_json.read_bytes(path, max_bytes=_MOST_BYTES, error=ConfigError)
    try:
        tools = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(
            f"{path} is not JSON in UTF-8: {error}; correct the file", param_hint="--tools"
        ) from error
    if not isinstance(tools, list):
        raise click.BadParameter(
            f"{path} does not hold a list of tool schemas; write them as [{{…}}, …]", param_hint="--tools"
        )
    if wrong := [tool for tool in tools if not isinstance(tool, dict)]:
        raise click.BadParameter(
            f"{path} holds {wrong[0]!r:.60}, and a tool schema is an object; write them as [{{…}}, …]",
            param_hint="--tools",
        )
    return tools
