"""From a request to the constraint of its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import ApiError

if TYPE_CHECKING:
    from exaone_export.runtime.core.constraint import Constraint

    from ...text.tokenizer import Tokenizer
    from ..protocol.response_format import ResponseFormat
    from ..protocol.tools import NamedTool, Tool

__all__ = ["constraint_of"]


def constraint_of(
    tokenizer: Tokenizer,
    *,
    response_format: ResponseFormat | None,
    tools: Sequence[Tool],
    tool_choice: str | NamedTool,
    enable_thinking: bool,
) -> Callable[[], Constraint] | None:
    """What makes the constraint of one answer; None where an answer is free.

    Args:
        tokenizer: The artifact's.
        response_format: As requested.
        tools: Those that the model may call.
        tool_choice: ``none``, ``auto``, ``required`` or the tool that must be called.
        enable_thinking: Whether the answer begins with reasoning, which no constraint is about.

    Raises:
        ApiError: The form is not supported.
    """
    if response_format is not None and response_format.type != "text":
        raise _not_supported("response_format", f"of the type {response_format.type}; use text, or leave it out")
    if tool_choice not in ("auto", "none"):
        raise _not_supported("tool_choice", "that forces a call; use auto or none")
    if any(tool.function.strict for tool in tools):
        raise _not_supported("tools", "with strict: true; leave strict out")
    return None


def _not_supported(param: str, what: str) -> ApiError:
    return ApiError(400, f"this server does not support {param} {what}.", param=param, code="unsupported_value")
