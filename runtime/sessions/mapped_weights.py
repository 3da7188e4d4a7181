"""A weight file that a session reads where it is mapped, and whose pages the process need not hold.

ONNX Runtime packs most weights into memory of its own and reads the others where they lie. Of what it has packed it
unmaps nothing before all is packed, and of the embedding a step reads a row a token, but Linux makes everything around
a row resident that lies in the same folio of the page cache, up to 2 MiB. Releasing the pages gives that memory back;
they stay in the page cache, where the next look-up finds them.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exaone_export.errors import ArtifactError

__all__ = ["MappedWeights"]

# What a smaller file takes is not worth a call in every step.
_SMALLEST_BYTES = 64 << 20
# While weights are packed, at about 1 GB/s: how much of the file is resident.
_SECONDS = 0.05
# Each makes up to a folio resident; what all steps read, such as scales, is mapped again behind a release.
_TOKENS = 32


class MappedWeights:
    """A file, mapped to be read only; it must outlive every session that it was given to, and every step of it.

    Args:
        path: The file; it is not empty.

    Raises:
        ArtifactError: It cannot be mapped.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as cause:
            raise ArtifactError(f"{path} cannot be mapped into memory ({cause}); check its permissions.") from cause
        self._tokens = 0
        self._is_large = len(self._map) >= _SMALLEST_BYTES and hasattr(mmap, "MADV_DONTNEED")

    def give(self, options: Any) -> None:
        """Let a session of these ``onnxruntime.SessionOptions`` take the file's tensors from here, without a copy."""
        options.add_external_initializers_from_files_in_memory([self._name], [self._map], [len(self._map)])
        options.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")

    def release(self) -> None:
        """Make no page of it resident, unless the process has locked its memory; reading one maps it again."""
        if self._is_large:
            with contextlib.suppress(OSError):
                self._map.madvise(mmap.MADV_DONTNEED)

    def release_after(self, tokens: int) -> None:
        """Release the pages if so many tokens were looked up since the last time."""
        self._tokens += tokens
        if self._tokens >= _TOKENS:
            self._tokens = 0
            self.release()

    @contextlib.contextmanager
    def releasing(self) -> Iterator[None]:
        """Release pages again and again while the block reads the whole file."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(_SECONDS):
                self.release()

        thread = threading.Thread(target=run, name="exaone-weights", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.release()
