"""The peers' virtual environments: what each holds, to the version, and how it is made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

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
LLAMA_CPP_BUILD = " ".join(
    f"-D{name}={value}"
    for name, value in (
        ("GGML_NATIVE", "ON"),  # the processor's own instructions, as a build from source has them by default
        ("LLAVA_BUILD", "OFF"),
        ("LLAMA_BUILD_TESTS", "OFF"),
        ("LLAMA_BUILD_EXAMPLES", "OFF"),
        ("LLAMA_BUILD_TOOLS", "OFF"),
        ("LLAMA_BUILD_SERVER", "OFF"),
    )
)


def prepare(name: str, folder: Path) -> Path:
    """Make the environment where it is missing or holds other versions; its Python.

    Raises:
        subprocess.CalledProcessError: Something could not be installed.
    """
    if name == PROJECT:
        return Path(sys.executable)
    python, marker = folder / name / "bin" / "python", folder / name / "installed.json"
    wanted = list(REQUIREMENTS[name])
    if marker.exists() and json.loads(marker.read_text()) == wanted:
        return python
    venv.create(folder / name, clear=True, with_pip=True)
    environment = {**os.environ, "CMAKE_ARGS": LLAMA_CPP_BUILD, "FORCE_CMAKE": "1"}
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *wanted], check=True, env=environment)
    for package in UNWANTED.get(name, ()):
        subprocess.run([*pip, "uninstall", "--yes", package], check=True)
    marker.write_text(json.dumps(wanted))
    return python
