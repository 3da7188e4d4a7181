"""The artifact folder, opened only after it matches its manifest; `exaone_export.artifact.writer` writes it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ArtifactError, ConfigError
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
from .checks import (
    ENGINE_NAME,
    MODEL_NAME,
    check_graph,
    check_hash,
    check_kind_and_size,
    check_names,
    check_sidecars,
    check_sizes,
    read_engine,
)
from .genai_config import check_genai_config
from .known_hashes import check_hash_once
from .location import locate
from .manifest import MANIFEST_NAME, SCHEMA_VERSION, SIGNATURE_NAME, Manifest, manifest_bytes
from .prefill import PREFILL_NAME, PrefillInfo, of_prompts, read_prefill
from .replaced import again_if_replaced, unchanged
from .signature import check_signature, check_writable, is_signed, read_public_key

__all__ = [
    "ENGINE_NAME",
    "MANIFEST_NAME",
    "MODEL_NAME",
    "SCHEMA_VERSION",
    "Artifact",
    "Manifest",
]

_WEIGHTS = "model."  # how the names of a graph, of an engine and of their data begin
_DATA_NAME = f"{MODEL_NAME}.data"


@dataclasses.dataclass(frozen=True)
class Artifact:
    """An opened artifact.

    Its files may be read, by their paths, within `unchanged`.

    Attributes:
        folder: Where it lies.
        manifest: What it was made from, and the hash of every file.
        spec: The model's architecture.
        engine: What its engine was built for; None where the artifact holds a graph.
        prefill: What its second graph, for prompts, is; None where it has one graph.
    """

    folder: Path
    manifest: Manifest
    spec: ModelSpec
    engine: EngineInfo | None = None
    prefill: PrefillInfo | None = None
    _held: HeldFolder = dataclasses.field(kw_only=True, repr=False, compare=False)
    _verify_weights: bool | None = dataclasses.field(default=None, kw_only=True, repr=False, compare=False)
    _by_key: bool = dataclasses.field(default=False, kw_only=True, repr=False, compare=False)
    _is_onnx: bool = dataclasses.field(default=False, kw_only=True, repr=False, compare=False)
    _graph: str = dataclasses.field(default=MODEL_NAME, kw_only=True, repr=False)

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
        with unchanged(held):
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
        engine = read_engine(folder, manifest)
        check_sizes(folder, manifest, spec)
        for name, record in manifest.files.items():
            held.remember(name, check_kind_and_size(folder / name, record["size"]))
        check_names(folder, manifest)
        prefill = read_prefill(manifest, spec)
        options: Any = {"_verify_weights": verify, "_by_key": key is not None}
        opened = cls(folder, manifest, spec, engine, prefill, _held=held, **options)
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
        with self.checking_weights(again=True) as checked:
            return checked

    @contextlib.contextmanager
    def checking_weights(self, *, again: bool = False) -> Iterator[Artifact]:
        """As `check_weights`, for a program that loads the model inside, while the weights' hash is computed.

        A graph, or an engine, which is native code, is checked before. A graph's weights are numbers alone: what was
        loaded of them may be used only after the block. Their hash is computed once: at a later start it is known, as
        long as nothing has written to the file, and not relied on where ``trusted_key`` was given.

        Args:
            again: Whether it is computed even if it is known.

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
            graphs = [name for name in (MODEL_NAME, PREFILL_NAME) if name in self.manifest.files]
            checked = [check_graph(self.folder / name, self.manifest) for name in graphs]
            hash_checks = check_hash if again or self._by_key else check_hash_once
            with beside(lambda stop: self._check_hashes(numbers, functools.partial(hash_checks, check=stop))):
                yield dataclasses.replace(self, _verify_weights=None, _is_onnx=bool(checked) and all(checked))

    def _check_hashes(self, names: Iterable[str], check: Callable[[Path, str], None] = check_hash) -> None:
        for name in names:
            check(self.folder / name, self.manifest.files[name]["sha256"])

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Read files of the artifact inside, by their paths: at its end they must still be those that were checked.

        What was read may be used only after that.

        Raises:
            ArtifactReplacedError: They are not.
        """
        with unchanged(self._held):
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
        return self.folder / (self._graph if self._graph in self.manifest.files else ENGINE_NAME)

    @property
    def data_path(self) -> Path:
        """The file of the graphs' weights."""
        return self.folder / _DATA_NAME

    @property
    def of_prompts(self) -> Artifact | None:
        """The same with its graph for prompts in the place of the other one; None where it has one graph."""
        if self.prefill is None:
            return None
        return dataclasses.replace(self, manifest=of_prompts(self.manifest), prefill=None, _graph=PREFILL_NAME)

    @property
    def identity(self) -> str:
        """Sha256 of what a cache's numbers depend on: the hashes of the graph and its weights, and the cache layout."""
        names = (self.model_path.name, PREFILL_NAME)
        files = {name: each["sha256"] for name, each in self.manifest.files.items() if name.startswith(names)}
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
