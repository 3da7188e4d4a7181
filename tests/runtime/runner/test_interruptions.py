"""Ctrl-C while a chat template is applied, and while an artifact is loaded: nothing is changed, and nothing is left."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exaone_export.runtime.runner.chat import Chat
from exaone_export.runtime.runner.runner import Runner
from exaone_export.runtime.text import chat_templates
from tests.conftest import TINY


def interrupting(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, with Ctrl-C pressed at its beginning, once."""
    pressed: list[bool] = []

    def pressing(*arguments: Any, **options: Any) -> Any:
        if not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)
        return call(*arguments, **options)

    return pressing


def test_an_interruption_changes_nothing(export_artifact: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, threads = export_artifact(TINY, "ort-cpu", max_length=512), set(threading.enumerate())
    with monkeypatch.context() as patch:
        loading = "exaone_export.runtime.runner.runner.open_session"
        patch.setattr(loading, interrupting(lambda *_, **__: pytest.fail("it was loaded all the same")))
        with pytest.raises(KeyboardInterrupt):
            Runner.open(folder, threads=1)
    assert set(threading.enumerate()) == threads
    with Runner.open(folder, threads=1) as runner:
        chat = Chat(runner, system="Be brief.", max_new_tokens=20)
        templates, before = chat_templates.shared(), list(chat.messages)
        with monkeypatch.context() as patch:
            patch.setattr(templates._worker, "_read", interrupting(templates._worker._read))
            with pytest.raises(KeyboardInterrupt):
                chat.send("What is 38 + 47?")
        assert chat.messages == before
        assert chat.send("What is 38 + 47?").read().content == "85"
