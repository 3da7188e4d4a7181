"""The model of Triton's Python backend: an artifact's answers, streamed.

This file is copied into the model repository, beside the folder `artifact`. The server's Python needs the package
`exaone-export[cpu]`. Requests are answered in turns; one that is cancelled ends at its next token.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from exaone_export import Chat, Runner
from exaone_export.errors import ExaoneExportError, PromptError

_NUMBERS = {"temperature": float, "top_p": float, "top_k": int, "seed": int, "max_new_tokens": int}
_SECONDS = 0.05  # between looks for cancelled requests


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the artifact, which is checked against its manifest."""
        parameters = json.loads(args["model_config"]).get("parameters", {})
        threads = parameters.get("threads", {}).get("string_value", "")
        folder = Path(args["model_repository"]) / args["model_version"] / "artifact"
        self._runner = Runner.open(folder, threads=int(threads) if threads else None)
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._active: dict[threading.Thread, tuple[Any, Any]] = {}  # a request's sender and its answer
        threading.Thread(target=self._watch, name="exaone-cancellations", daemon=True).start()

    def execute(self, requests: list[Any]) -> None:
        """Begin to answer; the responses follow through the senders of the requests."""
        for request in requests:
            sender = request.get_response_sender()
            thread = threading.Thread(target=self._respond, args=(request, sender), daemon=True)
            with self._lock:
                self._active[thread] = (sender, None)
            thread.start()

    def finalize(self) -> None:
        """End all answers, and release the weights."""
        self._ended.set()
        self._runner.close()
        with self._lock:
            threads = list(self._active)
        for thread in threads:
            thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS):
            with self._lock:
                active = list(self._active.values())
            for sender, answer in active:
                if answer is not None and sender.is_cancelled():
                    answer.cancel()

    def _respond(self, request: Any, sender: Any) -> None:
        last = None
        try:
            answer = self._begin(request)
            with self._lock:
                self._active[threading.current_thread()] = (sender, answer)
            given = 0
            for piece in answer:
                if sender.is_cancelled():
                    answer.cancel()
                    continue
                tokens, given = answer.tokens[given:], len(answer.tokens)
                sender.send(_response(piece, "", tokens))
            last = _response("", str(answer.finish_reason), answer.tokens[given:])
        except ExaoneExportError as error:
            last = _failure(str(error))
        except Exception as error:  # noqa: BLE001 - the server goes on with the next request
            last = _failure(f"{type(error).__name__}: {error}")
        finally:
            with self._lock:
                self._active.pop(threading.current_thread(), None)
            sender.send(last, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _begin(self, request: Any) -> Any:
        prompt, messages = _text(request, "prompt"), _text(request, "messages")
        if (prompt is None) == (messages is None):
            raise PromptError("a request has either prompt or messages; send one of the two.")
        options = {name: kind(value) for name, kind in _NUMBERS.items() if (value := _first(request, name)) is not None}
        if (stop := _values(request, "stop")) is not None:
            options["stop"] = [text.decode() for text in stop]
        if prompt is not None:
            return self._runner.generate(prompt, **options)
        chat = Chat(self._runner, enable_thinking=bool(_first(request, "enable_thinking") or False))
        return self._runner.generate(chat.encode(*_messages(messages or "")), **options)


def _messages(text: str) -> list[dict[str, Any]]:
    try:
        messages = json.loads(text)
    except ValueError as error:
        raise PromptError(f"messages is not JSON ({error}); send a list of objects with role and content.") from error
    if not (isinstance(messages, list) and messages and all(isinstance(one, dict) for one in messages)):
        raise PromptError("messages is not a list of objects; send a list of objects with role and content.")
    return messages


def _values(request: Any, name: str) -> list[Any] | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().reshape(-1).tolist()


def _first(request: Any, name: str) -> Any:
    values = _values(request, name)
    if values is not None and len(values) != 1:
        raise PromptError(f"{name} has {len(values)} values; send one.")
    return None if values is None else values[0]


def _text(request: Any, name: str) -> str | None:
    value = _first(request, name)
    if value is None:
        return None
    try:
        return str(value.decode())
    except UnicodeDecodeError as error:
        raise PromptError(f"{name} is not UTF-8; send it in UTF-8.") from error


def _response(text: str, finish_reason: str, tokens: list[int]) -> Any:
    outputs = {
        "text": np.array([text.encode()], dtype=np.object_),
        "finish_reason": np.array([finish_reason.encode()], dtype=np.object_),
        "tokens": np.array(tokens, dtype=np.int32),
    }
    return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(*each) for each in outputs.items()])


def _failure(sentence: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(sentence))
