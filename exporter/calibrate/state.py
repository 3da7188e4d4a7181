"""The progress of a calibration, in a folder beside its destination, removed once the scales file is written.

It holds a hash of all inputs, one file for each finished layer, and the input hidden states of the next layer. Every
file appears whole or not at all, and hidden states after the layer that made them, so that the newest hidden states
always say where to continue. Each has a hash of its content and of the inputs, because a disk may change what is on
it. A process that works in the folder locks it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from exaone_export.errors import CalibrationError
from exaone_export.files import strict_json
from exaone_export.files.durable import NO_ROOM, replacing
from exaone_export.files.folder_locks import locked, make_and_lock
from exaone_export.progress import Notice

from ..checkpoint.tensor_file import as_bytes, map_tensors, read_header, write_tensors

__all__ = ["CalibrationState", "LayerResult"]

_INPUTS = "inputs.json"
_OWN = re.compile(r"inputs\.json|staged|(layer|hidden)-\d+\.safetensors|\.[0-9a-f]{32}\.partial")
_LONGEST_NAME = 255
_HIDDEN = re.compile(r"hidden-(\d{4,9})\.safetensors")
_FACTS, _DIGEST = "facts", "sha256"

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class LayerResult:
    """The result of one layer.

    Attributes:
        tensors: ``{part}.{what}``, as in a scales file.
        facts: Figures and texts that JSON can hold.
    """

    tensors: Tensors
    facts: dict[str, Any]


class CalibrationState:
    """The folder, locked by one process at a time; a context manager.

    Args:
        out: Where the scales file will be.
        inputs: All that decides its content.
        notice: Told whether an interrupted run's progress is continued or discarded.

    Raises:
        CalibrationError: Another process uses the folder, or it cannot be written.
    """

    def __init__(self, out: Path, inputs: Mapping[str, Any], notice: Notice) -> None:
        self.folder = out.with_name(_folder_name(out.name))
        self._key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        self._notice = notice
        self._lock: int | None = None
        self.finished = 0

    def __enter__(self) -> Self:
        try:
            with locked(self._parent):
                self._lock = make_and_lock(self.folder)
            if self._lock is None:
                raise CalibrationError(
                    f"another calibration is using {self.folder}, or it cannot be locked; wait for it, or "
                    f"choose another OUT."
                )
            self._begin()
        except CalibrationError:
            self._unlock()
            raise
        except OSError as cause:
            if self._lock is not None and not self.finished:
                self._discard()
            self._unlock()
            if cause.errno in NO_ROOM:
                raise CalibrationError(
                    f"{self._parent} has no room for the calibration; free some and give the same command again, or "
                    f"choose another OUT."
                ) from cause
            raise CalibrationError(
                f"{self.folder} cannot be written ({cause.strerror}), and a calibration stores its progress there; "
                f"choose another OUT."
            ) from cause
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Remove the folder after success; after any error, finished layers stay."""
        if kind is not None and self.finished:
            self._notice(
                f"{self.finished} finished layers are stored in {self.folder}; the same command continues from them"
            )
        else:
            self._discard()
        self._unlock()

    @property
    def staged(self) -> Path:
        """Where the scales file may be written before it is renamed."""
        return self.folder / "staged"

    def save(self, layer: int, result: LayerResult, hidden: Tensors) -> None:
        """Store a layer's result and output hidden states, and remove its input hidden states.

        Raises:
            CalibrationError: They cannot be written.
        """
        self._write(self._layer(layer), result.tensors, json.dumps(result.facts))
        self._write(self._hidden(layer + 1), hidden, "{}")
        self._hidden(layer).unlink(missing_ok=True)
        self.finished = layer + 1

    def hidden(self) -> dict[str, torch.Tensor]:
        """Input hidden states of the first unfinished layer."""
        tensors, _ = _read(self._hidden(self.finished))
        # Alignment may change a result's last bit, so the tensors are copied to memory, as in an uninterrupted run.
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def results(self) -> list[LayerResult]:
        """Results of the finished layers; their tensors stay on disk until they are used."""
        found = []
        for layer in range(self.finished):
            tensors, metadata = _read(self._layer(layer))
            found.append(LayerResult(tensors, json.loads(metadata[_FACTS])))
        return found

    def _begin(self) -> None:
        inputs = self.folder / _INPUTS
        recorded = self._recorded(inputs)
        if recorded == self._key:
            hidden = [match for path in self._files() if (match := _HIDDEN.fullmatch(path.name))]
            self.finished = max((layer for match in hidden if self._is_whole(layer := int(match[1]))), default=0)
            if self.finished:
                self._notice(f"continuing after {self.finished} finished layers in {self.folder}")
                return
            if hidden:
                self._notice(f"the work in {self.folder} is damaged and was discarded")
        elif recorded is not None:
            self._notice(f"{self.folder} is of a calibration with another model, data or options, and was discarded")
        elif inputs.exists():
            self._notice(f"the work in {self.folder} is damaged and was discarded")
        self._clear()
        with replacing(inputs) as file:
            file.write(json.dumps({"sha256": self._key}).encode())

    def _recorded(self, path: Path) -> str | None:
        try:
            found = strict_json.read_object(path, max_bytes=1 << 10, error=CalibrationError)
        except CalibrationError:
            return None
        recorded = found.get("sha256")
        return recorded if isinstance(recorded, str) else None

    def _is_whole(self, layer: int) -> bool:
        try:
            for path in (self._hidden(layer), *map(self._layer, range(layer))):
                tensors, metadata = _read(path)
                facts = metadata.get(_FACTS, "")
                if metadata.get(_DIGEST) != self._digest(path, tensors, facts):
                    return False
        except CalibrationError:
            return False
        return True

    def _write(self, path: Path, tensors: Tensors, facts: str) -> None:
        write_tensors(path, tensors, {_FACTS: facts, _DIGEST: self._digest(path, tensors, facts)})

    def _digest(self, path: Path, tensors: Tensors, facts: str) -> str:
        """Hash of a file's content, its name and the inputs, so that a file of another calibration has another."""
        about = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in sorted(tensors.items())}
        digest = hashlib.sha256(json.dumps([self._key, path.name, facts, about]).encode())
        for name in about:
            digest.update(as_bytes(tensors[name]))
        return digest.hexdigest()

    def _discard(self) -> None:
        """Remove the folder, or leave what cannot be removed to the next run."""
        with contextlib.suppress(OSError), locked(self._parent):
            for path in self._files():
                path.unlink()
            self.folder.rmdir()

    def _clear(self) -> None:
        """Remove the files of this class; none if the folder holds other files."""
        own = self._files()
        if others := sorted({*self.folder.iterdir()} - {*own}):
            raise CalibrationError(
                f"{others[0]} was not written by a calibration; move it away, or choose another OUT."
            )
        for path in own:
            path.unlink()

    def _files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if _OWN.fullmatch(path.name)]

    @property
    def _parent(self) -> Path:
        return self.folder.parent.resolve()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _layer(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:04}.safetensors"

    def _hidden(self, layer: int) -> Path:
        return self.folder / f"hidden-{layer:04}.safetensors"


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    header = read_header(path, "remove its folder, and run the command again")
    return map_tensors(path, header, hashed=False)[0], header.metadata


def _folder_name(name: str) -> str:
    plain = f".{name}.partial"
    if len(plain.encode()) <= _LONGEST_NAME:
        return plain
    return f".{hashlib.sha256(name.encode()).hexdigest()[:32]}.partial"
