"""The server's log: a line an event on stderr, as text or as JSON, without prompts and answers."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from types import TracebackType
from typing import Any

__all__ = ["FIELDS", "start_log"]

FIELDS = "fields"
"""The attribute of a record that holds its fields."""

_PLACE = "exaone_export.runtime.serve"


class _Lines(logging.Formatter):
    """A record as a line. Of an exception, its type and its frames are written, for its message may quote a prompt."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": " ".join(record.getMessage().split()),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = _frames(record.exc_info)
        if self._as_json:
            return json.dumps(fields, ensure_ascii=False, default=str)
        time_, level, event, *rest = fields.items()
        return " ".join([time_[1], level[1], event[1], *(f"{name}={value}" for name, value in rest)])


def start_log(*, as_json: bool) -> None:
    """Write the server's events to stderr, and those of its libraries from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(as_json=as_json))
    for name, level in ((_PLACE, logging.INFO), ("uvicorn", logging.WARNING), ("exaone_export", logging.WARNING)):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(level)


def _frames(found: tuple[type[BaseException] | None, BaseException | None, TracebackType | None]) -> str:
    kind, _, trace = found
    places = [f"{frame.name}:{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(trace)]
    return " < ".join([kind.__name__ if kind else "", *reversed(places)])
