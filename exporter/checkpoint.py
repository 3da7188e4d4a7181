"""A Hugging Face checkpoint: checked whole when it is opened, read one tensor at a time.

One that was published quantized is read as it is stored, or as the weights that its codes stand for. Only safetensors
files are opened. Nothing of a checkpoint is executed: no pickle, no remote code.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open

from exaone_export import strict_json
from exaone_export.calibration.weights import QuantizedWeight
from exaone_export.errors import CheckpointError, ConfigError
from exaone_export.exporter.checkpoint_files import check_files
from exaone_export.exporter.hub import download, is_hub_id
from exaone_export.exporter.prequantized.config import read_form
from exaone_export.exporter.prequantized.form import Quantization, Stored
from exaone_export.exporter.prequantized.projections import Projections
from exaone_export.exporter.safetensors_file import FLOAT_TYPES, ITEM_SIZES, SafetensorsHeader, TensorInfo
from exaone_export.exporter.tensor_rows import read_rows
from exaone_export.hf_config import MAX_CONFIG_BYTES
from exaone_export.names import is_plain_name
from exaone_export.spec import ModelSpec

__all__ = [
    "INDEX_NAME",
    "SIDECAR_PATTERNS",
    "TOKENIZER_PATTERNS",
    "WEIGHTS_NAME",
    "Checkpoint",
    "expected_tensors",
]

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

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

_DOWNLOADED = (*SIDECAR_PATTERNS, "model*.safetensors", INDEX_NAME)
_PICKLES = ("*.bin", "*.pt", "*.pth")
_MAX_INDEX_BYTES = 16 << 20
_NAMED_IN_ERROR = 3
_AGAIN = "download the checkpoint again, or choose one whose weights are finite"

# What fingerprint() takes of each tensor: enough to tell two trainings apart, little enough for 64 GB in a second.
_SAMPLE_BYTES = 4096
_SLICE = 1 << 20


def expected_tensors(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of this architecture has, with its shape; projections are ``[out, in]``."""
    hidden, feed_forward = spec.hidden_size, spec.intermediate_size
    queries = spec.num_attention_heads * spec.head_dim
    keys = spec.num_key_value_heads * spec.head_dim
    layer = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "self_attn.q_norm": (spec.head_dim,),
        "self_attn.k_norm": (spec.head_dim,),
        "mlp.gate_proj": (feed_forward, hidden),
        "mlp.up_proj": (feed_forward, hidden),
        "mlp.down_proj": (hidden, feed_forward),
        "post_attention_layernorm": (hidden,),
        "post_feedforward_layernorm": (hidden,),
    }
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (spec.vocab_size, hidden)}
    for index in range(spec.num_hidden_layers):
        tensors |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    tensors["model.norm.weight"] = (hidden,)
    if not spec.tie_word_embeddings:
        tensors["lm_head.weight"] = (spec.vocab_size, hidden)
    return tensors


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        name: The hub id, or the folder's name; never a path of this machine.
        revision: The commit that was downloaded; None for a local folder.
        folder: Where the files lie.
        spec: The architecture.
        tensors: Every tensor by name; exactly those that `expected_tensors` lists, but that what stands for a quantized
            projection takes the place of its weight.
        shards: The headers of the weight files, sorted by file name.
        projections: Those that are stored quantized; None where the checkpoint is not.
    """

    name: str
    revision: str | None
    folder: Path
    spec: ModelSpec
    tensors: Mapping[str, TensorInfo]
    shards: tuple[SafetensorsHeader, ...]
    projections: Projections | None = None

    @classmethod
    def open(cls, model: str | Path, revision: str | None = None) -> Checkpoint:
        """Open a folder in Hugging Face form, or download one from the hub.

        Everything but the weights' values is checked here: the config, every shard's header and exact size, and every
        tensor's name and shape.

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
        check_files(folder)
        config = strict_json.read_object(folder / "config.json", max_bytes=MAX_CONFIG_BYTES, error=ConfigError)
        spec, form = ModelSpec.from_config(config), read_form(config)
        shards, tensors = _read_headers(folder, FLOAT_TYPES if form is None else tuple(ITEM_SIZES))
        dense = expected_tensors(spec)
        projections, expected = None, {name: Stored((shape,)) for name, shape in dense.items()}
        if form is not None:
            projections = Projections.find(form, dense, {name: info.dtype for name, info in tensors.items()})
            expected = projections.expected(dense)
        _check_tensors(tensors, expected, folder)
        return cls(name, commit, folder, spec, MappingProxyType(tensors), shards, projections)

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
        shard = next(header for header in self.shards if header.path == info.shard)
        done = 0
        for part in read_rows(shard, info, rows):
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
                f"{info.shard} changed after it was opened ({cause}); run the command again."
            ) from cause
        if tuple(tensor.shape) != info.shape:
            raise CheckpointError(f"{info.shard} changed after it was opened; run the command again.")
        _check_finite(tensor, info)
        return tensor

    def _find(self, name: str) -> TensorInfo:
        info = self.tensors.get(name)
        if info is None:
            raise CheckpointError(f"the checkpoint has no tensor {name!r}; see the `tensors` of this checkpoint.")
        return info

    @property
    def sidecars(self) -> tuple[Path, ...]:
        """Config, tokenizer, chat template and licence files that are there, sorted by name."""
        found = chain.from_iterable(self.folder.glob(pattern) for pattern in SIDECAR_PATTERNS)
        return tuple(sorted(path for path in found if path.is_file()))

    @property
    def changed(self) -> list[int]:
        """When each shard was last changed, in nanoseconds: what `fingerprint` does not see, this does."""
        return [shard.path.stat().st_mtime_ns for shard in self.shards]

    def fingerprint(self) -> str:
        """Sha256 of the config, and of every shard's name, size, header and the first 4 KiB of each tensor.

        It tells one training from another at the cost of a few megabytes of reading. It is no proof against somebody
        who changes weights on purpose: that would take a hash of every byte.
        """
        digest = hashlib.sha256(
            strict_json.read_bytes(self.folder / "config.json", max_bytes=MAX_CONFIG_BYTES, error=ConfigError)
        )
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


