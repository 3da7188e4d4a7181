"""TensorRT's warnings and errors, and the nodes that they name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_AT_NODE = re.compile(r"Parsing node: (?P<name>.*) \[(?P<operator>\w+)\]$")
# Expected for every int64 input, which the sessions bind as int64; and if the process has another builder or runtime,
# although both loggers still work (1.7.1).
_EXPECTED = re.compile(r"Make sure input \S+ has Int64 binding\.$|The logger passed into \w+ differs from one already")


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        text: As TensorRT wrote it.
        is_error: Whether it is an error; else a warning.
        node: Name of the ONNX node that was being parsed; empty outside of parsing.
        operator: The node's operator.
    """

    text: str
    is_error: bool
    node: str = ""
    operator: str = ""

    @property
    def is_expected(self) -> bool:
        """Whether TensorRT gives it for every graph, and it needs no action."""
        return bool(_EXPECTED.search(self.text))


def make_logger(trt: Any) -> Any:
    """A logger that keeps warnings and errors in its list ``messages`` and prints nothing.

    TensorRT names the node of an error and not of a warning, so the logger follows the parser from node to node; set
    its ``at_node`` to None once parsing is over.
    """

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[Message] = []
            self.at_node: re.Match[str] | None = None

        def log(self, severity: Any, text: str) -> None:
            if severity == trt.ILogger.VERBOSE:
                self.at_node = _AT_NODE.search(text) or self.at_node
            elif severity != trt.ILogger.INFO:
                node = self.at_node.groupdict() if self.at_node else {"name": "", "operator": ""}
                is_error = severity != trt.ILogger.WARNING
                self.messages.append(Message(text.strip(), is_error, node["name"], node["operator"]))

        def take_warnings(self) -> list[Message]:
            """Return and drop the warnings so far, without expected ones."""
            taken = [message for message in self.messages if not message.is_error]
            self.messages = [message for message in self.messages if message.is_error]
            return [message for message in taken if not message.is_expected]

        def errors(self) -> str:
            """All errors in one line."""
            return "; ".join(" ".join(message.text.split()) for message in self.messages if message.is_error)

    return Logger()
