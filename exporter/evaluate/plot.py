"""A plot of an evaluation: divergence and agreement of every slice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exaone_export.files.images import new_figure

if TYPE_CHECKING:
    from .run import ArtifactEvaluation

__all__ = ["plot"]

_BAR, _TOTAL = "#4878a8", "#2b2b2b"


def plot(evaluation: ArtifactEvaluation, path: Path) -> None:
    """Draw it; see `new_figure` for the errors."""
    result = evaluation.result
    shown = [*result.slices, result.total]
    names, at = [f"{scores.slice} ({scores.samples})" for scores in shown], range(len(shown))
    colors = [_BAR] * len(result.slices) + [_TOTAL]
    figure = new_figure(path, 10, 1.6 + 0.32 * len(shown))
    figure.suptitle(f"{evaluation.target}, {evaluation.precision}, compared with PyTorch in float32")
    kl, top1 = figure.subplots(1, 2, sharey=True)
    kl.barh(at, [scores.kl for scores in shown], color=colors)
    kl.set_xlabel("mean KL divergence (nats)")
    kl.set_yticks(at, names)
    for label in kl.get_yticklabels():
        label.set_parse_math(False)
    kl.invert_yaxis()
    # Marks, not bars: the axis does not begin at zero, where agreement that is nearly whole could not be told apart.
    top1.scatter([100 * scores.top1 for scores in shown], at, color=colors)
    top1.set_xlabel("top-1 agreement (%)")
    lowest = 100 * min(scores.top1 for scores in shown)
    margin = 0.05 * max(100 - lowest, 1)
    top1.set_xlim(lowest - margin, 100 + margin)
    for axes in (kl, top1):
        axes.locator_params(axis="x", nbins=5)  # so that long numbers do not run into each other
        axes.ticklabel_format(axis="x", useOffset=False, scilimits=(-3, 4))
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=120)
