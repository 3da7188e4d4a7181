"""The options of a build."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from exaone_export.errors import UnsupportedOptionError

from ..option_types import convert_types

__all__ = ["MOST_WORKSPACE", "BuildOptions"]

MOST_WORKSPACE = 1 << 20
"""In GiB; in bytes it still fits what TensorRT takes."""


@dataclass(frozen=True)
class BuildOptions:
    """The options of a build that decide the engine; `build_engine` and `plan_build` take them.

    Attributes:
        max_batch: The most rows of a step.
        prefill_chunk: The most tokens of a step; None for as many as the caches take.
        compute_capabilities: GPUs that the engine must run on, ``"8.9"`` for one; none for all that a portable engine
            serves.
        exact_decode: Whether decoding has a profile of exactly one token, see `plan_profiles`.
        workspace: GiB of GPU memory that a kernel may use as scratch space; None for TensorRT's own limit.
        timing_cache: A file that the builder's timings are read from and written to.
        plugin: A Python module that registers a plugin for the attention; it is imported.
        trusted_key: The public key that must have signed the artifact; see `Artifact.open`.

    Raises:
        UnsupportedOptionError: A value has another type, or is out of its range.
    """

    max_batch: int = 1
    prefill_chunk: int | None = None
    compute_capabilities: Collection[str] = ()
    exact_decode: bool = False
    workspace: float | None = None
    timing_cache: str | Path | None = None
    plugin: str | None = None
    trusted_key: str | Path | None = None

    def __post_init__(self) -> None:
        convert_types(self)
        for name, value in (("max_batch", self.max_batch), ("prefill_chunk", self.prefill_chunk)):
            if value is not None and value < 1:
                raise UnsupportedOptionError(f"{name} is {value}; it must be at least 1.")
        if self.workspace is not None and not 0 < self.workspace <= MOST_WORKSPACE:
            raise UnsupportedOptionError(
                f"workspace is {self.workspace}; it must be above 0 and at most {MOST_WORKSPACE} GiB."
            )
