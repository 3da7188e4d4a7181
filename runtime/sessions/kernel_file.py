"""The kernels that TensorRT-RTX compiles for a GPU when an engine first runs, kept from one start to the next.

They are native code. So they lie in a folder that is this user's alone, and what anybody else could have written there
is not read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from exaone_export.files.durable import replacing
from exaone_export.files.opening import open_folder, open_itself

__all__ = ["KernelFile", "kernel_folder"]

# Behind the digest of what follows it: TensorRT-RTX's own checks are of the version and the GPU.
_MAGIC = b"exaone-export kernels 1\n"
_DIGEST_BYTES = 32
_MOST_BYTES = 1 << 30


def kernel_folder() -> Path | None:
    """``$XDG_CACHE_HOME/exaone-export/kernels``, by default below ``~/.cache``; None for a user without a home."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        cache = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / "exaone-export" / "kernels"


class KernelFile:
    """The compiled kernels of one engine; where they cannot be read or kept, they are compiled again at every start.

    Args:
        engine_sha256: Of the engine.
        version: Of TensorRT-RTX.
        gpu: What tells one kind of GPU from another.
    """

    def __init__(self, engine_sha256: str, version: str, gpu: str) -> None:
        self._folder = kernel_folder()
        self._name = hashlib.sha256(json.dumps([engine_sha256, version, gpu]).encode()).hexdigest()
        self._known = b""

    def load(self, cache: Any) -> None:
        """Give an ``IRuntimeCache`` what is kept; a damaged file, or one that is not this user's, is left alone."""
        with contextlib.suppress(OSError):
            content = self._read()
            digest, blob = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if hashlib.sha256(blob).digest() == digest and cache.deserialize(blob):
                self._known = digest

    def keep(self, cache: Any) -> None:
        """Write what an ``IRuntimeCache`` holds, unless it is what was read; the file is replaced in one step."""
        serialized = cache.serialize()
        if serialized is None:  # TensorRT's way to fail
            return
        blob = bytes(memoryview(serialized))
        digest = hashlib.sha256(blob).digest()
        if digest == self._known or len(blob) > _MOST_BYTES:
            return
        with contextlib.suppress(OSError):
            folder = self._open_folder(make=True)
            try:
                with replacing(self._name, folder=folder, mode=0o600) as file:
                    file.write(_MAGIC + digest + blob)
                self._known = digest
            finally:
                os.close(folder)

    def _read(self) -> bytes:
        folder = self._open_folder()
        try:
            descriptor = open_itself(self._name, folder=folder)
        finally:
            os.close(folder)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES + len(_MAGIC) + _DIGEST_BYTES:
                raise OSError(f"{self._name} is not a file of kernels")
            _check_private(status)
            if file.read(len(_MAGIC)) != _MAGIC:
                raise OSError(f"{self._name} is of another version")
            return file.read()

    def _open_folder(self, *, make: bool = False) -> int:
        if self._folder is None:
            raise FileNotFoundError("there is no home")
        if make:
            self._folder.parent.parent.mkdir(parents=True, exist_ok=True)
            for folder in (self._folder.parent, self._folder):
                folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = open_folder(self._folder)
        try:
            for folder in (self._folder.parent, self._folder):
                _check_private(folder.lstat())
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def _check_private(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("somebody else could have written it")
