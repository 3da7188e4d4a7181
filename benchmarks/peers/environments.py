"""The peers' virtual environments: what each holds, to the version, and how it is made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = "exaone-export"
"""The environment that runs the comparison itself."""
REQUIREMENTS = {
    "onnxruntime-genai": (
        "torch==2.13.0",
        "transformers==5.23.0",
        "onnxruntime==1.32.0",
        "onnxruntime-genai==0.18.0",
        "onnx==1.23.2",
        "onnx-ir==1.1.0",
    ),
    "llama-cpp": ("llama-cpp-python==0.3.36", "gguf==0.19.0"),
    "openvino": (
        "torch==2.13.0",
        "transformers==4.57.6",  # the last that optimum-intel exports EXAONE 4 with
        "optimum==2.3.0",
        "optimum-intel==2.2.0",
        "openvino==2026.4.1",
        "openvino-genai==2026.4.1.0",
        "openvino-tokenizers==2026.4.1.0",
        "nncf==3.4.0",
    ),
}
UNWANTED = {"openvino": ("torchvision",)}
"""What comes along and fits no build of torch without CUDA."""
CMAKE_OPTIONS = {
    "llama-cpp": (
        "-DGGML_NATIVE=ON",  # the processor's own instructions, as a build from source has them by default
        # but for AMX: built by GCC 12, its `ldtilecfg` ends the process with a general protection fault
        "-DCMAKE_C_FLAGS=-mno-amx-int8",
        "-DCMAKE_CXX_FLAGS=-mno-amx-int8",
        "-DLLAVA_BUILD=OFF",
        "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_EXAMPLES=OFF",
        "-DLLAMA_BUILD_TOOLS=OFF",
        "-DLLAMA_BUILD_SERVER=OFF",
    )
}


def _install_project(folder: Path) -> None:
    """A copy as users install it; every module of an editable installation takes a millisecond more to import."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    copy = folder / PROJECT
    shutil.rmtree(copy, ignore_errors=True)
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--target", copy, ROOT], check=True)
    os.environ["PYTHONPATH"] = str(copy)


def prepare(name: str, folder: Path) -> Path:
    """Make the environment where it is missing or holds other versions; its Python.

    Raises:
        subprocess.CalledProcessError: Something could not be installed.
    """
    if name == PROJECT:
        _install_project(folder)
        return Path(sys.executable)
    python, marker = folder / name / "bin" / "python", folder / name / "installed.json"
    cmake = CMAKE_OPTIONS.get(name, ())
    wanted = [*REQUIREMENTS[name], *cmake]
    if marker.exists() and json.loads(marker.read_text()) == wanted:
        return python
    venv.create(folder / name, clear=True, with_pip=True)
    environment = {**os.environ, "CMAKE_ARGS": " ".join(cmake), "FORCE_CMAKE": "1"}
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # A wheel of the same version may be kept that was built otherwise.
    fresh = ["--no-cache-dir"] if cmake else []
    subprocess.run([*pip, "install", *fresh, *REQUIREMENTS[name]], check=True, env=environment)
    for package in UNWANTED.get(name, ()):
        subprocess.run([*pip, "uninstall", "--yes", package], check=True)
    marker.write_text(json.dumps(wanted))
    return python
