"""What every target says of itself, so that nobody infers it."""

from __future__ import annotations

import re
from pathlib import Path

import exaone_export.targets
from exaone_export.targets.target import TARGETS

ROOT = Path(exaone_export.targets.__file__).parents[2]


def test_every_target_says_where_it_runs_and_what_builds_its_engine() -> None:
    found = {
        target.name: (
            target.device,
            target.provider.device,
            target.flavour.name if target.flavour else None,
            target.needs_plugin,
        )
        for target in TARGETS.values()
    }
    assert found == {
        "onnx": ("cpu", "cpu", None, False),
        "ort-cpu": ("cpu", "cpu", None, False),
        "ort-cuda": ("cuda", "cuda", None, False),
        "tensorrt": ("cuda", "cpu", "tensorrt", False),
        "tensorrt-rtx": ("cuda", "cpu", "tensorrt_rtx", False),
        "tensorrt-plugin": ("cuda", "cpu", "tensorrt", True),
    }


def test_nobody_compares_the_name_of_a_target_or_a_provider() -> None:
    compared = re.compile(
        r"""(==|!=|\bin\b) *\(?["'](ort-c|tensorrt|onnx["']|C[A-Z]+ExecutionProvider)|startswith\(["'](ort|tensorrt)"""
    )
    rooms = ("calibration", "cli", "exaone_export", "exporter", "graphs", "runtime")
    paths = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    assert len(paths) > 100
    assert not [
        f"{path.name}: {line}" for path in paths for line in path.read_text().splitlines() if compared.search(line)
    ]
