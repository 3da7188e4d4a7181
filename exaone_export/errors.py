"""The exceptions that a user can meet.

Every message is one sentence: the value that was found, what is allowed, and the command or edit that fixes it. The
command line prints the message alone; a library caller finds what went wrong underneath in ``__cause__``.
"""

from __future__ import annotations

from .terminal_text import one_line

__all__ = [
    "ArtifactError",
    "ArtifactReplacedError",
    "CacheInUseError",
    "CacheRollbackError",
    "CalibrationError",
    "CancelledError",
    "CapacityError",
    "ChatTemplateError",
    "CheckpointError",
    "ConfigError",
    "ExaoneExportError",
    "GraphContradictionError",
    "KeyFileError",
    "MissingExtraError",
    "PromptError",
    "SignatureError",
    "TargetError",
    "UnsupportedOptionError",
]


class ExaoneExportError(Exception):
    """Anything this package refuses to do, or could not do, for a reason that the user can act on."""

    def __str__(self) -> str:
        """The sentence; names and values in it come out of files, so that control characters are escaped."""
        return one_line(super().__str__())


class ConfigError(ExaoneExportError, ValueError):
    """A model's ``config.json`` is unreadable, contradicts itself, or describes something that cannot be exported."""


class CheckpointError(ExaoneExportError):
    """A checkpoint's files are missing, damaged, of a kind that is never opened (pickle), or do not fit its config."""


class ArtifactError(ExaoneExportError):
    """An artifact folder cannot be written, or does not match its manifest."""


class ArtifactReplacedError(ArtifactError):
    """An artifact was replaced or changed after it was checked; what was read since may belong to another one."""


class SignatureError(ArtifactError):
    """An artifact is not signed by the key that is trusted, or was changed after it was signed."""


class KeyFileError(ExaoneExportError, ValueError):
    """A key file cannot be read, or does not hold a key of the required kind."""


class GraphContradictionError(ExaoneExportError):
    """A finished graph, read back, is not the architecture that its spec describes."""


class CapacityError(ExaoneExportError):
    """The disk or the memory of this machine is too small for the request; nothing has been written."""


class TargetError(ExaoneExportError, ValueError):
    """A target is unknown, or does not support the request."""


class CalibrationError(ExaoneExportError, ValueError):
    """Calibration data cannot be used, or a scales file is damaged, incomplete or of another model."""


class PromptError(ExaoneExportError, ValueError):
    """A prompt cannot be run: its shape, its padding, its tokens, or its length against the cache."""


class ChatTemplateError(PromptError):
    """A chat template refuses the messages, fails, or takes more time or memory than a template may."""


class CancelledError(ExaoneExportError):
    """A call was cancelled."""


class CacheInUseError(ExaoneExportError, RuntimeError):
    """Another thread uses the cache; one call at a time may."""


class CacheRollbackError(ExaoneExportError):
    """Rows that a rollback, a prefix reuse or a reorder needs have left the window; the prompt has to be run again."""


class UnsupportedOptionError(ExaoneExportError, ValueError):
    """A generation option is known but not honoured here; dropping it silently would change the answer."""


class MissingExtraError(ExaoneExportError, ImportError):
    """An optional dependency is not installed.

    Args:
        feature: What needs the module, as the subject of the sentence (``"the ONNX Runtime session"``).
        module: The module that could not be imported (``"onnxruntime"``).
        extra: The extra of this package that brings it (``"cpu"``).
    """

    def __init__(self, feature: str, *, module: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs {module}, which is not installed; run: pip install 'exaone-export[{extra}]'.",
            name=module,
        )
        self.extra = extra
