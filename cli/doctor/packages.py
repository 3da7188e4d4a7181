"""What is installed, against what this package's own metadata asks for."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass

from exaone_export.extras import EXPORT, EXPORT_MODULES, not_installed

from .findings import Finding

__all__ = ["INSTALL_EXPORT", "Package", "check_packages", "find_package", "whether_it_exports"]

_DISTRIBUTION = "exaone-export"
INSTALL_EXPORT = f"pip install '{_DISTRIBUTION}[{EXPORT}]'"
_EXTRAS = (EXPORT, "cpu", "cuda", "rtx", "tensorrt", "polygraphy", "plot", "serve", "ray")
# The commands that the extra is for, without those that say in a sentence what they leave out.
_EXPORTS = "export, calibrate, build, predict, parity, eval, bench, random-checkpoint, and running on a GPU"
# Where a distribution's module has another name than the distribution.
_MODULES = {"onnx-ir": "onnx_ir", "onnxruntime-gpu": "onnxruntime", "tensorrt-rtx": "tensorrt_rtx"}


@dataclass(frozen=True)
class Package:
    """A distribution that this package can use.

    Attributes:
        name: What pip calls it.
        extra: The extra that installs it; None where it is required.
        wanted: The supported versions, ``">=1.32"`` or ``">=5.23,<5.25"``; empty for any. An upper end is where tests
            end.
        found: The version that is installed; None where it cannot be imported.
        fits: Whether that is one of the wanted ones.
    """

    name: str
    extra: str | None
    wanted: str
    found: str | None
    fits: bool

    @property
    def is_broken(self) -> bool:
        """Whether what needs it fails: a package of ``export`` that is there in another version serves no one."""
        return not self.fits and (self.extra is None or (self.extra == EXPORT and self.found is not None))

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install '{_DISTRIBUTION}{f'[{self.extra}]' if self.extra else ''}'"

    def to_finding(self) -> Finding:
        """A package that is not installed is an error only where it is required."""
        wanted = f" ({self.wanted} is required)" if self.wanted else ""
        fix = f"pip install '{self.name}{self.wanted}'"
        if self.found is None:
            what = "not installed" if self.extra is None else f"not installed (optional, extra {self.extra})"
            return Finding(self.name, *((False, what, fix) if self.extra is None else (None, what, None)))
        return Finding(self.name, self.fits, f"{self.found}{'' if self.fits else wanted}", None if self.fits else fix)


def check_packages() -> list[Package]:
    """All that this package's metadata names, in its order; none where it is not installed as a distribution."""
    try:
        wanted = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    from packaging.requirements import Requirement

    found = []
    for requirement in map(Requirement, wanted):
        if requirement.name == _DISTRIBUTION:  # an extra that brings another one along
            continue
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            extra = None
        else:
            extra = next((extra for extra in _EXTRAS if marker.evaluate({"extra": extra})), None)
            if extra is None:
                continue
        version = _version(requirement.name)
        fits = version is not None and requirement.specifier.contains(version, prereleases=True)
        # The lower end first: ">" sorts behind "<".
        specifier = ",".join(sorted(map(str, requirement.specifier), reverse=True))
        found.append(Package(requirement.name, extra, specifier, version, fits))
    return found


def whether_it_exports() -> Finding:
    """Whether the extra ``export`` is installed, and what it is for."""
    gone = not_installed(*EXPORT_MODULES)
    if not gone:
        return Finding(f"extra {EXPORT}", True, f"for {_EXPORTS}")
    what = "not installed" if len(gone) == len(EXPORT_MODULES) else f"{', '.join(gone)} not installed"
    return Finding(f"extra {EXPORT}", None, f"{what}; needed for {_EXPORTS}", INSTALL_EXPORT)


def find_package(packages: list[Package], name: str, extra: str) -> Package:
    """One of `check_packages`, or what can be told without the versions that are required."""
    for package in packages:
        if package.name == name:
            return package
    version = _version(name)
    return Package(name, extra, "", version, version is not None)


def _version(distribution: str) -> str | None:
    """The version, if the module can be found as well; nothing is imported."""
    module = _MODULES.get(distribution, distribution.replace("-", "_"))
    if module in sys.modules and sys.modules[module] is None:  # hidden on purpose
        return None
    try:
        if importlib.util.find_spec(module) is None:
            return None
        return importlib.metadata.version(distribution)
    except (ImportError, ValueError, importlib.metadata.PackageNotFoundError):
        return None
