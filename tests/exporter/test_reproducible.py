"""The same checkpoint, recipe and versions give the same bytes, wherever, whenever and under whatever hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.conftest import ROOT, SaveModel

_EXPORTS = """
    import sys, time
    real = time.time
    time.time = lambda: real() + float(sys.argv[1])
    from exaone_export.exporter.export import export
    for out in sys.argv[3:]:
        export(sys.argv[2], out, max_length=64, precision="int4")
"""


def export_with(seed: str, later: float, model: Path, *outs: Path) -> None:
    """In a process of its own, whose clock is some seconds ahead; every export makes its own graph."""
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", textwrap.dedent(_EXPORTS), str(later), str(model), *map(str, outs)]
    subprocess.run(command, check=True, env=environment, cwd=outs[0].parent)


def test_exports_in_two_folders_under_two_hash_seeds_on_two_days(save_model: SaveModel, tmp_path: Path) -> None:
    """Two in one process, and one in another."""
    model = save_model(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"], hidden_size=64)
    outs = [tmp_path / "here" / "a", tmp_path / "here" / "b", tmp_path / "else" / "where" / "a"]
    for out in outs:
        out.parent.mkdir(parents=True, exist_ok=True)
    export_with("1", 0, model, *outs[:2])
    export_with("2", 100 * 86_400, model, *outs[2:])
    first, *others = ({path.name: path.read_bytes() for path in out.iterdir()} for out in outs)
    assert {"model.onnx", "model.onnx.data", "exaone_export.json"} <= first.keys()
    assert all(other == first for other in others)
