"""What an artifact says of a TensorRT engine, and whether that engine can run on a machine.

An engine is as trusted as native code, and a runtime that reads one of another version or another GPU may fail in any
way. So `EngineInfo.check_fits` decides from the manifest alone, before a byte of the engine is read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ArtifactError, TargetError
from .flavour import FLAVOURS

__all__ = ["DECODE", "PREFILL", "EngineInfo", "Profile", "Range"]

PREFILL, DECODE = "prefill", "decode"


@dataclasses.dataclass(frozen=True)
class Range:
    """What one dimension may be: the least, the one that the engine is tuned for, and the most."""

    minimum: int
    optimum: int
    maximum: int


@dataclasses.dataclass(frozen=True)
class Profile:
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


@dataclasses.dataclass(frozen=True)
class EngineInfo:
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

    flavour: str
    version: str
    compute_capabilities: tuple[str, ...] | None
    driver: str | None
    profiles: tuple[Profile, ...]
    options: dict[str, Any]
    plugin: bool
    onnx: dict[str, str]

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
        capabilities = None if self.compute_capabilities is None else list(self.compute_capabilities)
        return {
            "flavour": self.flavour,
            "version": self.version,
            "compute_capabilities": capabilities,
            "driver": self.driver,
            "profiles": [
                {"name": profile.name}
                | {name: list(dataclasses.astuple(getattr(profile, name))) for name in _DIMENSIONS}
                for profile in self.profiles
            ],
            "options": dict(self.options),
            "plugin": self.plugin,
            "onnx": dict(self.onnx),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> EngineInfo:
        """Read `to_dict`'s form back, believing nothing of it.

        Raises:
            ArtifactError: A key is missing or unknown, or a value is none that a build writes.
        """
        _refuse_other_keys(value, _CHECKS.keys(), "the manifest's engine")
        for key, check in _CHECKS.items():
            if not check(value[key]):
                raise ArtifactError(f"the manifest's engine has a value of {key} that no build writes; {_AGAIN}")
        capabilities = value["compute_capabilities"]
        return cls(
            **dict(value)
            | {
                "compute_capabilities": None if capabilities is None else tuple(capabilities),
                "profiles": tuple(map(_read_profile, value["profiles"])),
            }
        )


_AGAIN = "build the engine again with this version."
_DIMENSIONS = ("batch", "sequence", "total_sequence", "kept")
_VERSION = re.compile(r"\d+(\.\d+){1,4}([a-z.+-][0-9a-z.+-]*)?")
_CAPABILITY = re.compile(r"\d{1,2}\.\d")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _read_profile(value: Mapping[str, Any]) -> Profile:
    return Profile(value["name"], *(Range(*value[name]) for name in _DIMENSIONS))


def _refuse_other_keys(value: Mapping[str, Any], known: Any, what: str) -> None:
    if differing := sorted(value.keys() ^ set(known)):
        problem = "an unknown key" if differing[0] in value else "no key"
        raise ArtifactError(f"{what} has {problem} {differing[0][:80]!r}; {_AGAIN}")


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and bool(pattern.fullmatch(value))


def _is_capabilities(value: Any) -> bool:
    return value is None or (isinstance(value, list) and bool(value) and all(map(_matches(_CAPABILITY), value)))


def _is_profiles(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(profile, dict) and profile.keys() == {"name", *_DIMENSIONS} for profile in value)
        and [profile["name"] for profile in value] == [PREFILL, DECODE]
        and all(_is_range(profile[name]) for profile in value for name in _DIMENSIONS)
    )


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(bound) is int for bound in value)
        and 1 <= value[0] <= value[1] <= value[2]
    )


def _is_hashes(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_matches(_SHA256), value.values()))


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "flavour": lambda value: isinstance(value, str) and value in FLAVOURS,
    "version": _matches(_VERSION),
    "compute_capabilities": _is_capabilities,
    "driver": lambda value: value is None or _matches(_VERSION)(value),
    "profiles": _is_profiles,
    "options": lambda value: isinstance(value, dict),
    "plugin": lambda value: isinstance(value, bool),
    "onnx": _is_hashes,
}
