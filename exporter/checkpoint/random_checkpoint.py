"""Checkpoints of random weights in published shapes: for size, speed and memory, which do not ask for trained ones.

Tensors are drawn and written in slices, so that a checkpoint of 60 GiB takes a few hundred MiB of memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch

from exaone_export.errors import CheckpointError, ConfigError
from exaone_export.files.durable import sync
from exaone_export.files.staged_folder import StagedFolder, bytes_left_behind
from exaone_export.model.dtypes import DTYPES, FLOATS
from exaone_export.model.published import PUBLISHED
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import EMBEDDING_TENSOR, expected_tensors, projection_sources
from exaone_export.planning.machine import free_disk
from exaone_export.planning.sizes import format_size
from exaone_export.progress import Progress, Step
from exaone_export.targets.precision import canonical

from .opening import TOKENIZER_PATTERNS
from .tensors import saved_name
from .weight_files import INDEX_NAME, WEIGHTS_NAME

__all__ = ["PUBLISHED", "write_random_checkpoint"]

_SLICE = 1 << 22  # Elements drawn at a time; part of what a seed means.
_VECTOR_SPREAD = 0.1  # Standard deviation of norms and biases.
_STRIDE_BYTES, _DENSE_BYTES = 256 << 10, 16 << 10
"""Of a sparse tensor, how far apart parts are written, and how long each is."""
_SPARSE_SLICE = 1 << 18  # Elements that its parts are taken from, in turn.


def write_random_checkpoint(
    out: str | Path,
    spec: ModelSpec,
    *,
    seed: int = 0,
    dtype: str = "bfloat16",
    shard_bytes: int = 5_000_000_000,
    embedding_std: float | None = None,
    tokenizer_from: str | Path | None = None,
    sparse: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a checkpoint in Hugging Face form; it appears whole or not at all.

    A product is drawn with a variance of one over its inputs, a norm's weight near 1 and a head's bias near 0, so that
    activations keep their size through any number of layers. A tensor depends on the seed and its own name alone: fewer
    layers or other shards leave it as it is.

    Args:
        out: The folder to make; an empty one may stand there.
        spec: The architecture, of `PUBLISHED` or any other.
        seed: Equal seeds give equal files.
        dtype: ``bfloat16``, ``float16`` or ``float32``.
        shard_bytes: The most weights in one file; one larger tensor gets a file of its own.
        embedding_std: Standard deviation of the word embeddings. By default 1, so that the first sublayers do not
            drown them, and where logits are made with them ``hidden_size ** -0.5``, so that logits have unit size and a
            token does not predict itself.
        tokenizer_from: A folder whose tokenizer and chat template are copied.
        sparse: Whether of every product's weight one sixteenth is written, and the rest is a hole in the file, which
            reads as zeros and takes no disk. Word embeddings, the head and norms are written whole.
        progress: Told how many bytes are written.

    Returns:
        The folder.

    Raises:
        CheckpointError: Something stands at ``out``, the disk is too small, or ``tokenizer_from`` has no tokenizer.
        ConfigError: ``dtype``, ``shard_bytes`` or ``embedding_std`` is out of range.
    """
    dtype = canonical(dtype)
    plan = _plan(spec, dtype, shard_bytes, embedding_std, sparse)
    sidecars = _tokenizer_files(tokenizer_from)
    writer = _CheckpointWriter(out)
    writer.check()
    _check_disk(writer.destination, plan.disk_bytes)
    with writer as staging, staging.refused():
        _write_shards(staging.path, plan, seed, Step(progress, "write", plan.num_bytes))
        _write_json(staging.path / "config.json", dataclasses.replace(spec, dtype=dtype).to_config())
        _write_json(staging.path / "generation_config.json", _generation_config(spec))
        for path in sidecars:
            shutil.copyfile(path, staging.path / path.name)
        for path in staging.path.iterdir():
            sync(path)
        staging.put_in_place()
    return writer.destination


