"""A Hugging Face checkpoint: checked whole when it is opened, read one tensor at a time.

One that was published quantized is read as it is stored, or as the weights that its codes stand for. Only safetensors
files are opened. Nothing of a checkpoint is executed: no pickle, no remote code.
"""

from __future__ import annotations

import hashlib
import math
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
from exaone_export.model.config.normalized import normalize, overruled
from exaone_export.model.config.reading import read_spec
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import EMBEDDING_TENSOR, HEAD_TENSOR, expected_tensors

from .files import check_files, read_small_file
from .hub import download, is_hub_id
from .prequantized.config import read_form
from .prequantized.form import Quantization, Stored
from .prequantized.projections import Projections
from .safetensors_file import FLOAT_TYPES, ITEM_SIZES, SafetensorsHeader, TensorInfo
from .tensor_rows import read_rows
from .tensors import check_tensors, is_buffer
from .weight_files import INDEX_NAME, WEIGHTS_NAME, no_checkpoint, read_headers

__all__ = [
    "INDEX_NAME",
    "SIDECAR_PATTERNS",
    "TOKENIZER_PATTERNS",
    "WEIGHTS_NAME",
    "Checkpoint",
]

TOKENIZER_PATTERNS = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
SIDECAR_PATTERNS = ("config.json", "generation_config.json", *TOKENIZER_PATTERNS, "LICENSE*")

_DOWNLOADED = (
    *SIDECAR_PATTERNS,
    *(f"{name}*.safetensors{end}" for name in ("model", "gptq_model") for end in ("", ".index.json")),
)
_AGAIN = "download the checkpoint again, or choose one whose weights are finite"