# Reading the headers


def _read_headers(folder: Path, dtypes: Collection[str]) -> tuple[tuple[SafetensorsHeader, ...], dict[str, TensorInfo]]:
    index, single = folder / INDEX_NAME, folder / WEIGHTS_NAME
    if index.exists() and single.exists():
        raise CheckpointError(f"{folder} has both {WEIGHTS_NAME} and {INDEX_NAME}; remove the one that is stale.")
    if index.exists():
        return _read_sharded(index, dtypes)
    if not single.exists():
        raise CheckpointError(_nothing_to_read(folder))
    header = SafetensorsHeader.read(single, dtypes=dtypes)
    return (header,), header.tensors


def _nothing_to_read(folder: Path) -> str:
    pickles = sorted(chain.from_iterable(folder.glob(pattern) for pattern in _PICKLES))
    if pickles:
        return (
            f"{folder} has pickled weights only ({pickles[0].name}), and a pickle runs code when opened; convert it "
            f"with save_pretrained of transformers, which writes safetensors."
        )
    return f"{folder} has neither {WEIGHTS_NAME} nor {INDEX_NAME}; download the checkpoint again."


def _read_sharded(index: Path, dtypes: Collection[str]) -> tuple[tuple[SafetensorsHeader, ...], dict[str, TensorInfo]]:
    content = strict_json.read_object(index, max_bytes=_MAX_INDEX_BYTES, error=CheckpointError)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; download the checkpoint again.")
    for shard in weight_map.values():
        if not is_plain_name(shard) or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names the shard {str(shard)[:80]!r}, which is not a safetensors file beside it; download the "
                f"checkpoint again."
            )
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise CheckpointError(f"{index.parent} lacks {_first(missing)}; download the checkpoint again.")

    headers = tuple(SafetensorsHeader.read(index.parent / name, dtypes=dtypes) for name in names)
    held = {(tensor.name, header.path.name): tensor for header in headers for tensor in header.tensors.values()}
    if strays := sorted(name for name, _ in held.keys() ^ set(weight_map.items())):
        raise CheckpointError(f"{index} and its shards disagree about {_first(strays)}; download the checkpoint again.")
    return headers, {name: tensor for (name, _), tensor in held.items()}


def _check_tensors(found: Mapping[str, TensorInfo], expected: Mapping[str, Stored], folder: Path) -> None:
    if missing := [name for name, stored in expected.items() if stored.required and name not in found]:
        raise CheckpointError(
            f"{folder} lacks {_first(missing)}, which its config.json calls for; choose the matching config."
        )
    if extra := [name for name in found if name not in expected]:
        raise CheckpointError(
            f"{folder} has {_first(extra)}, which its config.json has no place for; choose the matching config."
        )
    wrong = []
    for name, info in found.items():
        stored = expected[name]
        if info.shape not in stored.shapes:
            wrong.append(f"{name} {list(info.shape)} in place of {list(stored.shapes[0])}")
        elif info.dtype not in stored.dtypes:
            wrong.append(f"{name} {info.dtype} in place of {' or '.join(stored.dtypes)}")
    if wrong:
        raise CheckpointError(f"{folder} does not fit its config.json: {_first(wrong)}; choose the matching config.")


def _first(names: list[str]) -> str:
    """Up to three names, and how many more there are."""
    shown = ", ".join(name[:120] for name in names[:_NAMED_IN_ERROR])
    return shown if len(names) <= _NAMED_IN_ERROR else f"{shown} and {len(names) - _NAMED_IN_ERROR} more"


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
            for tensor in sorted(shard.tensors.values(), key=lambda tensor: tensor.offset):
                file.seek(tensor.offset)
                yield file.read(min(_SAMPLE_BYTES, tensor.num_bytes))
    except OSError as cause:
        raise CheckpointError(f"{shard.path} cannot be read ({cause.strerror}); run the command again.") from cause
