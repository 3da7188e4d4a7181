"""The artifact folder, opened only after it matches its manifest; `exaone_export.artifact.writer` writes it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..errors import ArtifactError, ArtifactReplacedError, ConfigError
from ..files.containment import status_of
from ..files.durable import replacing
from ..files.folder_locks import without_writers
from ..files.held_folder import HeldFolder
from ..model.config.reading import read_spec
from ..model.spec import ModelSpec
from ..targets.cache_layout import CacheLayout
from ..targets.engine import EngineInfo
from ..targets.target import get_target
from .beside import beside
from .checks import check_graph, check_hash, check_kind_and_size, check_names, check_sidecars, check_sizes
from .genai_config import check_genai_config
from .location import locate
from .manifest import MANIFEST_NAME, SCHEMA_VERSION, SIGNATURE_NAME, Manifest, manifest_bytes
from .signature import check_signature, check_writable, is_signed, read_public_key

__all__ = [
    "ENGINE_NAME",
    "MANIFEST_NAME",
    "MODEL_NAME",
    "SCHEMA_VERSION",
    "Artifact",
    "Manifest",
    "again_if_replaced",
]

MODEL_NAME = "model.onnx"
ENGINE_NAME = "model.engine"

_AGAIN = "export the model again."
_WEIGHTS = "model."  # how the names of a graph, of an engine and of their data begin
_DATA_NAME = f"{MODEL_NAME}.data"

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Artifact:
    """An opened artifact.

    Its files may be read, by their paths, within `unchanged`.

    Attributes:
        folder: Where it lies.
        manifest: What it was made from, and the hash of every file.
        spec: The model's architecture.
        engine: What its engine was built for; None where the artifact holds a graph.
    """

    folder: Path
    manifest: Manifest
    spec: ModelSpec
    engine: EngineInfo | None = None
    _held: HeldFolder = dataclasses.field(kw_only=True, repr=False, compare=False)
    _verify_weights: bool | None = dataclasses.field(default=None, kw_only=True, repr=False, compare=False)
    _is_onnx: bool = dataclasses.field(default=False, kw_only=True, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        verify: bool = True,
        trusted_key: str | Path | None = None,
        weights_later: bool = False,
    ) -> Artifact:
        """Check an artifact against its manifest; if it is replaced meanwhile, check the new one, once.

        Args:
            folder: The artifact: a folder or, as text, an artifact on the Hugging Face hub, ``ORG/NAME`` or
                ``ORG/NAME@REVISION``, which is downloaded into the hub's cache; a folder of that name comes first.
            verify: Whether every file's hash is computed, which reads the whole folder. Without it a file's presence,
                kind and size are still checked, and a flipped bit is not detected.
            trusted_key: A public key, Ed25519 in PEM form. Its signature must lie beside the manifest, and is checked
                before anything else of the folder is read.
            weights_later: Whether the graph and the weights are left to `check_weights`, so that a program can refuse a
                request by what the small files say.

        Raises:
            ArtifactError: The folder is not an artifact, the hub shows none of that name, or a file is missing, is not
                regular, has another size or hash than the manifest lists, or refers to something outside the folder.
            ArtifactReplacedError: It was replaced twice while it was checked.
            CapacityError: There is no room for the download.
            KeyFileError: ``trusted_key`` is not a public key.
            SignatureError: The manifest is not signed by ``trusted_key``.
        """
        if trusted_key is not None and not verify:
            raise ValueError("a signature covers hashes, which verify=False does not compute; omit verify.")
        key = None if trusted_key is None else read_public_key(trusted_key)
        located = locate(folder, key)
        return again_if_replaced(lambda: cls._open(located, verify, key, weights_later))

    @classmethod
    def _open(cls, folder: Path, verify: bool, key: Any, weights_later: bool) -> Artifact:
        held = HeldFolder(folder)
        with _unchanged(held):
            with contextlib.suppress(OSError):  # reported below
                held.remember(MANIFEST_NAME, status_of(folder / MANIFEST_NAME))
            opened = cls._check(folder, verify, key, held)
        held.forget(MANIFEST_NAME)  # It was read whole, and a parity record may be written to it.
        return opened if weights_later else opened.check_weights()

    @classmethod
    def _check(cls, folder: Path, verify: bool, key: Any, held: HeldFolder) -> Artifact:
        data = manifest_bytes(folder)
        if key is not None:
            check_signature(folder, data, key)
        manifest = Manifest.from_json(data)
        try:
            spec = read_spec(manifest.model)
        except ConfigError as cause:
            raise ArtifactError(f"{folder / MANIFEST_NAME} does not describe a valid model: {cause}") from cause
        engine = _read_engine(folder, manifest)
        check_sizes(folder, manifest, spec)
        for name, record in manifest.files.items():
            held.remember(name, check_kind_and_size(folder / name, record["size"]))
        check_names(folder, manifest)
        opened = cls(folder, manifest, spec, engine, _held=held, _verify_weights=verify)
        if verify:
            opened._check_hashes(name for name in manifest.files if not name.startswith(_WEIGHTS))
            check_sidecars(folder, manifest)
            check_genai_config(folder, spec, CacheLayout.from_dict(manifest.cache), get_target(manifest.target))
        return opened

    def check_weights(self) -> Artifact:
        """Check the graph and the weights, which ``open(…, weights_later=True)`` has left.

        Returns:
            The artifact, which can be run.

        Raises:
            ArtifactError: The graph or the weights are not those of the manifest.
            ArtifactReplacedError: The artifact was replaced since it was opened.
        """
        with self.checking_weights() as checked:
            return checked

    @contextlib.contextmanager
    def checking_weights(self) -> Iterator[Artifact]:
        """As `check_weights`, for a program that loads the model inside, while the weights' hash is computed.

        A graph, or an engine, which is native code, is checked before. A graph's weights are numbers alone: what was
        loaded of them may be used only after the block.

        Yields:
            The artifact, which can be loaded.

        Raises:
            ArtifactError: As `check_weights`, whatever loading has raised.
            ArtifactReplacedError: The artifact was replaced since it was opened.
        """
        with self.unchanged():
            if self._verify_weights is None:
                yield self
                return
            names = [name for name in self.manifest.files if name.startswith(_WEIGHTS)] if self._verify_weights else []
            numbers = [name for name in names if name == _DATA_NAME]
            self._check_hashes(name for name in names if name not in numbers)
            is_onnx = self.engine is None and check_graph(self.folder / MODEL_NAME, self.manifest)
            with beside(lambda check: self._check_hashes(numbers, check)):
                yield dataclasses.replace(self, _verify_weights=None, _is_onnx=is_onnx)

    def _check_hashes(self, names: Iterable[str], check: Callable[[], None] = lambda: None) -> None:
        for name in names:
            check_hash(self.folder / name, self.manifest.files[name]["sha256"], check)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Read files of the artifact inside, by their paths: at its end they must still be those that were checked.

        What was read may be used only after that.

        Raises:
            ArtifactReplacedError: They are not.
        """
        with _unchanged(self._held):
            yield

    @property
    def device(self) -> str:
        """What runs it: ``"cuda"`` where that is a GPU, or ``"cpu"``, where graphs run that an engine is made of."""
        target = get_target(self.manifest.target)
        return target.device if self.engine is not None else target.provider.device

    @property
    def model_path(self) -> Path:
        """The graph, or the engine."""
        assert self._verify_weights is None, "check_weights() comes first"
        return self.folder / (MODEL_NAME if MODEL_NAME in self.manifest.files else ENGINE_NAME)

    @property
    def identity(self) -> str:
        """Sha256 of what a cache's numbers depend on: the hashes of the graph and its weights, and the cache layout."""
        model = self.model_path.name
        files = {name: each["sha256"] for name, each in self.manifest.files.items() if name.startswith(model)}
        text = json.dumps([files, self.manifest.cache, self.manifest.target], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def graph_path(self) -> Path:
        """The graph, for a program that reads it.

        Raises:
            ArtifactError: It is not ONNX, or refers to something outside the artifact.
        """
        if not self._is_onnx:
            check_graph(self.model_path, self.manifest, is_read=True)
        return self.model_path

    def check_recordable(self) -> None:
        """Raise ArtifactError where the manifest may not be rewritten: it is signed, or in the hub's cache."""
        check_writable(self.folder)
        if is_signed(self.folder):
            raise ArtifactError(
                f"{self.folder} is signed, and a record in its manifest would break the signature; remove "
                f"{SIGNATURE_NAME}, record, and sign again."
            )

    def record_parity(self, parity: dict[str, Any]) -> Artifact:
        """Write the summary of a comparison with PyTorch into the manifest; nothing else of the folder changes.

        Raises:
            ArtifactError: The manifest cannot be replaced, or is signed.
            ArtifactReplacedError: The folder now holds another artifact, which the record is not about.
        """
        self.check_recordable()
        manifest = msgspec.structs.replace(self.manifest, parity=parity)
        path = self.folder / MANIFEST_NAME
        try:
            with without_writers(self.folder):
                self._held.check()
                with replacing(path) as file:
                    os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
                    file.write(manifest.to_json())
        except OSError as cause:
            raise ArtifactError(f"{path} cannot be written ({cause.strerror}); make the folder writable.") from cause
        return dataclasses.replace(self, manifest=manifest)


@contextlib.contextmanager
def _unchanged(held: HeldFolder) -> Iterator[None]:
    try:
        yield
    except Exception:
        held.check()  # Where the folder was replaced, what failed may have been of another artifact.
        raise
    held.check()


def again_if_replaced(read: Callable[[], _T]) -> _T:
    """What ``read`` gives, which opens an artifact; if it is replaced meanwhile, of the new one, once.

    Raises:
        ArtifactReplacedError: It was replaced twice.
    """
    try:
        return read()
    except ArtifactReplacedError:
        return read()


def _read_engine(folder: Path, manifest: Manifest) -> EngineInfo | None:
    """The engine's record in the manifest; there must be one for an engine, and none for a graph."""
    models = manifest.files.keys() & {MODEL_NAME, ENGINE_NAME}
    if not models:
        raise ArtifactError(f"{folder / MANIFEST_NAME} lists neither {MODEL_NAME} nor {ENGINE_NAME}; {_AGAIN}")
    if models != {MODEL_NAME if manifest.engine is None else ENGINE_NAME}:
        raise ArtifactError(
            f"{folder / MANIFEST_NAME} lists {' and '.join(sorted(models))}, and must list {MODEL_NAME} alone, or "
            f"{ENGINE_NAME} alone with what it was built for; {_AGAIN}"
        )
    return None if manifest.engine is None else EngineInfo.from_dict(manifest.engine)
