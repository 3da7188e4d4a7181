"""The same checkpoint, recipe and versions give the same bytes, wherever, whenever and under whatever hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from exaone_export.exporter import export as pipeline
from exaone_export.exporter.reference import tracing
from tests.conftest import ROOT, SaveModel

_EXPORT = """
    import sys, time
    real = time.time
    time.time = lambda: real() + 100 * 86_400
    from exaone_export.exporter.export import export
    export(sys.argv[1], sys.argv[2], max_length=64, precision="int4")
"""


def test_exports_in_two_folders_under_two_hash_seeds_on_two_days(
    save_model: SaveModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in this process, which has done other work, and one in a process of its own."""
    monkeypatch.setattr(pipeline, "trace", tracing.trace)  # None that tests share.
    model = save_model(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"], hidden_size=64)
    outs = [tmp_path / "here" / "b", tmp_path / "else" / "where" / "a"]
    pipeline.export(model, outs[0], max_length=64, precision="int4")
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", textwrap.dedent(_EXPORT), model, outs[1]]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    first, other = ({path.name: path.read_bytes() for path in out.iterdir()} for out in outs)
    assert {"model.onnx", "model.onnx.data", "exaone_export.json"} <= first.keys()
    assert other == first
