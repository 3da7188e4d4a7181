"""The formats of every picture that this package draws, and what has to be there to draw one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..extras import needs_extra

__all__ = ["IMAGE_FORMATS", "check_image_format", "new_figure", "require_matplotlib"]

IMAGE_FORMATS = (".png", ".svg", ".pdf")


def check_image_format(path: Path) -> None:
    """Raise ConfigError unless a file's name ends in one of `IMAGE_FORMATS`."""
    if path.suffix.lower() not in IMAGE_FORMATS:
        *others, last = IMAGE_FORMATS
        raise ConfigError(f"{path.name}: unsupported image format; use {', '.join(others)} or {last}.")


def require_matplotlib() -> None:
    """Find out that nothing can be drawn before any work is done.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    with needs_extra("a plot", "matplotlib", extra="plot"):
        import matplotlib.figure  # noqa: F401


def new_figure(path: Path, width: float, height: float) -> Any:
    """An empty ``matplotlib.figure.Figure`` of a size in inches, to be saved at ``path``.

    It is a figure of its own: pyplot would choose a window system, and keep what it draws.

    Raises:
        ConfigError: The file's name ends in no format of `IMAGE_FORMATS`.
        MissingExtraError: Matplotlib is not installed.
    """
    check_image_format(path)
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
