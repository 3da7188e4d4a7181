"""EXAONE from a Hugging Face checkpoint to production runtimes.

What most callers need is here by name and is imported when it is first used: importing the package itself loads neither
torch nor a runtime. ``Chat``, ``Runner`` and ``GraphChoice`` need neither of torch and transformers; without the extra
``export``, the other names raise `exaone_export.errors.MissingExtraError`. Everything else is imported from its room
(``exaone_export.exporter``, ``exaone_export.graphs``, ``exaone_export.calibration``, ``exaone_export.runtime``).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exaone_export.exporter.build.engine import build_engine
    from exaone_export.exporter.calibrate.run import calibrate
    from exaone_export.exporter.export import export
    from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
    from exaone_export.runtime.mirror.heads import (
        ExaoneForQuestionAnswering,
        ExaoneForSequenceClassification,
        ExaoneForTokenClassification,
        ExaoneModel,
    )
    from exaone_export.runtime.mirror.text.chat import ChatFormat
    from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
    from exaone_export.runtime.runner.chat import Chat
    from exaone_export.runtime.runner.functions import ToolFunctions
    from exaone_export.runtime.runner.runner import Runner
    from exaone_export.runtime.sessions.prefill.choice import GraphChoice

__all__ = [
    "Chat",
    "ChatFormat",
    "ExaoneForCausalLM",
    "ExaoneForQuestionAnswering",
    "ExaoneForSequenceClassification",
    "ExaoneForTokenClassification",
    "ExaoneModel",
    "GraphChoice",
    "Runner",
    "ToolFunctions",
    "build_engine",
    "calibrate",
    "export",
    "load_tokenizer",
]

__version__ = "0.1.0"

_HOMES = {
    "Chat": "exaone_export.runtime.runner.chat",
    "ChatFormat": "exaone_export.runtime.mirror.text.chat",
    "ExaoneForCausalLM": "exaone_export.runtime.mirror.causal_lm",
    "ExaoneForQuestionAnswering": "exaone_export.runtime.mirror.heads",
    "ExaoneForSequenceClassification": "exaone_export.runtime.mirror.heads",
    "ExaoneForTokenClassification": "exaone_export.runtime.mirror.heads",
    "ExaoneModel": "exaone_export.runtime.mirror.heads",
    "GraphChoice": "exaone_export.runtime.sessions.prefill.choice",
    "Runner": "exaone_export.runtime.runner.runner",
    "ToolFunctions": "exaone_export.runtime.runner.functions",
    "build_engine": "exaone_export.exporter.build.engine",
    "calibrate": "exaone_export.exporter.calibrate.run",
    "export": "exaone_export.exporter.export",
    "load_tokenizer": "exaone_export.runtime.mirror.text.tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .extras import needs_export

    with needs_export(f"{__name__}.{name}"):
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
