"""The output of a batch: a line an answer, appended whole, so that a later run goes on where this one ended.

A line's ids are made of its request and the artifact. What another request or another artifact has answered is told by
them, and nothing beside the file is needed.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exaone_export.errors import BatchError
from exaone_export.files.durable import sync, write_all
from exaone_export.files.folder_locks import try_lock
from exaone_export.files.strict_json import parse_object

from .requests import BatchRequest

__all__ = ["Results"]

_BEGIN = b'{"id": "batch_req_'
_SYNC_SECONDS = 1.0
_AGAIN = "pass another OUT to begin anew"


class Results:
    """A file of answers, held by one process; what stands in it already is kept.

    Leave it, or call `close`, to let others write it.

    Args:
        path: The file; it is made where there is none.
        requests: Of the batch, by their ``custom_id``.

    Attributes:
        answered: The ``custom_id`` of every answer, with its HTTP status.

    Raises:
        BatchError: Another process writes it, or it holds something else than answers to these requests. It is left as
            it is.
    """

    def __init__(self, path: Path, requests: Mapping[str, BatchRequest]) -> None:
        self._path, self._requests, self.answered = path, requests, dict[str, int]()
        is_new, self._synced = not path.exists(), time.monotonic()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except OSError as cause:
            raise BatchError(f"{path} cannot be written ({cause.strerror}); choose another OUT.") from cause
        try:
            self._take()
            if is_new:
                sync(path.absolute().parent)
        except BaseException:
            os.close(self._descriptor)  # without `close`, whose error of a pipe would hide this one
            raise

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, request: BatchRequest, status: int, body: Any) -> None:
        """Append an answer; a second one to a request is dropped.

        Args:
            request: What is answered.
            status: Of HTTP.
            body: JSON.

        Raises:
            OSError: The disk refused; what was written of the line is dropped by the next run.
        """
        if request.custom_id in self.answered:
            return
        line = {
            "id": f"batch_req_{request.digest}",
            "custom_id": request.custom_id,
            "response": {"status_code": status, "request_id": f"req_{request.digest}", "body": body},
            "error": None,
        }
        write_all(self._descriptor, f"{json.dumps(line, ensure_ascii=False)}\n".encode())
        self.answered[request.custom_id] = status
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._descriptor)
            self._synced = time.monotonic()

    def close(self) -> None:
        """Wait until the disk has it, and let it go."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _take(self) -> None:
        """Lock the file, read what stands in it, and drop a line that was not finished."""
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise BatchError(f"{self._path} is not a regular file; choose another OUT.")
        if not try_lock(self._descriptor):
            raise BatchError(f"{self._path} is written by another process; wait for it, or choose another OUT.")
        whole = 0
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self._check_unfinished(line, number)
                    break
                self._note(line, number)
                whole += len(line)
        if os.fstat(self._descriptor).st_size > whole:
            os.ftruncate(self._descriptor, whole)

    def _note(self, line: bytes, number: int) -> None:
        value = parse_object(line, name=f"line {number} of {self._path}", error=BatchError)
        try:
            name, identity, status = value["custom_id"], value["id"], value["response"]["status_code"]
        except (KeyError, TypeError) as cause:
            raise BatchError(f"line {number} of {self._path} is not an answer of a batch; {_AGAIN}.") from cause
        request = self._requests.get(name) if isinstance(name, str) else None
        if request is None or not isinstance(status, int) or identity != f"batch_req_{request.digest}":
            raise BatchError(
                f"line {number} of {self._path} answers another request than IN has, or is another artifact's; "
                f"{_AGAIN}."
            )
        if name in self.answered:
            raise BatchError(f"line {number} of {self._path} answers {name!r:.80} a second time; {_AGAIN}.")
        self.answered[name] = status

    def _check_unfinished(self, line: bytes, number: int) -> None:
        """Raise unless it is the beginning of an answer; after a loss of power its end may be zeros."""
        begun = line.rstrip(b"\0")[: len(_BEGIN)]
        if not _BEGIN.startswith(begun):
            raise BatchError(f"line {number} of {self._path} is not an answer of a batch; {_AGAIN}.")
