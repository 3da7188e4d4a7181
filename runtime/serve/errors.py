"""Errors in OpenAI's form: every failure of a request is one, with a status."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from exaone_export.errors import (
    CancelledError,
    CapacityError,
    ChatTemplateError,
    ClosedError,
    ConstraintError,
    EngineBusyError,
    ExaoneExportError,
    GrammarError,
    PromptError,
    UnsupportedOptionError,
)

from ..text.chat_templates import REFUSES

__all__ = ["ERRORS", "METHOD", "ApiError", "add_handlers", "error_of", "validation_error"]

_log = logging.getLogger(__name__)

_TEXT_OR_NULL = {"type": ["string", "null"]}
_FORM = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _TEXT_OR_NULL,
                "code": _TEXT_OR_NULL,
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
ERRORS: dict[int | str, dict[str, Any]] = {
    kind: {"description": text, "content": {"application/json": {"schema": _FORM}}}
    for kind, text in (("4XX", "The request is refused"), ("5XX", "The request is not answered"))
}
"""Of every path, for its description."""

METHOD = "exaone_export.method"
"""The key of a request's scope with the method that its client sent: paths see GET for HEAD."""

_NO_MEMORY = re.compile("bad.?alloc|allocate memory|out of memory", re.IGNORECASE)
"""What ONNX Runtime and PyTorch say, whose errors have no type of their own for it."""

_LONGEST = 500
_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(HTTPException):
    """A request that is not answered; FastAPI lets this kind of exception through wherever it comes from.

    Args:
        status: Of HTTP.
        message: A sentence with the value, what is allowed, and the fix.
        param: The field of the request.
        code: For programs.
        headers: Of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message[:_LONGEST], dict(headers or {}))
        self.status, self.message, self.param, self.code = status, self.detail, param, code

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI writes it."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> JSONResponse:
        """With its status."""
        return JSONResponse(self.body, self.status, dict(self.headers or {}))


def error_of(cause: BaseException) -> ApiError:
    """The error to tell a client; what a client cannot know, such as a path, is in the log alone."""
    if isinstance(cause, ApiError):
        return cause
    if isinstance(cause, EngineBusyError):
        return ApiError(429, str(cause), code="engine_busy", headers={"retry-after": "1"})
    if isinstance(cause, ChatTemplateError) and not str(cause).startswith(REFUSES):
        _log_failure(cause)
        return ApiError(400, "the chat template cannot render these messages; shorten them.", param="messages")
    if isinstance(cause, ChatTemplateError):
        return ApiError(400, str(cause), param="messages", code="invalid_value")
    if isinstance(cause, ConstraintError | GrammarError | PromptError | UnsupportedOptionError):
        return ApiError(400, str(cause))
    if isinstance(cause, CancelledError | asyncio.CancelledError):
        return ApiError(503, "the server is stopping; try again later.", code="stopping")
    _log_failure(cause)
    if isinstance(cause, ClosedError):
        return ApiError(503, "the model's engine has ended; start the server again.", code="engine_ended")
    if _lacks_memory(cause):
        return ApiError(503, "the server has too little memory now; try again later.", code="out_of_memory")
    if isinstance(cause, ExaoneExportError):
        return ApiError(500, "the model failed; the server's log says why.", code="model_failed")
    return ApiError(500, "the server failed; its log says why.", code="server_failed")


def add_handlers(app: FastAPI) -> None:
    """Let an application answer with an `ApiError` what its paths raise; `Observer` does for other exceptions."""

    def of_any(_request: Request, error: Exception) -> JSONResponse:
        return error_of(error).response

    def of_validation(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return validation_error(error.errors()).response

    def of_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return _of_http(request, error).response

    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(HTTPException, of_http)
    for kind in (ApiError, ExaoneExportError):
        app.add_exception_handler(kind, of_any)


def validation_error(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """Of what pydantic found first; a wrong type explains the other fields of an object."""
    first = next((each for each in errors if each["loc"][-1:] == ("type",)), errors[0])
    place = [each for each in first["loc"] if each != "body"]
    if place[:1] in (["messages"], ["input"]):
        del place[2:3]  # the role or type, by which pydantic chose the model
    place += [found] if (found := first.get("ctx", {}).get("param")) else []
    param = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in place).lstrip(".")[:200]
    if first["type"] == "extra_forbidden":
        return ApiError(
            400, f"{param} is not a field of this request; leave it out.", param=param, code="unknown_field"
        )
    if not param:
        return ApiError(400, "the request is not a JSON object; send one, with Content-Type: application/json.")
    message = str(first["msg"]).rstrip(".")
    message = message[:1].lower() + message[1:]
    code = "missing_field" if first["type"] == "missing" else "invalid_value"
    return ApiError(400, f"{param}: {message[: _LONGEST - len(param) - 3]}.", param=param, code=code)


def _of_http(request: Request, error: HTTPException) -> ApiError:
    if error.status_code == 404:
        return ApiError(404, f"there is no path {request.url.path!r:.100}; see /openapi.json.", code="unknown_path")
    if error.status_code == 405:
        found = {each.strip() for each in (error.headers or {}).get("Allow", "").split(",")}
        allowed = ", ".join(sorted(found | ({"HEAD"} if "GET" in found else set())))
        method = request.scope.get(METHOD, request.method)
        message = f"{method:.20} is not a method of this path; use {allowed or 'another method'}."
        return ApiError(405, message, code="unknown_method", headers={"allow": allowed})
    message = error.detail if error.detail.endswith(".") else f"{HTTPStatus(error.status_code).phrase.lower()}."
    return ApiError(error.status_code, message, headers=error.headers)


def _lacks_memory(cause: BaseException) -> bool:
    is_runtimes = isinstance(cause, RuntimeError) and _NO_MEMORY.search(str(cause)) is not None
    return is_runtimes or isinstance(cause, MemoryError | CapacityError)


def _log_failure(cause: BaseException) -> None:
    _log.error("%s", type(cause).__name__, exc_info=cause)
