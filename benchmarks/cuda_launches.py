"""What ONNX Runtime's CUDA provider launches for a step of an `ort-cuda` artifact, told without a GPU.

    python benchmarks/cuda_launches.py ARTIFACT [--json]

The provider itself loads the graph, places its nodes, adds copies and launches kernels; the CUDA libraries under it are
stand-ins that record what is requested and compute nothing. So it tells whether every node has a kernel, how many
launches a step takes and of what, whether anything is copied between host and device in it, and how often a step runs
when it is captured as a graph. It tells no numbers and no times. onnxruntime-gpu and CUDA's headers (260 MB) are
installed under build/cuda-launches; gcc and binutils are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from cuda_stand_in import libraries

from exaone_export.artifact.reader import Artifact

ROOT = Path(__file__).parents[1]
PACKAGES = ("onnxruntime-gpu==1.31.1", "nvidia-cuda-runtime==13.*", "nvidia-cuda-crt==13.*")
_COPIES = ("copy to host", "copy to device")


def main() -> None:
    """Prepare, run the steps, and print what they launched."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "cuda-launches", help="where packages go")
    options = parser.parse_args()
    artifact = Artifact.open(options.artifact, verify=False)
    found = launches(prepare(options.work), artifact.graph_path, artifact.manifest.cache["max_length"])
    if options.json:
        print(json.dumps(found, indent=2))
        return
    decode = found["decode"]
    print(f"a decode step: {decode['launches']} launches, {decode['copies']} copies between host and device")
    for name, count in decode["by kernel"].items():
        print(f"{count:6d}  {name}")
    print(f"the call that captures it runs it {found['capture']['runs']} times; a replay launches one graph")


def prepare(work: Path) -> dict[str, str]:
    """Install the packages and build the libraries where they are missing; the environment to run in."""
    site, built = work / "site", work / "libraries"
    if not site.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", site, *PACKAGES], check=True)
    provider = site / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"
    libraries.build(provider, next(site.glob("nvidia/*/include")), built)
    return {**os.environ, "PYTHONPATH": str(site), "LD_LIBRARY_PATH": str(built)}


def launches(environment: dict[str, str], graph: Path, max_length: int) -> dict[str, Any]:
    """By step, what was launched and copied.

    Raises:
        subprocess.CalledProcessError: The graph cannot be loaded or run; what ONNX Runtime said stands above.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        command = [sys.executable, libraries.HERE / "steps.py", graph, str(max_length)]
        subprocess.run(command, check=True, env={**environment, "CUDA_STAND_IN_LOG": str(log)})
        names = subprocess.run(["c++filt"], check=True, stdin=log.open(), capture_output=True, text=True).stdout
    steps: dict[str, list[str]] = {}
    for line in names.splitlines():
        if line.startswith("=== "):
            steps[line.removeprefix("=== ")] = []
        elif steps:
            steps[next(reversed(steps))].append(line)
    found: dict[str, Any] = {name: _counted(lines) for name, lines in steps.items()}
    kernels = found["decode"]["launches"]
    found["capture"]["runs"] = round(found["capture"]["launches"] / kernels)
    return found


def _counted(lines: list[str]) -> dict[str, Any]:
    kernels = Counter(_short(line) for line in lines if line not in _COPIES and not line.startswith("=="))
    return {
        "launches": sum(kernels.values()),
        "copies": sum(line in _COPIES for line in lines),
        "graph launches": lines.count("== graph launch"),
        "by kernel": dict(kernels.most_common()),
    }


def _short(name: str) -> str:
    """A kernel's name and types, without its arguments."""
    return re.sub(r"\(.*", "", name.removeprefix("void ").replace("onnxruntime::", ""))[:100]


if __name__ == "__main__":
    main()
