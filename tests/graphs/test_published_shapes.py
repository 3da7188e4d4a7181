"""The graphs of published sizes, made without a weight: 30 layers that all rotate, and 48 of 64."""

from __future__ import annotations

import pytest
import torch

from exaone_export.exporter import export as pipeline
from exaone_export.exporter.checkpoint.random_checkpoint import PUBLISHED
from exaone_export.graphs.pipelines import lower
from exaone_export.graphs.verify import verify
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import get_target


@pytest.mark.parametrize(
    ("name", "dtype", "rows", "shape", "layers", "rotary", "local"),
    [
        ("ort-cpu", torch.float32, 4096 + 127, "32b", 64, 48, 48),
        ("tensorrt-rtx", torch.float32, 4096 + 127 + 512, "32b", 64, 48, 48),
        ("ort-cuda", torch.bfloat16, 4096, "1.2b", 30, 30, 0),
        ("ort-cuda", torch.bfloat16, 4096, "3.5-2.4b", 30, 30, 0),
    ],
)
def test_the_whole_shape_is_read_back_from_its_graph(
    name: str, dtype: torch.dtype, rows: int, shape: str, layers: int, rotary: int, local: int
) -> None:
    """Traps 2 and 3, on what is deployed."""
    spec, target = PUBLISHED[shape], get_target(name)
    layout = CacheLayout.plan(spec.layers, spec.max_position_embeddings, target.cache_slack, target.cache_headroom)
    recipe = Recipe.plan(spec, str(dtype).removeprefix("torch."), str(dtype).removeprefix("torch."))
    graph = lower(pipeline.trace(spec, layout, dtype), target, layout, spec, recipe)
    readings = verify(graph, spec, layout, recipe)
    assert len(readings) == layers
    assert sum(reading.attention.rotary for reading in readings) == rotary
    assert sum(reading.attention.window == 4096 and reading.rows == rows for reading in readings) == local
    assert all(
        reading.attention.rotary == (spec.sliding_window is None or reading.attention.window > 0)
        for reading in readings
    )
