"""The kernels that TensorRT-RTX compiles for a GPU when an engine first runs, kept from one start to the next.

They are native code, so they lie in a folder that only this user can write, and a file that another user could have
written is not read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

from exaone_export.files.user_cache import UserCache

__all__ = ["KernelFile"]

# Behind the digest of what follows it: TensorRT-RTX's own checks are of the version and the GPU.
_MAGIC = b"exaone-export kernels 1\n"
_DIGEST_BYTES = 32
_MOST_BYTES = 1 << 30


class KernelFile:
    """The compiled kernels of one engine; where they cannot be read or kept, they are compiled again at every start.

    Args:
        engine_sha256: Of the engine.
        version: Of TensorRT-RTX.
        gpu: What tells one kind of GPU from another.
    """

    def __init__(self, engine_sha256: str, version: str, gpu: str) -> None:
        self._cache = UserCache("kernels")
        self._name = hashlib.sha256(json.dumps([engine_sha256, version, gpu]).encode()).hexdigest()
        self._known = b""

    def load(self, cache: Any) -> None:
        """Give an ``IRuntimeCache`` what is kept; a damaged file, or one of another user, is ignored."""
        with contextlib.suppress(OSError):
            content = self._read()
            digest, blob = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if hashlib.sha256(blob).digest() == digest and cache.deserialize(blob):
                self._known = digest

    def keep(self, cache: Any) -> None:
        """Write what an ``IRuntimeCache`` holds, unless it is what was read; the file is replaced in one step."""
        serialized = cache.serialize()
        if serialized is None:  # how TensorRT reports a failure
            return
        blob = bytes(memoryview(serialized))
        digest = hashlib.sha256(blob).digest()
        if digest == self._known or len(blob) > _MOST_BYTES:
            return
        with contextlib.suppress(OSError):
            self._cache.write(self._name, _MAGIC, digest, blob)
            self._known = digest

    def _read(self) -> bytes:
        content = self._cache.read(self._name, max_bytes=_MOST_BYTES + len(_MAGIC) + _DIGEST_BYTES)
        if not content.startswith(_MAGIC):
            raise OSError(f"{self._name} is of another version")
        return content[len(_MAGIC) :]
