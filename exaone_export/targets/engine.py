"""What an artifact says of a TensorRT engine, and whether that engine can run on a machine.

An engine is as trusted as native code, and a runtime that reads one of another version or another GPU may fail in any
way. So `EngineInfo.check_fits` decides from the manifest alone, before a byte of the engine is read.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Annotated, Any

import msgspec

from ..errors import ArtifactError, MissingExtraError, TargetError
from ..files.records import Count, Record, Sha256, one_of, read_record

__all__ = ["DECODE", "FLAVOURS", "PREFILL", "EngineInfo", "Flavour", "Profile", "Range", "flavour_of"]

PREFILL, DECODE = "prefill", "decode"


@dataclasses.dataclass(frozen=True)
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
        try:
            return importlib.import_module(self.name)
        except ImportError as cause:
            raise MissingExtraError("an engine", module=self.name, extra=self.extra) from cause


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

_FLAVOUR_OF_TARGET = {"tensorrt": "tensorrt", "tensorrt-plugin": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def flavour_of(target: str) -> Flavour:
    """The flavour that builds and runs engines of ``target``.

    Raises:
        TargetError: No engine is made of it.
    """
    try:
        return FLAVOURS[_FLAVOUR_OF_TARGET[target]]
    except KeyError:
        raise TargetError(
            f"an artifact of target {target} is no source of an engine; run: "
            f"exaone-export export MODEL ARTIFACT --target {' or '.join(_FLAVOUR_OF_TARGET)}."
        ) from None


class Range(Record, frozen=True, array_like=True):
    """What one dimension may be: the least, the one that the engine is tuned for, and the most."""

    minimum: Count
    optimum: Count
    maximum: Count

    def __post_init__(self) -> None:
        """Raise ValueError unless they ascend."""
        if not self.minimum <= self.optimum <= self.maximum:
            raise ValueError(f"{self.minimum}, {self.optimum} and {self.maximum} must be in ascending order")


class Profile(Record, frozen=True):
    """One optimization profile: the range of every dimension that is not fixed.

    Attributes:
        name: `PREFILL` or `DECODE`.
        batch: Rows.
        sequence: Tokens of a step.
        total_sequence: Columns of ``attention_mask``.
        kept: Positions that logits are computed for.
    """

    name: str
    batch: Range
    sequence: Range
    total_sequence: Range
    kept: Range


_Version = Annotated[str, msgspec.Meta(pattern=r"\A(?:\d+(\.\d+){1,4}([a-z.+-][0-9a-z.+-]*)?)\Z")]
_Capability = Annotated[str, msgspec.Meta(pattern=r"\A(?:\d{1,2}\.\d)\Z")]
_NOT_EMPTY = msgspec.Meta(min_length=1)


class EngineInfo(Record, frozen=True):
    """What the manifest says of an engine.

    Attributes:
        flavour: A name of `FLAVOURS`.
        version: Of the library that built it, and the only one that reads it.
        compute_capabilities: GPUs that it runs on, ``"8.9"`` for one; None for every one that a portable engine serves.
        driver: CUDA version of the driver that it was built with, ``"13.0"`` for one; None without a GPU.
        profiles: The optimization profiles, by their index in the engine.
        options: What the builder was told.
        plugin: Whether a plugin runs its attention.
        onnx: File name and sha256 of the graph that it was built from, and of the graph's data.
    """

    flavour: Annotated[str, one_of(FLAVOURS)]
    version: _Version
    compute_capabilities: Annotated[tuple[_Capability, ...], _NOT_EMPTY] | None
    driver: _Version | None
    profiles: tuple[Profile, ...]
    options: dict[str, Any]
    plugin: bool
    onnx: Annotated[dict[str, Sha256], _NOT_EMPTY]

    def profile_index(self, name: str) -> int:
        """The index that the engine knows the profile ``name`` by."""
        return [profile.name for profile in self.profiles].index(name)

    def profile(self, name: str) -> Profile:
        """The profile ``name``."""
        return self.profiles[self.profile_index(name)]

    def check_fits(self, *, flavour: str, version: str, compute_capability: str, has_plugin: bool = False) -> None:
        """Decide whether a machine can run the engine.

        Args:
            flavour: The module that would run it.
            version: The module's version.
            compute_capability: The GPU's, ``"8.9"`` for one.
            has_plugin: Whether the plugin that `plugin` asks for is registered with the module.

        Raises:
            TargetError: It cannot; the message has the command that builds one that can.
        """
        made = FLAVOURS[self.flavour]
        if flavour != self.flavour:
            raise TargetError(
                f"the engine is {made.title}'s, and {flavour} does not read it; "
                f"run: pip install 'exaone-export[{made.extra}]'."
            )
        made.check_gpu(compute_capability)
        if version != self.version:
            raise TargetError(
                f"the engine was built by {made.title} {self.version}, and {version}, which is installed, does not "
                f"read it; run: exaone-export build ARTIFACT OUT, or pip install {made.package}=={self.version}."
            )
        if not self._serves(compute_capability):
            # Where the builder takes no list, it builds for the GPU that it runs on.
            choice = f" --compute-capability {compute_capability}" if made.portable else " on this machine"
            raise TargetError(
                f"the engine runs on compute capability {self.describe_capabilities()}, and this GPU has "
                f"{compute_capability}; run: exaone-export build ARTIFACT OUT{choice}."
            )

        if self.plugin and not has_plugin:
            raise TargetError(
                f"the engine's attention is a plugin's, and none is registered with {flavour}; import the module that "
                f"registers exaone::HybridAttention, the one that exaone-export build was given as --plugin."
            )

    def describe_capabilities(self) -> str:
        """The compute capabilities in words."""
        if self.compute_capabilities is None:
            return ", ".join(FLAVOURS[self.flavour].runs_on or ("any",))
        return ", ".join(self.compute_capabilities)

    def _serves(self, compute_capability: str) -> bool:
        if self.compute_capabilities is not None:
            return compute_capability in self.compute_capabilities
        return FLAVOURS[self.flavour].serves(compute_capability)

    def to_dict(self) -> dict[str, Any]:
        """The form that the manifest holds."""
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return found

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> EngineInfo:
        """Read `to_dict`'s form back, believing nothing of it.

        Raises:
            ArtifactError: A key is missing or unknown, or a value is none that a build writes.
        """
        info = read_record(value, cls, name="the manifest's engine", fix=_AGAIN, error=ArtifactError)
        if [profile.name for profile in info.profiles] != [PREFILL, DECODE]:
            raise ArtifactError(f"the manifest's engine must have the profiles {PREFILL} and {DECODE}; {_AGAIN}.")
        return info


_AGAIN = "build the engine again with this version"
