"""A process that has the CPU runtime and nothing of the extra ``export``.

`make lean` runs these tests with the Python of such an environment, without `tests/conftest.py`, which needs PyTorch;
``LEAN_ARTIFACTS`` names the folder of the artifacts. In other runs those packages are hidden from the processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ARTIFACTS = os.environ.get("LEAN_ARTIFACTS")
HIDDEN = """
import sys
for name in ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors", "ml_dtypes", "matplotlib"):
    sys.modules[name] = None
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """``python("-m", "exaone_export", "doctor", cwd=…, stdin="")``."""
    hiding = tmp_path_factory.mktemp("hiding")
    (hiding / "sitecustomize.py").write_text("" if ARTIFACTS else HIDDEN)

    def run(*arguments: str | Path, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            input=stdin,
            env=os.environ | {"PYTHONPATH": str(hiding)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


@pytest.fixture
def command(python: Run, tmp_path: Path) -> Run:
    """``command("doctor", stdin="")`` in an empty folder."""
    return lambda *arguments, stdin="": python("-m", "exaone_export", *arguments, cwd=tmp_path, stdin=stdin)


@pytest.fixture(scope="session")
def artifact(request: pytest.FixtureRequest) -> Path:
    """The trained tiny checkpoint for the CPU."""
    if ARTIFACTS:
        return Path(ARTIFACTS) / "tiny"
    tiny = Path(__file__).parents[2] / "examples" / "exaone4-tiny"
    made: Path = request.getfixturevalue("export_artifact")(tiny, "ort-cpu", max_length=512)
    return made


@pytest.fixture(scope="session")
def classifier(request: pytest.FixtureRequest) -> Path:
    """A model that classifies texts, for the CPU."""
    if ARTIFACTS:
        return Path(ARTIFACTS) / "tiny-router"
    model = request.getfixturevalue("save_model")(head="sequence-classification", num_labels=3)
    made: Path = request.getfixturevalue("export_artifact")(model, "ort-cpu")
    return made
