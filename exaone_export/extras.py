"""The packages of the optional extras: which are installed, and the error that names the command that installs them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from .errors import MissingExtraError

__all__ = [
    "EXPORT",
    "EXPORT_MODULES",
    "SERVE_MODULES",
    "missing_extra",
    "needs_export",
    "needs_extra",
    "needs_serve",
    "not_installed",
]

EXPORT = "export"
"""The extra for everything but running on the CPU."""

EXPORT_MODULES = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors")

SERVE_MODULES = ("fastapi", "httpx2", "llguidance", "prometheus_client", "uvicorn")
"""Of the extra ``serve``."""


def not_installed(*modules: str) -> list[str]:
    """Those of some top-level modules that cannot be found; nothing is imported."""
    return [module for module in modules if not _is_installed(module)]


def missing_extra(error: ImportError, feature: str, *modules: str, extra: str) -> MissingExtraError | None:
    """The error to show in an import's place; None where the modules are installed, or are not why it failed.

    Args:
        error: Of the import.
        feature: What needs the modules, as the subject of the sentence.
        modules: The top-level modules.
        extra: The extra that installs them.
    """
    if isinstance(error, MissingExtraError):
        return None
    gone = not_installed(*modules)
    # transformers names no module where torch is what it misses.
    if not gone or (error.name is not None and error.name.partition(".")[0] not in gone):
        return None
    return MissingExtraError(feature, *gone, extra=extra)


@contextmanager
def needs_extra(feature: str, *modules: str, extra: str) -> Iterator[None]:
    """Import the modules of an extra inside; one that is installed and broken raises its own error.

    Raises:
        MissingExtraError: Some of them are not installed.
    """
    try:
        yield
    except ImportError as error:
        missing = missing_extra(error, feature, *modules, extra=extra)
        if missing is None:
            raise
        raise missing from error


def needs_export(feature: str) -> AbstractContextManager[None]:
    """As `needs_extra`, of the extra ``export``."""
    return needs_extra(feature, *EXPORT_MODULES, extra=EXPORT)


def needs_serve(feature: str) -> AbstractContextManager[None]:
    """As `needs_extra`, of the extra ``serve``."""
    return needs_extra(feature, *SERVE_MODULES, extra="serve")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # something without a spec stands in its place
        return True
