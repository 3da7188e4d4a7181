"""The manifest of an artifact: what it was made from, what it holds, and the hash of every file.

Equal exports give equal manifests: keys are sorted and there is no time or path in it. It holds a checksum of all
its other bytes, so that a flipped bit in it is detected too.
"""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from ..errors import ArtifactError
from ..files import strict_json
from ..files.containment import status_of
from ..files.names import is_plain_name
from ..files.records import Record, Sha256, Size, read_record

__all__ = [
    "MANIFEST_NAME",
    "MAX_MANIFEST_BYTES",
    "SCHEMA_VERSION",
    "SIGNATURE_NAME",
    "FileRecord",
    "Manifest",
    "manifest_bytes",
    "read_manifest",
]

MANIFEST_NAME = "exaone_export.json"
SIGNATURE_NAME = "exaone_export.json.sig"
SCHEMA_VERSION = 3
MAX_MANIFEST_BYTES = 4 << 20


class FileRecord(TypedDict):
    """What the manifest says of one file."""

    sha256: Sha256
    size: Size


class Manifest(Record, frozen=True):
    """The content of ``exaone_export.json``.

    Attributes:
        schema_version: `SCHEMA_VERSION`; another one is refused.
        exaone_export_version: The version of this package that wrote it.
        target: A name of `exaone_export.targets.target.TARGETS`.
        precision: Of weights and activations, as requested of the export.
        model: The architecture, as `ModelSpec.to_config` gives it.
        source: Name, revision and fingerprint of the checkpoint.
        recipe: The options of the export: precision, lengths, quantization.
        layers: What the finished graph computes, read back from it, one record a layer.
        cache: The cache layout, as `CacheLayout.to_dict` gives it.
        inputs: The graph's inputs, in order.
        outputs: The graph's outputs, in order.
        tool_versions: Name and version of everything that shaped the graph.
        files: For every file of the folder but this and the signature, its ``sha256`` (64 hexadecimal digits) and
            ``size`` (bytes).
        parity: The summary of a comparison with PyTorch; None if there was none.
        engine: What the engine was built for, as `EngineInfo.to_dict` gives it; None where the artifact holds a graph.
        prefill: What a second graph, for prompts, is, as `PrefillInfo.to_dict` gives it; None, and not written, where
            there is none.
    """

    schema_version: int
    exaone_export_version: str
    target: str
    precision: str
    model: dict[str, Any]
    source: dict[str, Any]
    recipe: dict[str, Any]
    layers: list[dict[str, Any]]
    cache: dict[str, Any]
    inputs: list[str]
    outputs: list[str]
    tool_versions: dict[str, Any]
    files: dict[str, FileRecord]
    parity: dict[str, Any] | None = None
    engine: dict[str, Any] | None = None
    prefill: dict[str, Any] | None = None

    def _content(self) -> dict[str, Any]:
        content = msgspec.structs.asdict(self)
        if self.prefill is None:
            del content["prefill"]
        return content

    def to_json(self) -> bytes:
        """UTF-8 text, the same for equal manifests.

        Raises:
            ArtifactError: A value is not JSON, such as NaN.
        """
        try:
            content = self._content()
            checksum = hashlib.sha256(_dump(content)).hexdigest()
            return _dump(content | {_CHECKSUM: checksum})
        except (TypeError, ValueError) as cause:
            raise ArtifactError(f"the manifest cannot be written ({cause}); report this as a bug.") from cause

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read `to_json`'s text back; every value is checked.

        Raises:
            ArtifactError: The text is too large or too deep, is of another schema version, lacks a key or has an
                unknown one, or a value is of the wrong type; a file's name could mean a place outside the folder; or a
                byte is not of the text that its checksum was made of.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise ArtifactError(f"{MANIFEST_NAME} has {len(data)} bytes, more than {MAX_MANIFEST_BYTES}; {_AGAIN}.")
        content = strict_json.parse_object(data, name=MANIFEST_NAME, error=ArtifactError)
        version = content.get("schema_version")
        if type(version) is not int or version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{MANIFEST_NAME} has schema version {version!r:.40}, and this program reads {SCHEMA_VERSION}; "
                f"{_AGAIN}."
            )
        content.pop(_CHECKSUM, None)  # Checked below, with every byte.
        manifest = read_record(content, cls, name=MANIFEST_NAME, fix=_AGAIN, error=ArtifactError)
        for name in manifest.files:
            if not is_plain_name(name) or name in (MANIFEST_NAME, SIGNATURE_NAME):
                raise ArtifactError(
                    f"{MANIFEST_NAME} lists {name!r:.80}, which is not the name of a file of the artifact; {_AGAIN}."
                )
        if content != manifest._content() or not _is_as_written(data):
            raise ArtifactError(
                f"{MANIFEST_NAME} was changed after it was written (its {_CHECKSUM} differs); {_AGAIN}."
            )
        return manifest


def _dump(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _is_as_written(data: bytes) -> bool:
    """Whether the text without the line of its checksum has that checksum: that is the text which was hashed.

    It is not made anew from what was read, which takes longer than all other checks together.
    """
    before, _, rest = data.partition(_CHECKSUM_LINE)
    digest, end = rest[:_DIGITS], rest[_DIGITS : _DIGITS + 2]
    return end == b'",' and hashlib.sha256(before + rest[_DIGITS + 2 :]).hexdigest().encode() == digest


_CHECKSUM = "manifest_sha256"
_CHECKSUM_LINE, _DIGITS = f'\n  "{_CHECKSUM}": "'.encode(), 64
_AGAIN = "export the model again with this version"


def read_manifest(folder: Path) -> Manifest:
    """Read an artifact's manifest; its other files are not checked.

    Raises:
        ArtifactError: There is no manifest, or not one that an export writes.
    """
    return Manifest.from_json(manifest_bytes(folder))


def manifest_bytes(folder: Path) -> bytes:
    """Read an artifact's manifest, and check nothing of it but its size.

    Raises:
        ArtifactError: There is none, or one that cannot be read.
    """
    path = folder / MANIFEST_NAME
    if path.is_symlink() and path.exists() and not stat.S_ISREG(status_of(path).st_mode):
        raise ArtifactError(f"{path} is a link, not a file of the artifact; copy the artifact's files into one folder.")
    if not path.exists():
        raise ArtifactError(
            f"{folder} has no {MANIFEST_NAME}, so it is not an artifact; give a folder that an export has written."
        )
    return strict_json.read_bytes(path, max_bytes=MAX_MANIFEST_BYTES, error=ArtifactError)
