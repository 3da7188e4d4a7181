"""What the tests of artifacts share: a small one, and ways to spoil it."""

from __future__ import annotations

import os
from pathlib import Path

from exaone_export.artifact.manifest import SCHEMA_VERSION
from exaone_export.artifact.reader import MODEL_NAME, Manifest
from exaone_export.artifact.writer import ArtifactWriter
from exaone_export.model.spec import ModelSpec, RopeSpec

SPEC = ModelSpec(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    max_position_embeddings=64,
    layer_types=("sliding_attention", "full_attention"),
    sliding_window=8,
    rope=RopeSpec("default", 10_000.0),
)
MANIFEST = Manifest(
    schema_version=SCHEMA_VERSION,
    exaone_export_version="0.1.0",
    target="ort-cpu",
    precision="float32",
    model=SPEC.to_config(),
    source={"name": "tiny", "revision": None, "fingerprint": "0" * 64},
    recipe={"precision": "float32", "max_length": 64},
    layers=[{"index": 0, "window": 8}, {"index": 1, "window": 0}],
    cache={"max_length": 64, "capacities": [12, 64], "windows": [8, 0], "headrooms": [0, 0]},
    inputs=["input_ids"],
    outputs=["logits"],
    tool_versions={"onnx": "1.23.0"},
    files={},
)
FILES = {MODEL_NAME: b"graph" * 100, "model.onnx.data": bytes(range(256)) * 64, "config.json": b"{}"}


def fill(folder: Path, files: dict[str, bytes] | None = None) -> None:
    for name, data in (FILES if files is None else files).items():
        (folder / name).write_bytes(data)


def write(destination: Path, files: dict[str, bytes] | None = None, *, overwrite: bool = False) -> Manifest:
    with ArtifactWriter(destination, overwrite=overwrite) as staging:
        fill(staging.path, files)
        return staging.commit(MANIFEST)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def leftovers(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir() if path.name.startswith("."))


def as_link(path: Path) -> None:
    target = path.rename(path.with_name("elsewhere"))
    path.symlink_to(target)


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
