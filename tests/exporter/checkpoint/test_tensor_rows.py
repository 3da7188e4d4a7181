"""A tensor read in parts is the tensor, and a file that changed is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from exaone_export.errors import CheckpointError
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from tests.conftest import SaveModel

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def model(save_model: SaveModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(save_model(), tmp_path / "model"))


@pytest.mark.parametrize("rows", [1, 7, 48, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_parts_are_the_tensor(rows: int, dtype: str, save_model: SaveModel) -> None:
    checkpoint = Checkpoint.open(save_model(dtype=dtype))
    for name in checkpoint.tensors:
        parts = list(checkpoint.read_rows(name, rows))
        assert torch.equal(torch.cat(parts), checkpoint.read(name))
        assert all(len(part) == rows for part in parts[:-1])
        assert checkpoint.shape(name) == tuple(checkpoint.read(name).shape)


def test_a_value_that_is_not_finite_is_named_by_its_place_in_the_whole(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors[NAME][21, 5] = float("inf")
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    parts = Checkpoint.open(model).read_rows(NAME, 10)
    assert len(next(parts)) == len(next(parts)) == 10
    with pytest.raises(CheckpointError, match=r"up_proj\.weight in model\.safetensors is inf at \[21, 5\]"):
        next(parts)


def _shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _rename_a_tensor(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"up_proj", b"pu_proj"))


@pytest.mark.parametrize("change", [_shorten, _rename_a_tensor, Path.unlink])
def test_a_file_that_changed_is_refused(change: object, model: Path) -> None:
    checkpoint = Checkpoint.open(model)
    change(model / "model.safetensors")  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=r"changed while it was read|cannot be read"):
        list(checkpoint.read_rows(NAME, 10))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_changed_below_its_header_is_refused(replaced: bool, model: Path) -> None:
    """By every way of reading it, also where size and time are as they were."""
    shard, checkpoint = model / "model.safetensors", Checkpoint.open(model)
    parts = checkpoint.read_rows(NAME, 1)
    next(parts)
    seen, data = shard.stat(), shard.read_bytes()
    (shard if not replaced else shard.with_name("made")).write_bytes(data[:-1] + b"\1")
    if replaced:
        os.utime(shard.with_name("made"), ns=(seen.st_atime_ns, seen.st_mtime_ns))
        shard.with_name("made").replace(shard)
    else:
        with pytest.raises(CheckpointError, match="changed while it was read; run the command again"):
            next(parts)
    for read in (
        lambda: list(checkpoint.read_rows(NAME, 10)),
        lambda: checkpoint.read(NAME),
        checkpoint.fingerprint,
        checkpoint.check_unchanged,
        checkpoint.check_weights_unchanged,
    ):
        with pytest.raises(CheckpointError, match=r"model\.safetensors changed while it was read; run the command"):
            read()


def test_a_file_that_is_cut_while_it_is_read_is_refused(model: Path) -> None:
    parts = Checkpoint.open(model).read_rows(NAME, 1)
    next(parts)
    os.truncate(model / "model.safetensors", 5000)
    with pytest.raises(CheckpointError, match="changed while it was read; run the command again"):
        list(parts)


def test_an_unknown_name_is_refused(model: Path) -> None:
    for call in (Checkpoint.open(model).shape, lambda name: list(Checkpoint.open(model).read_rows(name, 1))):
        with pytest.raises(CheckpointError, match=r"has no tensor 'model\.bias'"):
            call("model.bias")