# What fingerprint() takes of each tensor: enough to tell two trainings apart, little enough for 64 GB in a second.
_SAMPLE_BYTES = 4096
_SLICE = 1 << 20


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

    @classmethod
    def open(cls, model: str | Path, revision: str | None = None) -> Checkpoint:
        """Open a folder in Hugging Face form, or download one from the hub.

        Everything but the weights' values is checked here: the config, every shard's header and exact size, and every
        tensor's name and shape. Only where the embeddings are tied and there is a vocabulary projection all the same,
        the two are compared.

        Args:
            model: A folder with ``config.json`` and safetensors files, or a hub id (``LGAI-EXAONE/EXAONE-4.0-1.2B``).
            revision: A branch, tag or commit on the hub.

        Raises:
            CheckpointError: There is no such model, its files are missing, damaged or pickled, or they do not fit the
                config.
            ConfigError: The config is unreadable, contradicts itself, describes another architecture, or a quantization
                that cannot be exported.
        """
        folder, name, commit = _resolve(model, revision)
        digests = check_files(folder)
        if not (folder / "config.json").exists():
            raise CheckpointError(no_checkpoint(folder))
        data = read_small_file(folder, "config.json", digests.get("config.json", ""))
        config = strict_json.parse_object(data, name=str(folder / "config.json"), error=ConfigError)
        spec, form = read_spec(config), read_form(config)
        unnamed = form is None and (folder / "quantize_config.json").exists()
        dtypes = FLOAT_TYPES if form is None and not unnamed else tuple(ITEM_SIZES)
        shards, tensors = read_headers(folder, dtypes, is_buffer)
        if unnamed and any(name.endswith(".qweight") for name in tensors):
            raise ConfigError(
                f"{folder} has a quantize_config.json, and config.json has no quantization_config; copy the content of "
                f'the one into the other, with "quant_method": "gptq".'
            )
        heads = [name for name in tensors if name.startswith("lm_head.")] if spec.tie_word_embeddings else []
        tied = {name: tensors.pop(name) for name in heads}
        dense = expected_tensors(spec)
        projections, expected = None, {name: Stored((shape,)) for name, shape in dense.items()}
        if form is not None:
            projections = Projections.find(form, spec, {name: info.dtype for name, info in tensors.items()})
            expected = projections.expected(dense)
        check_tensors(tensors, expected, folder)
        own, found = MappingProxyType(normalize(config)), MappingProxyType(tensors)
        opened = cls(name, commit, folder, spec, found, shards, own, digests, overruled(config), projections)
        if tied:
            opened._check_tied(tied)
        return opened

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
        for part in self._rows(info, rows):
            _check_finite(part, info, done)
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
        try:
            with safe_open(info.shard, framework="pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
        except (SafetensorError, OSError) as cause:
            raise CheckpointError(
                f"{info.shard} changed while it was read ({cause}); run the command again."
            ) from cause
        self._shard(info).check_unchanged()
        _check_finite(tensor, info)
        return tensor

    def _check_tied(self, found: Mapping[str, TensorInfo]) -> None:
        """Raise where a vocabulary projection is not the embedding, though the config says that the two are one."""
        embedding, head = self._find(EMBEDDING_TENSOR), found.get(HEAD_TENSOR)
        same = False
        if head is not None and len(found) == 1 and (head.dtype in FLOAT_TYPES, head.shape) == (True, embedding.shape):
            rows = max(_SLICE // embedding.shape[1], 1)
            pairs = zip(self._rows(head, rows), self._rows(embedding, rows), strict=True)
            same = all(torch.equal(one.float(), other.float()) for one, other in pairs)
        if not same:
            raise CheckpointError(
                f"{self.folder} has a vocabulary projection ({next(iter(found))}) that differs from the embedding, and "
                f"its config.json ties the two; to keep it, write tie_word_embeddings: false in config.json."
            )

    def _rows(self, info: TensorInfo, rows: int) -> Iterator[torch.Tensor]:
        return read_rows(self._shard(info), info, rows)

    def _shard(self, info: TensorInfo) -> SafetensorsHeader:
        return next(header for header in self.shards if header.path == info.shard)

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

        It tells one training from another at the cost of a few megabytes of reading. It is no proof against somebody
        who changes weights on purpose: that would take a hash of every byte.
        """
        digest = hashlib.sha256(self.read_sidecar("config.json"))
        for shard in self.shards:
            digest.update(f"\n{shard.path.name} {shard.file_size}\n".encode())
            digest.update(shard.raw)
            for sample in _samples(shard):
                digest.update(sample)
        return digest.hexdigest()


# Finding the folder


def _resolve(model: str | Path, revision: str | None) -> tuple[Path, str, str | None]:
    """The folder, the name, and the commit if it came from the hub."""
    folder = Path(model).expanduser()
    if model != "" and folder.is_dir():  # Path("") is the current folder, which an unset variable does not mean.
        if revision is not None:
            raise CheckpointError(
                f"{folder} is a local folder, which has no revision {revision!r}; leave --revision out."
            )
        return folder, folder.resolve().name, None
    if isinstance(model, Path) or not is_hub_id(model):
        raise CheckpointError(
            f"{model} is neither a folder nor a hub id such as LGAI-EXAONE/EXAONE-4.0-1.2B; check the path."
        )
    snapshot = download(model, revision, _DOWNLOADED)
    return snapshot, model, snapshot.name


# Values


def _check_finite(tensor: torch.Tensor, info: TensorInfo, first_row: int = 0) -> None:
    """Raise where a value of a tensor, or of its rows from ``first_row`` on, is not finite."""
    if not tensor.is_floating_point():
        return
    if tensor.dtype == torch.float8_e4m3fn:
        _check_float8(tensor, info)
        return
    # aminmax hands NaN and infinity through and, unlike isfinite, needs no second tensor of the same size.
    if all(math.isfinite(bound.item()) for bound in torch.aminmax(tensor)):
        return
    start = 0
    for part in tensor.flatten().split(_SLICE):
        bad = torch.nonzero(~torch.isfinite(part))
        if len(bad):
            start += int(bad[0])
            break
        start += len(part)
    index = [int(i) for i in torch.unravel_index(torch.tensor(start), tensor.shape)]
    value = tensor[tuple(index)].item()
    if index:
        index[0] += first_row
    raise CheckpointError(f"{info.name} in {info.shard.name} is {value} at {index}; {_AGAIN}.")


def _check_float8(tensor: torch.Tensor, info: TensorInfo) -> None:
    """E4M3 has no infinity, and one magnitude that is NaN, with all its bits set."""
    bad = torch.nonzero(tensor.view(torch.uint8).bitwise_and(0x7F) == 0x7F)
    if len(bad):
        raise CheckpointError(f"{info.name} in {info.shard.name} is nan at {bad[0].tolist()}; {_AGAIN}.")


def _samples(shard: SafetensorsHeader) -> Iterator[bytes]:
    try:
        with shard.path.open("rb") as file:
            shard.check_unchanged(file.fileno())
            for tensor in sorted(shard.tensors.values(), key=lambda tensor: tensor.offset):
                file.seek(tensor.offset)
                yield file.read(min(_SAMPLE_BYTES, tensor.num_bytes))
    except OSError as cause:
        raise CheckpointError(f"{shard.path} cannot be read ({cause.strerror}); run the command again.") from cause
