"""The input of a batch: a request a line, all of them checked before the model is loaded."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from exaone_export.errors import BatchError, ExaoneExportError
from exaone_export.files.records import Record, read_record
from exaone_export.files.strict_json import numbered_lines, parse_object
from exaone_export.files.unicode_text import check_unicode
from exaone_export.model.heads import CAUSAL_LM, HIDDEN_STATES
from exaone_export.progress import Notice

from ..serve.errors import validation_error
from ..serve.protocol.chat import ChatRequest
from ..serve.protocol.completions import CompletionRequest
from ..serve.protocol.embeddings import EmbeddingRequest
from ..serve.protocol.responses import ResponseRequest

__all__ = ["BatchRequest", "read_requests"]

_MOST_BYTES = 16 << 20
_MOST_SHOWN = 20
_GZIP = b"\x1f\x8b"
_PATHS: Mapping[str, Mapping[str, type[BaseModel]]] = {
    CAUSAL_LM: {
        "/v1/chat/completions": ChatRequest,
        "/v1/completions": CompletionRequest,
        "/v1/responses": ResponseRequest,
    },
    HIDDEN_STATES: {"/v1/embeddings": EmbeddingRequest},
}
"""By the artifact's head: what may be asked, and the form of its body."""


class _Line(Record, frozen=True):
    custom_id: str
    method: str
    url: str
    body: dict[str, Any]


@dataclass(frozen=True)
class BatchRequest:
    """One request.

    Attributes:
        custom_id: As its writer calls it.
        url: The path.
        body: JSON in UTF-8.
        digest: Of all these and the artifact, in hexadecimal digits.
    """

    custom_id: str
    url: str
    body: bytes
    digest: str


def read_requests(path: Path, *, head: str, artifact: str, model_name: str, notice: Notice) -> dict[str, BatchRequest]:
    """Read and check a file of requests.

    Args:
        path: The file: an object a line, with ``custom_id``, ``method``, ``url`` and ``body``.
        head: The artifact's, a key of `exaone_export.model.heads.ARCHITECTURES`.
        artifact: `exaone_export.artifact.reader.Artifact.identity`.
        model_name: What requests call the model.
        notice: Told of the first lines that cannot be run.

    Returns:
        By their ``custom_id``, in their order.

    Raises:
        BatchError: A line cannot be run, or there is none.
    """
    found, lines, problems = dict[str, BatchRequest](), dict[str, int](), list[str]()
    with path.open("rb") as file:
        if file.peek(2)[:2] == _GZIP:
            raise BatchError(
                f"{path} is compressed with gzip; run: gunzip -c {shlex.quote(str(path))} > OTHER, and pass OTHER."
            )
        for number, data in numbered_lines(file, name=str(path), max_bytes=_MOST_BYTES, error=BatchError):
            try:
                request = _read(data, f"line {number}", head, artifact, model_name)
                if (first := lines.setdefault(request.custom_id, number)) != number:
                    raise BatchError(
                        f"line {number} has the custom_id {request.custom_id!r:.80} of line {first}; choose another."
                    )
                found[request.custom_id] = request
            except ExaoneExportError as error:
                problems.append(str(error))
    for problem in problems[:_MOST_SHOWN]:
        notice(problem)
    if problems:
        raise BatchError(
            f"{len(problems)} of the {len(problems) + len(found)} lines of {path} cannot be run, and nothing has been "
            f"run; correct them."
        )
    if not found:
        raise BatchError(f"{path} has no line that is not blank; write one request a line.")
    return found


def _read(data: bytes, name: str, head: str, artifact: str, model_name: str) -> BatchRequest:
    value = parse_object(data, name=name, error=BatchError)
    line = read_record(value, _Line, name=name, fix="correct it", error=BatchError)
    if not line.custom_id:
        raise BatchError(f"{name} has an empty custom_id; write one that no other line has.")
    if line.method != "POST":
        raise BatchError(f"{name} has the method {line.method!r:.40}; write POST.")
    form = _PATHS[head].get(line.url)
    if form is None:
        allowed = " or ".join(_PATHS[head])
        raise BatchError(f"{name} has the url {line.url!r:.80}, and this artifact answers {allowed}; correct it.")
    try:
        form.model_validate(line.body)
    except ValidationError as cause:
        raise BatchError(f"{name}: {validation_error(cause.errors()).message}") from cause
    if line.body["model"] != model_name:
        raise BatchError(
            f"{name} asks the model {line.body['model']!r:.80}, and this one is {model_name!r:.80}; correct it, or "
            f"pass --model-name."
        )
    if line.body.get("stream"):
        raise BatchError(f"{name} asks for a stream, and a batch has none; leave stream out.")
    text = json.dumps([line.custom_id, line.url, line.body], ensure_ascii=False)
    check_unicode(text, name, BatchError)
    digest = hashlib.sha256(f"{artifact}\n{text}".encode()).hexdigest()
    return BatchRequest(line.custom_id, line.url, json.dumps(line.body, ensure_ascii=False).encode(), digest[:32])
