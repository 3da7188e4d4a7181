"""What the tests of calibration share: a small random model that has a tokenizer, and lines for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.conftest import TINY, SaveModel

CHAT = [{"role": "user", "content": "What is 27 + 45?"}]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {}}}]
LINES: list[dict[str, Any]] = [
    {"text": "What is 27 + 45? It is more than one window of the model, and then some more words. " * 3},
    {"messages": CHAT},
    {"messages": [*CHAT, {"role": "assistant", "content": "72"}], "source": "elsewhere"},
    {"messages": CHAT, "tools": TOOLS, "enable_thinking": True},
]
TEXTS = [{"text": "What is 27 + 45? It is more than one window. " * times} for times in (4, 1, 1, 2)]
"""Without chats, whose template takes a process, and a process that is killed takes one of its own."""


def write_lines(path: Path, *lines: object) -> Path:
    """A JSONL file; a line that is a text is written as it stands."""
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def make_chatter(save_model: SaveModel, folder: Path, **changes: Any) -> Path:
    """A random hybrid in bfloat16 that has the tiny checkpoint's tokenizer."""
    shutil.copytree(save_model(vocab_size=843, dtype="bfloat16", **changes), folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, folder)
    return folder
