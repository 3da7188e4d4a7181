"""The two optimization profiles: the shapes of a prefill step and of a decode step."""

from __future__ import annotations

from typing import Any

from exaone_export.errors import GraphContradictionError, TargetError
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.engine import DECODE, PREFILL, Profile, Range

_DEFAULT_CHUNK = 512
# Kernels are tuned for at most this many cached tokens: most prompts are shorter than the limit.
_TYPICAL_LENGTH = 2048


def plan_profiles(
    layout: CacheLayout, max_batch: int, prefill_chunk: int | None, exact_decode: bool = False
) -> tuple[Profile, Profile]:
    """The profiles of an engine, prefill first.

    A decode profile of exactly one token lets TensorRT choose other kernels. For one row it then turns products with a
    weight into products with a vector, and keeps a second copy of the layers' weights, laid out for that. A profile
    that could also take two tokens shares the weights of prefill.

    Args:
        layout: The artifact's caches.
        max_batch: The most rows of a step, at least 1.
        prefill_chunk: The most tokens of a step; by default as many as the caches take, 512 where they have no limit.
        exact_decode: Whether the decode profile is of exactly one token.

    Raises:
        TargetError: The caches do not take such a chunk.
    """
    longest = min(layout.longest_step or layout.max_length, layout.max_length)
    chunk = prefill_chunk or min(layout.longest_step or _DEFAULT_CHUNK, longest)
    if chunk > longest:
        raise TargetError(
            f"prefill chunk is {chunk}, and the artifact's caches take steps of {longest} tokens; "
            f"pass --prefill-chunk {longest} or less, or export the model with a longer one."
        )
    batch = Range(1, max_batch, max_batch)
    total = Range(1, min(max(_TYPICAL_LENGTH, chunk), layout.max_length), layout.max_length)
    one = Range(1, 1, 1)
    step = one if exact_decode or longest == 1 else Range(1, 1, 2)
    return (
        Profile(PREFILL, batch, Range(1, chunk, chunk), total, Range(1, 1, chunk)),
        Profile(DECODE, batch, step, total, one),
    )


def add_profile(builder: Any, config: Any, network: Any, profile: Profile) -> bool:
    """Give the builder a profile: the shapes of every input of the network.

    Returns:
        Whether TensorRT takes it.

    Raises:
        GraphContradictionError: An input has a dimension that is neither fixed nor one of a profile's.
    """
    shapes = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        bounds = [_bounds(tensor, axis, profile) for axis in range(len(tensor.shape))]
        shapes.set_shape(tensor.name, *(tuple(getattr(bound, end) for bound in bounds) for end in _ENDS))
    return bool(config.add_optimization_profile(shapes) >= 0)


_ENDS = ("minimum", "optimum", "maximum")


def _bounds(tensor: Any, axis: int, profile: Profile) -> Range:
    size = tensor.shape[axis]
    if size >= 0:
        return Range(size, size, size)
    name = tensor.get_dimension_name(axis)
    bounds = getattr(profile, name or "", None)
    if not isinstance(bounds, Range):
        raise GraphContradictionError(
            f"input {tensor.name} has a dimension {name!r}, which no profile gives; export the model again with this "
            f"version."
        )
    return bounds
