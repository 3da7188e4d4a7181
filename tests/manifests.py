"""Manifests that somebody has written who knows the form: every checksum holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exaone_export.artifact.manifest import MANIFEST_NAME


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda _: None) -> None:
    """Change the manifest's content and seal it again."""
    content = json.loads((folder / MANIFEST_NAME).read_bytes())
    del content["manifest_sha256"]
    change(content)
    content["manifest_sha256"] = hashlib.sha256(_dump(content)).hexdigest()
    (folder / MANIFEST_NAME).write_bytes(_dump(content))


def put(folder: Path, name: str, data: bytes) -> None:
    """Put a file into an artifact, and into its manifest."""
    (folder / name).write_bytes(data)
    record = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: record}))


def _dump(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()
