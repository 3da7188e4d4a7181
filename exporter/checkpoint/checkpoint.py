"""A Hugging Face checkpoint: checked whole when it is opened, read one tensor at a time.

One that was published quantized is read as it is stored, or as the weights that its codes stand for. Only safetensors
files are opened. Nothing of a checkpoint is executed: no pickle, no remote code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from exaone_export.calibration.weights import QuantizedWeight
from exaone_export.errors import CheckpointError, ConfigError
from exaone_export.files import strict_json
from exaone_export.model.config.head import choose_head
from exaone_export.model.config.normalized import normalize, overruled
from exaone_export.model.config.reading import read_spec
from exaone_export.model.spec import ModelSpec

from .files import check_files, read_small_file
from .fingerprint import fingerprint
from .finite import check_finite
from .opening import SIDECAR_PATTERNS, TOKENIZER_PATTERNS, read_tensors, resolve, shard_of
from .prequantized.config import read_form
from .prequantized.form import Quantization
from .prequantized.projections import Projections
from .safetensors_file import SafetensorsHeader, TensorInfo
from .tensor_rows import read_rows
from .weight_files import INDEX_NAME, WEIGHTS_NAME, no_checkpoint

__all__ = ["INDEX_NAME", "WEIGHTS_NAME", "Checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        name: The hub id, or the folder's name; never a path of this machine.
        revision: The commit that was downloaded; None for a local folder.
        folder: Where the files lie.
        spec: The architecture.
        tensors: Every tensor by name: those of `exaone_export.model.tensors.expected_tensors`, but that what stands for
            a quantized projection takes the place of its weight.
        shards: The headers of the weight files, sorted by file name.
        config: What other programs are told in ``config.json``: the spec, and what else the checkpoint's own says.
        digests: Sha256 of each small file when it was checked, by name.
        overruled: What ``config.json`` says otherwise than what decides, a sentence each.
        projections: Those that are stored quantized; None where the checkpoint is not.
        left_out: What of its files is not of the language model, a sentence each.
    """

    name: str
    revision: str | None
    folder: Path
    spec: ModelSpec
    tensors: Mapping[str, TensorInfo]
    shards: tuple[SafetensorsHeader, ...]
    config: Mapping[str, Any]
    digests: Mapping[str, str]
    overruled: tuple[str, ...] = ()
    projections: Projections | None = None
    left_out: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        model: str | Path,
        revision: str | None = None,
        *,
        head: str | None = None,
        hidden_states: bool = False,
    ) -> Checkpoint:
        """Open a folder in Hugging Face form, or download one from the hub.

        Everything but the weights' values is checked here: the config, every shard's header and exact size, and every
        tensor's name and shape. Only where the embeddings are tied and there is a vocabulary projection all the same,
        the two are compared.

        Args:
            model: A folder with ``config.json`` and safetensors files, or a hub id (``LGAI-EXAONE/EXAONE-4.0-1.2B``).
            revision: A branch, tag or commit on the hub.
            head: The kind of head, as `exaone_export.model.config.head.choose_head` takes it; the tensors of a head
                that is not chosen are left out.
            hidden_states: As `choose_head` takes it.

        Raises:
            CheckpointError: There is no such model, its files are missing, damaged or pickled, or they do not fit the
                config.
            ConfigError: The config is unreadable, contradicts itself, describes another architecture, or a quantization
                that cannot be exported.
            UnsupportedOptionError: The model is a folder, and a revision is given.
        """
        folder, name, commit = resolve(model, revision)
        digests = check_files(folder)
        if not (folder / "config.json").exists():
            raise CheckpointError(no_checkpoint(folder))
        data = read_small_file(folder, "config.json", digests.get("config.json", ""))
        config = strict_json.parse_object(data, name=str(folder / "config.json"), error=ConfigError)
        model_type = config["model_type"]
        config = choose_head(config, head, hidden_states=hidden_states)
        spec, form = read_spec(config), read_form(config)
        shards, tensors, projections, left_out = read_tensors(folder, spec, form, model_type)
        own, found = MappingProxyType(normalize(config)), MappingProxyType(tensors)
        return cls(name, commit, folder, spec, found, shards, own, digests, overruled(config), projections, left_out)

    @property
    def quantization(self) -> Quantization | None:
        """How the projections are stored; None where the checkpoint is not quantized."""
        return self.projections.quantization if self.projections is not None else None

    def read(self, name: str) -> torch.Tensor:
        """Map one tensor from its file; it stays on disk until it is used.

        Args:
            name: A name of `expected_tensors`.

        Returns:
            The tensor, in the checkpoint's shape and dtype; for a quantized projection the weight that its codes stand
            for, float32 and in memory.

        Raises:
            CheckpointError: The checkpoint has no such tensor, the file has changed since it was opened, or a value is
                not finite.
        """
        if self.projections is not None and name in self.projections.shapes:
            return self.projections.read(self._map, [name]).dequantize()
        return self._map(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor of `expected_tensors`.

        Raises:
            CheckpointError: The checkpoint has no such tensor.
        """
        if self.projections is not None and name in self.projections.shapes:
            return self.projections.shapes[name]
        return self._find(name).shape

    def read_rows(self, name: str, rows: int) -> Iterator[torch.Tensor]:
        """Read one tensor some rows at a time; what is not held on to is not in memory.

        Args:
            name: A name of `expected_tensors`.
            rows: How many at a time, 1 or more; of a vector, elements.

        Yields:
            ``[rows, …]`` in the checkpoint's dtype, the last part shorter; for a quantized projection as `read`.

        Raises:
            CheckpointError: As `read`.
        """
        if self.projections is not None and name in self.projections.shapes:
            yield from self.read(name).split(rows)
            return
        info = self._find(name)
        done = 0
        for part in read_rows(self._shard(info), info, rows):
            check_finite(part, info, done)
            done += len(part)
            yield part
            del part

    def read_quantized(self, names: Sequence[str]) -> QuantizedWeight:
        """Read the codes and scales of quantized projections as they are stored; nothing is rounded.

        Args:
            names: Weights by the names of `expected_tensors`; several are stacked along the outputs.

        Returns:
            Values ``[out, in]`` and scales ``[out]`` or, where blocks share them, ``[out, in / block]`` in their own
            dtype; a scale that stands for a whole tensor is repeated.

        Raises:
            CheckpointError: As `read`; the checkpoint does not hold all of them quantized, or the tensors of one
                contradict each other.
        """
        return self._quantized.read(self._map, names)

    def read_input_scale(self, names: Sequence[str]) -> torch.Tensor | None:
        """Read the scale of what quantized projections take in.

        Args:
            names: Weights by the names of `expected_tensors`, of projections that take the same.

        Returns:
            The largest of theirs, a float32 scalar; None where the checkpoint's activations are not ``static``.

        Raises:
            CheckpointError: As `read_quantized`, or a scale is not positive.
        """
        return self._quantized.read_input_scale(self._map, names)

    @property
    def _quantized(self) -> Projections:
        if self.projections is None:
            raise CheckpointError(f"{self.name} is not quantized; read it in floating point.")
        return self.projections

    def _map(self, name: str) -> torch.Tensor:
        info = self._find(name)
        if self._shard(info).tensors[info.name].shape != info.shape:  # an expert's part of a tensor
            return torch.cat(list(read_rows(self._shard(info), info, info.shape[0])))
        try:
            with safe_open(info.shard, framework="pt") as file:
                tensor: torch.Tensor = file.get_tensor(info.name)
        except (SafetensorError, OSError) as cause:
            raise CheckpointError(
                f"{info.shard} changed while it was read ({cause}); run the command again."
            ) from cause
        self._shard(info).check_unchanged()
        check_finite(tensor, info)
        return tensor

    def _shard(self, info: TensorInfo) -> SafetensorsHeader:
        return shard_of(info, self.shards)

    def _find(self, name: str) -> TensorInfo:
        info = self.tensors.get(name)
        if info is None:
            raise CheckpointError(f"the checkpoint has no tensor {name!r}; see the `tensors` of this checkpoint.")
        return info

    @property
    def sidecars(self) -> tuple[Path, ...]:
        """Config, tokenizer, chat template and licence files that are there, sorted by name."""
        found = (name for name in self.digests if any(fnmatchcase(name, pattern) for pattern in SIDECAR_PATTERNS))
        return tuple(self.folder / name for name in sorted(found))

    def read_sidecar(self, name: str) -> bytes:
        """Read one of the small files, as it was when the checkpoint was opened.

        Raises:
            CheckpointError: It changed, or leads elsewhere.
        """
        return read_small_file(self.folder, name, self.digests[name])

    def check_unchanged(self) -> None:
        """Raise where a file was replaced or written to since the checkpoint was opened.

        Every read looks at the file that it reads from; this is for the end of a work that made one thing of all of
        them, and for tensors of `read`, which stay on the disk.

        Raises:
            CheckpointError: One was.
        """
        self.check_weights_unchanged()
        for name in self.digests:
            self.read_sidecar(name)

    def check_weights_unchanged(self) -> None:
        """`check_unchanged` of the weights alone, which reads nothing."""
        for shard in self.shards:
            shard.check_unchanged()

    @property
    def has_tokenizer_files(self) -> bool:
        """Whether there is a tokenizer, in whatever form."""
        return any(path.match(pattern) for path in self.sidecars for pattern in TOKENIZER_PATTERNS)

    @property
    def changed(self) -> list[int]:
        """When each shard was last changed, in nanoseconds: what `fingerprint` does not see, this does."""
        return [shard.identity[-1] for shard in self.shards]

    def fingerprint(self) -> str:
        """Sha256 of the config, and of every shard's name, size, header and the first 4 KiB of each tensor.

        It tells one training from another, and reads a few megabytes. It does not protect against weights that
        are changed on purpose: that would take a hash of every byte.
        """
        return fingerprint(self.read_sidecar("config.json"), self.shards)
