"""Processor, memory, disk and GPUs."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from exaone_export.exporter.build.gpu import InstalledGpu, list_gpus
from exaone_export.planning.machine import available_memory, free_disk, logical_cores, total_memory
from exaone_export.planning.sizes import format_size
from exaone_export.runtime.sessions.threads import physical_cores

from .findings import Finding

__all__ = ["Machine", "read_machine"]

# Instruction sets that ONNX Runtime has kernels for, the fastest last.
_FEATURES = (
    "avx2",
    "f16c",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
)
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """What this machine has.

    Attributes:
        processor: Its name.
        features: Its instruction sets, those of `_FEATURES`.
        physical_cores: That this process may use.
        logical_cores: That this process may use.
        memory: Bytes, or what a container may use of them; None where Linux does not say.
        available: Bytes of it that are free or can be freed; None where Linux does not say.
        disk: Bytes that are free here.
        gpus: In the order in which CUDA programs are shown them.
    """

    processor: str
    features: tuple[str, ...]
    physical_cores: int
    logical_cores: int
    memory: int | None
    available: int | None
    disk: int
    gpus: tuple[InstalledGpu, ...]

    def to_findings(self) -> list[Finding]:
        """Findings for information only."""
        cores = f"{self.physical_cores} physical cores, {self.logical_cores} threads"
        findings = [
            Finding("python", None, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
            Finding("processor", None, f"{self.processor}, {cores}"),
            Finding(
                "instructions",
                None,
                " ".join(self.features) or "no instruction set that ONNX Runtime has special kernels for",
            ),
            Finding("memory", None, f"{_size(self.memory)}, {_size(self.available)} available"),
            Finding("disk", None, f"{_size(self.disk)} free in {Path.cwd()}"),
        ]
        if not self.gpus:
            findings.append(Finding("gpu", None, "no NVIDIA GPU that CUDA programs can see"))
        for index, gpu in enumerate(self.gpus):
            fact = f"{gpu.name}, {_size(gpu.memory)}, compute capability {gpu.compute_capability}"
            findings.append(Finding(f"gpu {index}", None, f"{fact}, driver for CUDA {gpu.driver}"))
        return findings


def read_machine() -> Machine:
    """Ask the system and the driver."""
    info = _read(_CPUINFO)
    flags = set((_first(r"(?m)^(?:flags|Features)\s*:\s*(.*)$", info) or "").split())
    return Machine(
        processor=_first(r"(?m)^model name\s*:\s*(.*)$", info) or platform.processor() or platform.machine(),
        features=tuple(feature for feature in _FEATURES if feature in flags),
        physical_cores=physical_cores(),
        logical_cores=logical_cores(),
        memory=total_memory(),
        available=available_memory(),
        disk=free_disk(Path.cwd()),
        gpus=list_gpus(),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found[1].strip() if found else None


def _size(count: int | None) -> str:
    return "unknown" if count is None else format_size(count)