class _CheckpointWriter(StagedFolder):
    noun, error = "checkpoint", CheckpointError

    def check_content(self, entries: set[str]) -> None:
        raise CheckpointError(f"{self.destination} exists and is not an empty folder; choose another destination.")


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Shapes of the tensors of each shard, and how they are drawn."""

    spec: ModelSpec
    shards: list[dict[str, tuple[int, ...]]]
    dtype: torch.dtype
    dtype_name: str
    embedding_std: float
    holes: frozenset[str]

    def is_sparse(self, name: str) -> bool:
        """Whether most of a tensor is a hole."""
        return name in self.holes

    @property
    def disk_bytes(self) -> int:
        """What the tensors take of the disk."""
        return sum(
            math.prod(shape) * self.dtype.itemsize // (_STRIDE_BYTES // _DENSE_BYTES if self.is_sparse(name) else 1)
            for shard in self.shards
            for name, shape in shard.items()
        )

    @property
    def num_bytes(self) -> int:
        return sum(math.prod(shape) for shard in self.shards for shape in shard.values()) * self.dtype.itemsize


def _plan(spec: ModelSpec, dtype: str, shard_bytes: int, embedding_std: float | None, sparse: bool) -> _Plan:
    if dtype not in FLOATS:
        raise ConfigError(f"dtype is {dtype!r}, and only {', '.join(FLOATS)} can be written; pass one of these.")
    if shard_bytes < 1:
        raise ConfigError(f"the shard size is {shard_bytes} bytes; pass a positive one.")
    if embedding_std is None:
        embedding_std = spec.hidden_size**-0.5 if spec.shares_embedding else 1.0
    if not 0 < embedding_std < 1e3:
        raise ConfigError(f"the embeddings' standard deviation is {embedding_std}; pass one between 0 and 1000.")
    torch_dtype, name = getattr(torch, dtype), str(DTYPES[dtype].safetensors)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = shard_bytes
    for tensor, shape in expected_tensors(spec).items():
        size = math.prod(shape) * torch_dtype.itemsize
        if shards[-1] and size > room:
            shards.append({})
            room = shard_bytes
        shards[-1][tensor] = shape
        room -= size
    holes = frozenset(projection_sources(spec) if sparse else ())
    return _Plan(spec, shards, torch_dtype, name, embedding_std, holes)


def _tokenizer_files(folder: str | Path | None) -> list[Path]:
    if folder is None:
        return []
    found = {path for pattern in TOKENIZER_PATTERNS for path in Path(folder).expanduser().glob(pattern)}
    if not found:
        raise CheckpointError(f"{folder} has no tokenizer files; give a folder that has a tokenizer.json.")
    return sorted(found)


def _check_disk(destination: Path, num_bytes: int) -> None:
    free = free_disk(destination) + bytes_left_behind(destination)
    if num_bytes > free:
        raise CheckpointError(
            f"{destination} needs {format_size(num_bytes)} and {format_size(free)} are free there; choose another "
            f"destination, or fewer layers."
        )


def _generation_config(spec: ModelSpec) -> dict[str, object]:
    config = spec.to_config()
    return {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


# Weights


def _write_shards(folder: Path, plan: _Plan, seed: int, written: Step) -> None:
    weight_map = {}
    for number, shapes in enumerate(plan.shards, start=1):
        single = len(plan.shards) == 1
        name = WEIGHTS_NAME if single else f"model-{number:05d}-of-{len(plan.shards):05d}.safetensors"
        with (folder / name).open("wb") as file:
            _write_header(file, shapes, plan)
            for tensor, shape in shapes.items():
                weight_map[saved_name(tensor, plan.spec.head)] = name
                if plan.is_sparse(tensor):
                    values = next(_draw(tensor, shape, seed, plan.embedding_std, _SPARSE_SLICE))
                    _write_sparse(file, values.to(plan.dtype), math.prod(shape) * plan.dtype.itemsize)
                    written(math.prod(shape) * plan.dtype.itemsize)
                    continue
                for part in _draw(tensor, shape, seed, plan.embedding_std):
                    file.write(part.to(plan.dtype).view(torch.uint8).numpy().data)
                    written(part.numel() * plan.dtype.itemsize)
            file.truncate()  # where the last tensor ends in a hole
    if len(plan.shards) > 1:
        _write_json(folder / INDEX_NAME, {"metadata": {"total_size": plan.num_bytes}, "weight_map": weight_map})


def _write_sparse(file: BinaryIO, values: torch.Tensor, length: int) -> None:
    """Write parts of one slice at a stride, with holes between them."""
    start, data = file.tell(), values.view(torch.uint8).numpy().data
    parts = [data[begin : begin + _DENSE_BYTES] for begin in range(0, len(data), _DENSE_BYTES)]
    for number, at in enumerate(range(0, length, _STRIDE_BYTES)):
        file.seek(start + at)
        file.write(parts[number % len(parts)][: length - at])
    file.seek(start + length)


def _write_header(file: BinaryIO, shapes: Mapping[str, tuple[int, ...]], plan: _Plan) -> None:
    """Write the safetensors header; the library itself would want the whole shard in memory."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * plan.dtype.itemsize
        header[saved_name(name, plan.spec.head)] = {
            "dtype": plan.dtype_name,
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # The data starts aligned.
    file.write(len(text).to_bytes(8, "little") + text)


def _draw(
    name: str, shape: tuple[int, ...], seed: int, embedding_std: float, at_once: int = _SLICE
) -> Iterator[torch.Tensor]:
    """The tensor's values in row-major order, float32, a slice at a time."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    mean, std = _distribution(name, shape, embedding_std)
    remaining = math.prod(shape)
    while remaining:
        part = torch.randn(min(remaining, at_once), generator=generator)
        yield part.mul_(std).add_(mean)
        remaining -= part.numel()


def _distribution(name: str, shape: tuple[int, ...], embedding_std: float) -> tuple[float, float]:
    if len(shape) == 1:
        return (0.0 if name.endswith("bias") else 1.0), _VECTOR_SPREAD
    if name == EMBEDDING_TENSOR:
        return 0.0, embedding_std
    return 0.0, shape[1] ** -0.5
