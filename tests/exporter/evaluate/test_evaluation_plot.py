"""The picture of an evaluation can be read."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from exaone_export.exporter.evaluate import plot as module
from exaone_export.exporter.evaluate.run import ArtifactEvaluation
from exaone_export.files.images import new_figure
from exaone_export.runtime.parity.evaluation import Evaluation, Scores


def scores(name: str, kl: float, top1: float) -> Scores:
    return Scores(name, 8, 100, kl, 2 * kl, None, top1, 1.1, 1.0, 0, None, None)


@pytest.mark.parametrize(("kl", "top1"), [(1.2345e-9, 1.0), (1.2345e-4, 0.99912), (0.03456, 0.5), (12.3, 0.0)])
def test_tick_labels_do_not_collide(kl: float, top1: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    figures: list[Any] = []
    monkeypatch.setattr(module, "new_figure", lambda *given: figures.append(new_figure(*given)) or figures[-1])
    slices = [scores("recall, plain", kl, top1), scores("a $slice$", 3 * kl, top1)]
    result = Evaluation(slices, scores("all", 2 * kl, top1))
    module.plot(ArtifactEvaluation("ort-cpu", "int8", "", result), tmp_path / "eval.png")
    [figure] = figures
    for axes in figure.axes:
        labels = [label for label in axes.get_xticklabels() if label.get_text()]
        boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
        assert len(boxes) >= 2
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
