"""The exceptions a user can meet.

Every message is one sentence: the value that was found, what is allowed, and the command or edit that fixes it. The
command line prints only the message; ``__cause__`` holds the underlying exception.
"""

from __future__ import annotations

from typing import Any

from .terminal_text import one_line

__all__ = [
    "ArtifactError",
    "ArtifactReplacedError",
    "BatchError",
    "CacheInUseError",
    "CacheRollbackError",
    "CalibrationError",
    "CancelledError",
    "CapacityError",
    "ChatTemplateError",
    "CheckpointError",
    "ClosedError",
    "ConfigError",
    "ConstraintError",
    "ConversationError",
    "CopyError",
    "EngineBusyError",
    "ExaoneExportError",
    "GrammarError",
    "GraphContradictionError",
    "KeptPromptError",
    "KeyFileError",
    "LogitsError",
    "MissingExtraError",
    "ProcessStartError",
    "PromptError",
    "SignatureError",
    "TargetError",
    "ToolsError",
    "UnsupportedOptionError",
]


class ExaoneExportError(Exception):
    """Base of every error that a user can act on."""

    def __str__(self) -> str:
        """The sentence. Names and values in it come from files, so control characters are escaped."""
        return one_line(super().__str__())


class ConfigError(ExaoneExportError, ValueError):
    """A model's ``config.json`` is unreadable, contradicts itself, or describes something that cannot be exported."""


class CheckpointError(ExaoneExportError):
    """A checkpoint's files are missing or damaged, are pickles, or do not match its config."""


class ArtifactError(ExaoneExportError):
    """An artifact folder cannot be written, or does not match its manifest."""


class ArtifactReplacedError(ArtifactError):
    """An artifact was replaced or written to after it was checked; what was read since may belong to another one."""


class SignatureError(ArtifactError):
    """An artifact is not signed by the trusted key, or was changed after it was signed."""


class KeyFileError(ExaoneExportError, ValueError):
    """A key file cannot be read, holds no Ed25519 key, or is a private key that others may read."""


class GraphContradictionError(ExaoneExportError):
    """A finished graph, read back, differs from the architecture of its config."""


class CapacityError(ExaoneExportError):
    """This machine has too little disk or memory for an export, a build or a download; nothing has been written."""


class TargetError(ExaoneExportError, ValueError):
    """A target is unknown, or does not support the request."""


class CalibrationError(ExaoneExportError, ValueError):
    """Calibration data cannot be used, or a scales file is damaged, incomplete or made for another model."""


class PromptError(ExaoneExportError, ValueError):
    """A prompt has an unsupported shape, padding, token or length."""


class ChatTemplateError(PromptError):
    """A chat template refuses the messages, fails, or exceeds its limits of time or memory."""


class BatchError(ExaoneExportError, ValueError):
    """A batch has lines that cannot be run, or its output holds something else than answers to them."""


class ConversationError(ExaoneExportError, ValueError):
    """A conversation cannot be saved where it should be, or a file does not hold one."""


class ToolsError(ExaoneExportError, ValueError):
    """A file of tools cannot be read or run, or a function in it cannot be called by a model."""


class KeptPromptError(ExaoneExportError, ValueError):
    """A kept prompt cannot be written or read, is damaged, or was saved with another artifact."""


class LogitsError(ExaoneExportError):
    """A model gave logits that are not finite numbers, from which no token can be chosen."""


class ConstraintError(ExaoneExportError):
    """A constraint allows no token of the vocabulary to come next."""


class GrammarError(ExaoneExportError, ValueError):
    """A JSON schema, a regular expression or a choice is wrong, too large, or something in it is not supported."""


class ProcessStartError(ExaoneExportError):
    """The process that applies chat templates, or the one that tries grammars, does not start."""


class EngineBusyError(ExaoneExportError):
    """An engine has as many requests waiting as it may have; nothing was begun."""


class ClosedError(ExaoneExportError, RuntimeError):
    """What was closed, or belongs to the process that this one was forked from, cannot be used any more."""


class CopyError(ExaoneExportError, TypeError):
    """An open model, or an answer that it generates, cannot be pickled or deep-copied; it lives in one process."""


class CancelledError(ExaoneExportError):
    """A call was cancelled before it finished."""


class CacheInUseError(ExaoneExportError, RuntimeError):
    """Another thread is using the cache; each thread needs its own."""


class CacheRollbackError(ExaoneExportError):
    """Rows that a rollback, a prefix reuse or a reorder needs have left the window; the prompt must be run again."""


class UnsupportedOptionError(ExaoneExportError, ValueError):
    """An option is known but not supported, or belongs to another head; ignoring it would change the answer."""


class MissingExtraError(ExaoneExportError, ImportError):
    """An optional dependency is not installed.

    Args:
        feature: What needs the modules, as the subject of the sentence (``"the ONNX Runtime session"``).
        modules: The modules that are not installed (``"onnxruntime"``).
        extra: The extra of this package that installs them (``"cpu"``).
    """

    def __init__(self, feature: str, *modules: str, extra: str) -> None:
        *others, last = modules
        named = f"{', '.join(others)} and {last}, which are" if others else f"{last}, which is"
        super().__init__(
            f"{feature} needs {named} not installed; run: pip install 'exaone-export[{extra}]'.",
            name=modules[0],
        )
        self.feature, self.modules, self.extra = feature, modules, extra

    def __reduce__(self) -> tuple[Any, ...]:
        """A pool of processes that cannot read a worker's error waits for ever."""
        return _missing_extra, (self.feature, self.modules, self.extra)


def _missing_extra(feature: str, modules: tuple[str, ...], extra: str) -> MissingExtraError:
    return MissingExtraError(feature, *modules, extra=extra)
