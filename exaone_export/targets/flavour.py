"""The two products that share TensorRT's API: what builds engines, and which GPUs run them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from ..errors import TargetError
from ..extras import needs_extra

__all__ = ["FLAVOURS", "Flavour"]


@dataclass(frozen=True)
class Flavour:
    """One of the two products that share TensorRT's API.

    Attributes:
        name: The Python module, which is also the name in the manifest.
        title: The product's name in messages.
        extra: The extra of this package that installs it.
        package: What pip calls it.
        portable: Whether one engine serves several compute capabilities, named or not, and is built without a GPU.
            Otherwise it is built on the GPU that runs it.
        timing_cache: Whether the builder measures kernels, so that a timing cache saves time.
        plugins: Whether a network may hold plugins.
        runs_on: Compute capabilities of the GPUs that run its engines, ``"8.9"`` or ``"12.x"``; None for any.
        runs_on_if_named: Those that run an engine only where it was built for them by name.
    """

    name: str
    title: str
    extra: str
    package: str
    portable: bool
    timing_cache: bool
    plugins: bool
    runs_on: tuple[str, ...] | None = None
    runs_on_if_named: tuple[str, ...] = ()

    def serves(self, compute_capability: str, *, named: bool = False) -> bool:
        """Whether GPUs of a compute capability run engines, those built for it by name or those for no certain one."""
        known = (*(self.runs_on or ()), *(self.runs_on_if_named if named else ()))
        return self.runs_on is None or not {compute_capability, f"{compute_capability.split('.')[0]}.x"}.isdisjoint(
            known
        )

    def check_gpu(self, compute_capability: str, otherwise: str = "") -> None:
        """Raise unless a GPU can run engines at all: to be asked before one is built, planned or read.

        Args:
            compute_capability: The GPU's, ``"8.9"`` for one.
            otherwise: What else can be done, behind the targets that run there.

        Raises:
            TargetError: It cannot; the message has the targets that can.
        """
        if not self.serves(compute_capability, named=True):
            known = ", ".join((*self.runs_on_if_named, *(self.runs_on or ())))
            raise TargetError(
                f"{self.title} does not run on GPUs of compute capability {compute_capability}, only on {known}; run: "
                f"exaone-export export MODEL OUT --target tensorrt, or --target ort-cuda{otherwise}."
            )

    def load(self) -> ModuleType:
        """Import the module.

        Raises:
            MissingExtraError: It is not installed.
        """
        with needs_extra("an engine", self.name, extra=self.extra):
            return importlib.import_module(self.name)


FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        Flavour("tensorrt", "TensorRT", "tensorrt", "tensorrt", portable=False, timing_cache=True, plugins=True),
        # Its parser ends the process where a plugin is made, its timing cache does nothing, and an H100, which is 9.0,
        # refuses every engine when it is deserialized (all 1.7.1).
        Flavour(
            "tensorrt_rtx",
            "TensorRT-RTX",
            "rtx",
            "tensorrt-rtx",
            portable=True,
            timing_cache=False,
            plugins=False,
            runs_on=("8.0", "8.6", "8.9", "12.x"),
            runs_on_if_named=("7.5",),
        ),
    )
}
