"""Builds the stand-in libraries: every symbol that ONNX Runtime's provider asks of NVIDIA's, by name and version."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
# What the provider is linked to, and the source with what must do more than return 0.
SOURCES = {
    "libcudart.so.13": "runtime.c",
    "libcublas.so.13": "blas.c",
    "libcublasLt.so.13": "blas.c",
    "libcuda.so.1": None,
    "libcurand.so.10": None,
}
_DEFINED = re.compile(r"^[\w* ]+?\b(\w+)\(", re.MULTILINE)


def build(provider: Path, headers: Path, out: Path) -> Path:
    """Compile the libraries into ``out``; the folder to put into ``LD_LIBRARY_PATH``.

    Args:
        provider: ``libonnxruntime_providers_cuda.so``.
        headers: CUDA's ``include`` folder.
        out: Made where it is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    wanted = undefined_symbols(provider)
    for library, source in SOURCES.items():
        text = (HERE / source).read_text() if source is not None else ""
        missing = sorted(wanted[library] - set(_DEFINED.findall(text)))
        stubs, versions = out / f"{library}.c", out / f"{library}.map"
        stubs.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in missing))
        versions.write_text(f"{library} {{ global: *; }};\n")
        sources = [str(stubs), *([str(HERE / source)] if source is not None else [])]
        command = ["gcc", "-shared", "-fPIC", "-O1", "-w", f"-I{headers}", *sources, "-o", str(out / library)]
        subprocess.run([*command, f"-Wl,-soname,{library}", f"-Wl,--version-script={versions}"], check=True)
    return out


def undefined_symbols(provider: Path) -> dict[str, set[str]]:
    """What a shared object asks of each library of `SOURCES`, from ``nm``."""
    listing = subprocess.run(["nm", "-D", "--undefined-only", provider], check=True, capture_output=True, text=True)
    found: dict[str, set[str]] = defaultdict(set)
    for line in listing.stdout.splitlines():
        name, _, library = line.split()[-1].partition("@")
        if library in SOURCES:
            found[library].add(name)
        elif not library and name.startswith("cu"):
            found["libcurand.so.10" if name.startswith("curand") else "libcuda.so.1"].add(name)
    return found
