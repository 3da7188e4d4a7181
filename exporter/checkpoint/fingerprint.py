"""What tells one training of a model from another, at the cost of a few megabytes of reading."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from exaone_export.errors import CheckpointError

from .safetensors_file import SafetensorsHeader

__all__ = ["fingerprint"]

# What is taken of each tensor: enough to tell two trainings apart, little enough for 64 GB in a second.
_SAMPLE_BYTES = 4096


def fingerprint(config: bytes, shards: Sequence[SafetensorsHeader]) -> str:
    """Sha256 of a config, and of every shard's name, size, header and the first 4 KiB of each tensor.

    Raises:
        CheckpointError: A shard changed since its header was read.
    """
    digest = hashlib.sha256(config)
    for shard in shards:
        digest.update(f"\n{shard.path.name} {shard.file_size}\n".encode())
        digest.update(shard.raw)
        for sample in _samples(shard):
            digest.update(sample)
    return digest.hexdigest()


def _samples(shard: SafetensorsHeader) -> Iterator[bytes]:
    try:
        with shard.path.open("rb") as file:
            shard.check_unchanged(file.fileno())
            for tensor in sorted(shard.tensors.values(), key=lambda tensor: tensor.offset):
                file.seek(tensor.offset)
                yield file.read(min(_SAMPLE_BYTES, tensor.num_bytes))
    except OSError as cause:
        raise CheckpointError(f"{shard.path} cannot be read ({cause.strerror}); run the command again.") from cause
