"""What a manifest says of a second graph for prompts, and whether it can stand beside the first one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from ..errors import ArtifactError, TargetError
from ..files.records import Count, Record, one_of, read_record
from ..targets.target import PREFILL_PRECISIONS, get_target

if TYPE_CHECKING:
    from ..model.spec import ModelSpec
    from .manifest import Manifest

__all__ = ["PREFILL_NAME", "PrefillInfo", "of_prompts", "read_prefill"]

PREFILL_NAME = "model.prefill.onnx"
"""The graph's file; its weights lie in the data file of the other graph."""

_AGAIN = "export the model again"


class PrefillInfo(Record, frozen=True):
    """The manifest's record of a graph for prompts.

    Attributes:
        precision: Of its layers.
        recipe: As `Recipe.to_dict` gives it, of its weights.
        layers: What it computes, read back from it, one record a layer.
        threshold: Rows times tokens of a step, from which on it runs the step.
    """

    precision: Annotated[str, one_of(PREFILL_PRECISIONS)]
    recipe: dict[str, Any]
    layers: list[dict[str, Any]]
    threshold: Count

    def to_dict(self) -> dict[str, Any]:
        """The form that the manifest holds."""
        return msgspec.structs.asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> PrefillInfo:
        """Read `to_dict`'s form back.

        Raises:
            ArtifactError: The form is not `to_dict`'s.
        """
        return read_record(value, cls, name="the manifest's graph for prompts", fix=_AGAIN, error=ArtifactError)


def read_prefill(manifest: Manifest, spec: ModelSpec) -> PrefillInfo | None:
    """The record of an artifact's graph for prompts; None where it has one graph.

    Raises:
        ArtifactError: The file is there without a record or the other way round, or the record is not of a graph that
            shares the other one's caches and vocabulary projection.
    """
    if (manifest.prefill is None) != (PREFILL_NAME not in manifest.files):
        raise ArtifactError(f"the manifest must list {PREFILL_NAME} and say what it is, or do neither; {_AGAIN}.")
    if manifest.prefill is None:
        return None
    from ..targets.recipe import Recipe  # not needed where there is one graph, and takes time to import

    info = PrefillInfo.from_dict(manifest.prefill)
    recipe = Recipe.from_dict(manifest.recipe)
    try:
        get_target(manifest.target).check_prefill_precision(recipe.precision.name, info.precision)
    except TargetError as cause:
        raise ArtifactError(f"the manifest has a graph for prompts where none can be: {cause}") from cause
    shares = spec.head.is_causal_lm and spec.sparse_mlp is None and recipe.kernels
    if not shares or Recipe.from_dict(info.recipe) != recipe.for_prompts(info.precision):
        raise ArtifactError(
            f"the manifest's graph for prompts does not share the caches and the vocabulary of the other graph; "
            f"{_AGAIN}."
        )
    return info


def of_prompts(manifest: Manifest) -> Manifest:
    """The manifest of the graph for prompts, as if it stood alone."""
    assert manifest.prefill is not None
    info = PrefillInfo.from_dict(manifest.prefill)
    return msgspec.structs.replace(
        manifest, precision=info.precision, recipe=info.recipe, layers=info.layers, parity=None, prefill=None
    )
