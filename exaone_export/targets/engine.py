"""What an artifact says of a TensorRT engine, and whether that engine can run on a machine.

An engine is as trusted as native code, and a runtime that reads one of another version or another GPU may fail in any
way. So `EngineInfo.check_fits` decides from the manifest alone, before a byte of the engine is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from ..errors import ArtifactError, TargetError
from ..files.records import Count, Record, Sha256, one_of, read_record
from .flavour import FLAVOURS

__all__ = ["DECODE", "PREFILL", "EngineInfo", "Profile", "Range"]

PREFILL, DECODE = "prefill", "decode"


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
        flavour: A name of `exaone_export.targets.flavour.FLAVOURS`.
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
