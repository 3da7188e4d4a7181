"""Which targets run here, and why the others do not."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from exaone_export.errors import TargetError
from exaone_export.extras import not_installed
from exaone_export.targets.provider import CPU_PROVIDER, CUDA_PROVIDER
from exaone_export.targets.target import TARGETS, get_target

from .findings import Finding, split_fix
from .machine import Machine
from .packages import INSTALL_EXPORT, Package, find_package

__all__ = ["check_graph", "check_target", "check_targets", "why_no_transformers"]

_ELSEWHERE = "use a machine with an NVIDIA GPU, or run: exaone-export export MODEL OUT --target ort-cpu"


def check_targets(machine: Machine, packages: list[Package]) -> list[Finding]:
    """A finding a target."""
    return [check_target(name, machine, packages) for name in TARGETS]


def check_target(name: str, machine: Machine, packages: list[Package]) -> Finding:
    """Whether artifacts of a target run here; also whether its engines can be built here for other machines."""
    flavour = get_target(name).flavour
    if flavour is None:
        return check_graph(name, machine, packages)
    package = find_package(packages, flavour.package, flavour.extra)
    if package.found is None or not package.fits:
        return Finding(name, False, _what_is_missing(package), package.install)
    builds = "can build engines here for other machines, but " if flavour.portable else ""
    made = f"{flavour.title} {package.found}"
    if (why := _why_no_gpu(machine)) is not None:
        return Finding(name, False, f"{made} {builds}{why}", _ELSEWHERE)
    capability = machine.gpus[0].compute_capability
    try:
        flavour.check_gpu(capability)
    except TargetError as error:
        detail, fix = split_fix(str(error))
        return Finding(name, False, f"{made} {builds}{detail}", fix)
    if not flavour.serves(capability):
        why = f"runs on compute capability {capability} only engines built for it by name"
        return Finding(
            name, False, f"{made} {why}", f"exaone-export build ARTIFACT OUT --compute-capability {capability}"
        )
    if (broken := _why_no_torch()) is not None:
        return Finding(name, False, f"{made} {builds}{broken[0]}", broken[1])
    return Finding(name, True, made)


def check_graph(name: str, machine: Machine, packages: list[Package]) -> Finding:
    """Whether ONNX Runtime runs a target's graphs here, those too that an engine can be made of."""
    provider = get_target(name).provider
    on_gpu = provider.device == "cuda"
    second = CPU_PROVIDER if on_gpu else CUDA_PROVIDER
    package = find_package(packages, provider.package, provider.extra)
    other = find_package(packages, second.package, second.extra)
    if not on_gpu and package.found is None and other.found is not None:
        package = _as_cpu(other, package)  # The build for CUDA runs graphs on the CPU too.
    if package.found is None or not package.fits:
        swap = f"pip uninstall {other.name}, then " if other.found is not None and other.name != package.name else ""
        return Finding(name, False, _what_is_missing(package), swap + package.install)
    made = f"ONNX Runtime {package.found}"
    if not on_gpu:
        return Finding(name, True, f"{made} on the CPU")
    if (why := _why_no_gpu(machine)) is not None:
        return Finding(name, False, f"{made}, but {why}", _ELSEWHERE)
    if (broken := _why_no_torch()) is not None:
        return Finding(name, False, f"{made}, but {broken[0]}", broken[1])
    return Finding(name, True, f"{made} on {machine.gpus[0].name}")


def why_no_transformers() -> tuple[str, str] | None:
    """Which packages of transformers' interface are not installed, and what installs them; None where all are."""
    gone = not_installed("torch", "transformers")
    return (f"{' and '.join(gone)} {'are' if gone[1:] else 'is'} not installed", INSTALL_EXPORT) if gone else None


def _as_cpu(found: Package, wanted: Package) -> Package:
    from packaging.specifiers import SpecifierSet

    fits = found.found is not None and SpecifierSet(wanted.wanted).contains(found.found, prereleases=True)
    return Package(found.name, found.extra, wanted.wanted, found.found, fits)


def _what_is_missing(package: Package) -> str:
    if package.found is None:
        return f"{package.name} is not installed"
    return f"{package.name} is {package.found}, {package.wanted} is required"


def _why_no_gpu(machine: Machine) -> str | None:
    return None if machine.gpus else "there is no NVIDIA GPU here, or no driver"


def _why_no_torch() -> tuple[str, str] | None:
    """Why PyTorch cannot use the GPU, told from the installed files, which takes no seconds of loading it."""
    if (missing := why_no_transformers()) is not None:
        return missing
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:  # a folder of that name
        return "PyTorch is not installed", "pip install --force-reinstall torch"
    text = Path(spec.origin).with_name("version.py").read_text()
    if re.search(r"(?m)^cuda\b[^=]*=\s*['\"]", text) is None:
        return "PyTorch is installed without CUDA", "pip install --force-reinstall torch"
    return None
