"""A recipe in a manifest: what is written is read back, and nothing else is believed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from exaone_export.errors import ArtifactError
from exaone_export.model.tensors import PROJECTIONS
from exaone_export.targets.precision import PRECISIONS
from exaone_export.targets.recipe import Recipe

RECIPE = Recipe(
    PRECISIONS["int4"],
    "float16",
    blocks=dict.fromkeys(PROJECTIONS, 32),
    zero_points=True,
    kept={0: "int8-weights", 3: "float"},
    unquantized={2: ("qkv", "down")},
    smoothed=("output", "down"),
    cache="int8",
    hidden_size=64,
)
PLAIN = Recipe(PRECISIONS["bfloat16"], "bfloat16")


@pytest.mark.parametrize(
    "recipe", [RECIPE, replace(RECIPE, blocks={}, kept={}, unquantized={}, smoothed=(), cache=None)]
)
def test_what_is_written_is_read_back(recipe: Recipe) -> None:
    found = json.loads(json.dumps(recipe.to_dict() | {"max_length": 8, "calibration": None}))
    assert Recipe.from_dict(found) == recipe
    del found["unquantized"]
    assert Recipe.from_dict(found) == replace(recipe, unquantized={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("kernels"), "has no key 'kernels'"),
        (lambda r: r.update(precision="int3"), "has 'int3' at precision, which is not of the form float32|"),
        (lambda r: r.update(compute_type="float64"), "has 'float64' at compute_type, which is not of the form"),
        (lambda r: r.update(cache="int4"), "has 'int4' at cache, which is not of the form int8"),
        (lambda r: r.update(kernels=1), "has 1 at kernels, which is not bool"),
        (lambda r: r.update(blocks={"qkv": 32}), "cannot be used: blocks must name qkv, output, gate_up, down, or"),
        (lambda r: r["blocks"].update(qkv="32"), "has str at blocks[...], which is not int"),
        (lambda r: r["blocks"].update(head=32), "has a key in blocks that is not of the form qkv|output|gate_up|down"),
        (lambda r: r.update(kept={"1": "int3"}), "has 'int3' at kept[...], which is not of the form float|"),
        (lambda r: r.update(kept={"01": "float"}), "has a key in kept that is not int"),
        (lambda r: r.update(unquantized={"1": ["norm"]}), "has 'norm' at unquantized[...][0], which is not of"),
        (lambda r: r.update(smoothed="down"), "has 'down' at smoothed, which is not array"),
        (lambda r: r.update(hidden_size=-1), "has -1 at hidden_size, which is not int >= 0"),
    ],
)  # fmt: skip
def test_recipes_that_no_export_writes(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    record = json.loads(json.dumps(RECIPE.to_dict()))
    change(record)
    with pytest.raises(ArtifactError, match=f"^the manifest's recipe {re.escape(message)}.*; export the model again"):
        Recipe.from_dict(record)
