"""What an ONNX file refers to outside of itself, read without a parser that would follow it.

A graph may keep a tensor's bytes in another file, at any path, and may hold nodes that load a program or a compiled
model by its path, or that never end. Here the file is scanned in protobuf's wire format
(https://protobuf.dev/programming-guides/encoding), and every occurrence of a field counts, also those that a parser
would merge or replace: what is refused cannot hide behind a second spelling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["MAX_GRAPH_BYTES", "ExternalTensor", "MalformedGraphError", "References", "read_references"]

MAX_GRAPH_BYTES = 16 << 20
"""Of a graph without its weights; 64 layers take half a megabyte."""

# Field numbers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, and the message that a field holds.
_MODEL = {7: "graph", 25: "function", 20: "training"}
_MESSAGES: dict[str, dict[int, str]] = {
    "model": _MODEL,
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_NODE_OPERATOR, _NODE_DOMAIN = 4, 7
_TENSOR_EXTERNAL_DATA = 13
_MODEL_METADATA = 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 32
_MAX_TEXT_BYTES = 4096  # No file's name, operator or key that is allowed is longer.
_WORD = 1 << 64


class MalformedGraphError(ValueError):
    """The bytes are not a protobuf message, or one that is nested too deeply."""


@dataclass(frozen=True)
class ExternalTensor:
    """Where one tensor's bytes lie.

    Attributes:
        location: The file, as it is written; a byte that is not UTF-8 is a lone surrogate, as in `os.fsdecode`.
        offset: Of the first byte; None where it is not a number.
        length: In bytes, None where it is not a number; 0 where the file gives none.
    """

    location: str
    offset: int | None
    length: int | None


@dataclass
class References:
    """What a graph refers to.

    Attributes:
        tensors: Those whose bytes lie elsewhere.
        operators: Domain and name of every node's operator.
        metadata: Keys of the model's metadata, which some runtimes take settings from.
    """

    tensors: list[ExternalTensor] = field(default_factory=list)
    operators: set[tuple[str, str]] = field(default_factory=set)
    metadata: set[str] = field(default_factory=set)


def read_references(data: bytes) -> References:
    """Scan a serialized ``ModelProto``.

    Raises:
        MalformedGraphError: It is not one.
    """
    found = References()
    _scan(memoryview(data), "model", found, 0)
    return found


def _scan(message: memoryview, kind: str, found: References, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise MalformedGraphError(f"is nested deeper than {_MAX_DEPTH} levels")
    inner = _MESSAGES[kind]
    operator, domain = "", ""
    entries: dict[str, str] = {}
    for number, value in _fields(message):
        if isinstance(value, int):
            continue
        if number in inner:
            _scan(value, inner[number], found, depth + 1)
        elif kind == "node" and number == _NODE_OPERATOR:
            operator = _text(value)
        elif kind == "node" and number == _NODE_DOMAIN:
            domain = _text(value)
        elif kind == "model" and number == _MODEL_METADATA:
            found.metadata.add(_entry(value)[0])
        elif kind == "tensor" and number == _TENSOR_EXTERNAL_DATA:
            key, text = _entry(value)
            if key == "location" and "location" in entries:
                found.tensors.append(_tensor(entries))  # A parser may take the first or the last.
            entries[key] = text
    if kind == "node":
        found.operators.add((domain, operator))
    if entries:
        found.tensors.append(_tensor(entries))


def _tensor(entries: dict[str, str]) -> ExternalTensor:
    return ExternalTensor(
        entries.get("location", ""), _number(entries.get("offset", "0")), _number(entries.get("length", "0"))
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def _entry(message: memoryview) -> tuple[str, str]:
    key = text = ""
    for number, value in _fields(message):
        if not isinstance(value, int) and number == _ENTRY_KEY:
            key = _text(value)
        elif not isinstance(value, int) and number == _ENTRY_VALUE:
            text = _text(value)
    return key, text


def _text(value: memoryview) -> str:
    """Decoded one to one, as names of files are: nothing is checked under another name than it is opened by."""
    return bytes(value[:_MAX_TEXT_BYTES]).decode(errors="surrogateescape")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and content of every field; numbers are given as 0, because none is used."""
    position, end = 0, len(message)
    while position < end:
        # Nearly every number is one byte, which a call takes longer to read than all the rest.
        tag, position = message[position], position + 1
        if tag >= 0x80:
            tag, position = _varint(message, position - 1)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise MalformedGraphError("has a field without a number")
        if wire == _VARINT:
            if position < end and message[position] < 0x80:
                position += 1
            else:
                _, position = _varint(message, position)
            yield number, 0
            continue
        if wire == _BYTES:
            length, position = message[position] if position < end else 0x80, position + 1
            if length >= 0x80:
                length, position = _varint(message, position - 1)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise MalformedGraphError(f"has a field of wire type {wire}")
        if length > end - position:
            raise MalformedGraphError("ends within a field")
        yield number, message[position : position + length] if wire == _BYTES else 0
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value % _WORD, position
    raise MalformedGraphError("ends within a number")
