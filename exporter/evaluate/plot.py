"""A picture of an evaluation: divergence and agreement, a bar a slice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exaone_export.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from .run import ArtifactEvaluation

__all__ = ["check_plot", "plot"]

_BAR, _TOTAL = "#4878a8", "#2b2b2b"


def check_plot(path: Path) -> None:
    """Check before any work that the picture can be drawn.

    Raises:
        ConfigError: The file's name ends in no format that Matplotlib writes.
        MissingExtraError: Matplotlib is not installed.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise MissingExtraError("a plot", module="matplotlib", extra="plot") from error
    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.removeprefix(".") not in formats:
        raise ConfigError(f"{path.name} has an unsupported image format; end its name in one of: {', '.join(formats)}.")


def plot(evaluation: ArtifactEvaluation, path: Path) -> None:
    """Draw it; see `check_plot` for the errors."""
    check_plot(path)
    from matplotlib.figure import Figure

    result = evaluation.result
    shown = [*result.slices, result.total]
    names, at = [f"{scores.slice} ({scores.samples})" for scores in shown], range(len(shown))
    colors = [_BAR] * len(result.slices) + [_TOTAL]
    figure = Figure(figsize=(10, 1.6 + 0.32 * len(shown)), layout="constrained")
    figure.suptitle(f"{evaluation.target}, {evaluation.precision}, against PyTorch in float32")
    kl, top1 = figure.subplots(1, 2, sharey=True)
    kl.barh(at, [scores.kl for scores in shown], color=colors)
    kl.set_xlabel("mean KL divergence, nats")
    kl.set_yticks(at, names)
    for label in kl.get_yticklabels():
        label.set_parse_math(False)
    kl.invert_yaxis()
    # Marks, not bars: the axis does not begin at zero, where agreement that is nearly whole could not be told apart.
    top1.scatter([100 * scores.top1 for scores in shown], at, color=colors)
    top1.set_xlabel("top-1 agreement, %")
    for axes in (kl, top1):
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=120)
