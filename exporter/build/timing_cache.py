"""The file of TensorRT's kernel timings, so that the next build measures only new kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exaone_export.errors import TargetError
from exaone_export.files import strict_json
from exaone_export.files.durable import replacing

_MOST_BYTES = 1 << 30  # A build of a large model leaves some megabytes.


@contextlib.contextmanager
def timing_cache(config: Any, file: Path | None) -> Iterator[None]:
    """Use the timings in ``file`` for builds in this context, and write them back at its end.

    Args:
        config: The `IBuilderConfig`.
        file: It may be missing; None for no cache.

    Raises:
        TargetError: The file holds no timings of this version and GPU, or cannot be read or written.
    """
    if file is None:
        yield
        return
    try:
        content = b""
        if file.exists():
            content = strict_json.read_bytes(file, max_bytes=_MOST_BYTES, error=TargetError)
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, False):
            raise TargetError(
                f"{file} is not a timing cache of this TensorRT and GPU; pass another file as --timing-cache."
            )
        yield
        with replacing(file) as written:
            written.write(memoryview(cache.serialize()))
    except OSError as cause:
        raise TargetError(
            f"{file} cannot be used ({cause.strerror}); pass a file in a writable folder as --timing-cache."
        ) from cause
