"""What is exported and run: a model with a target, a recipe, caches and a batch, decided before anything is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from ..errors import ConfigError
from ..model.spec import ModelSpec
from ..targets.cache_layout import CacheLayout
from ..targets.recipe import Recipe
from ..targets.target import Target
from .prefill import PREFILL_CHUNKS, check_prefill_chunk
from .stored_tensors import StoredTensor, prefill_tensors, stored_tensors

__all__ = ["Deployment", "choose_layout"]


@dataclass(frozen=True)
class Deployment:
    """One way to export a model and run it.

    Attributes:
        spec: The architecture.
        target: Where the graph runs.
        recipe: Of weights, activations and cache.
        max_length: The most tokens that a row holds, prompt and answer together.
        prefill_chunk: Maximum tokens per prefill step, on a target whose caches limit it; None for the
            target's own.
        batch: Rows that run at once.
        prefill: Recipe of a second graph, for prompts; None for one graph.
    """

    spec: ModelSpec
    target: Target
    recipe: Recipe
    max_length: int
    prefill_chunk: int | None = None
    batch: int = 1
    prefill: Recipe | None = None

    @cached_property
    def layout(self) -> CacheLayout:
        """The caches; raises what `choose_layout` raises."""
        return choose_layout(self.spec, self.target, self.max_length, self.prefill_chunk)

    @cached_property
    def tensors(self) -> tuple[StoredTensor, ...]:
        """What the artifact stores."""
        return (*stored_tensors(self.spec, self.recipe, self.layout), *self.prefill_tensors)

    @cached_property
    def prefill_tensors(self) -> tuple[StoredTensor, ...]:
        """Those of them that the graph for prompts alone has."""
        return () if self.prefill is None else tuple(prefill_tensors(self.spec, self.prefill, self.recipe))

    @property
    def cache_type(self) -> str:
        """Number format of keys and values."""
        return self.recipe.cache_type

    @property
    def cache_item_bytes(self) -> int:
        """Bytes of one number of the cache."""
        return self.recipe.cache_item_bytes

    @property
    def compute_item_bytes(self) -> int:
        """Bytes of one number of the compute type."""
        return self.recipe.compute_item_bytes

    @property
    def on_gpu(self) -> bool:
        """Whether the weights and the cache lie in a GPU's memory when the model runs."""
        return self.target.device == "cuda"

    @property
    def makes_engine(self) -> bool:
        """Whether `exaone-export build` turns the artifact into an engine."""
        return self.target.makes_engine

    @property
    def step_tokens(self) -> int:
        """Tokens of a row's longest step."""
        chunk = self.layout.longest_step or PREFILL_CHUNKS[self.target.device]
        return min(chunk, self.max_length)

    def with_length(self, max_length: int) -> Deployment:
        """The same with another maximum length."""
        return replace(self, max_length=max_length)

    def with_batch(self, batch: int) -> Deployment:
        """The same with another number of rows."""
        return replace(self, batch=batch)


def choose_layout(
    spec: ModelSpec, target: Target, max_length: int | None = None, prefill_chunk: int | None = None
) -> CacheLayout:
    """The caches of a model on a target.

    Args:
        spec: The architecture.
        target: Where the graph will run.
        max_length: The most tokens, prompt and answer together; the model's own limit by default.
        prefill_chunk: Maximum tokens per prefill step, on a target whose caches limit it.

    Raises:
        ConfigError: The model knows fewer positions, or the target has no use for the chunk.
    """
    limit = spec.max_position_embeddings
    length = limit if max_length is None else max_length
    if length > limit:
        raise ConfigError(
            f"max length is {length}, and the model knows {limit} positions: pass --max-length {limit} or less."
        )
    return CacheLayout.plan(spec.layers, length, target.cache_slack, _headroom(target, prefill_chunk))


def _headroom(target: Target, prefill_chunk: int | None) -> int:
    check_prefill_chunk(target, prefill_chunk)
    return target.cache_headroom if prefill_chunk is None else prefill_chunk
