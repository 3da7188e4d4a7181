"""A Hugging Face checkpoint: checked whole when it is opened, read one tensor at a time.

Only safetensors files are opened. Nothing of a checkpoint is executed: no pickle, no remote code.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open

from exaone_export import strict_json
from exaone_export.errors import CheckpointError, ConfigError
from exaone_export.exporter.safetensors_file import SafetensorsHeader, TensorInfo
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
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_MAX_INDEX_BYTES = 16 << 20
_NAMED_IN_ERROR = 3

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
        tensors: Every tensor by name; exactly those that `expected_tensors` lists.
        shards: The headers of the weight files, sorted by file name.
    """

    name: str
    revision: str | None
    folder: Path
    spec: ModelSpec
    tensors: Mapping[str, TensorInfo]
    shards: tuple[SafetensorsHeader, ...]

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
            ConfigError: The config is unreadable, contradicts itself or describes another architecture.
        """
        folder, name, commit = _resolve(model, revision)
        spec = ModelSpec.from_folder(folder)
        shards, tensors = _read_headers(folder)
        _check_tensors(tensors, expected_tensors(spec), folder)
        return cls(name, commit, folder, spec, MappingProxyType(tensors), shards)

    def read(self, name: str) -> torch.Tensor:
        """Map one tensor from its file; it stays on disk until it is used.

        Returns:
            The tensor, in the checkpoint's shape and dtype.

        Raises:
            CheckpointError: The checkpoint has no such tensor, the file has changed since it was opened, or a value is
                not finite.
        """
        info = self.tensors.get(name)
        if info is None:
            raise CheckpointError(f"the checkpoint has no tensor {name!r}; see the `tensors` of this checkpoint.")
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

    @property
    def sidecars(self) -> tuple[Path, ...]:
        """Config, tokenizer, chat template and licence files that are there, sorted by name."""
        found = chain.from_iterable(self.folder.glob(pattern) for pattern in SIDECAR_PATTERNS)
        return tuple(sorted(path for path in found if path.is_file()))

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
    if isinstance(model, Path) or not _HUB_ID.fullmatch(model):
        raise CheckpointError(
            f"{model} is neither a folder nor a hub id such as LGAI-EXAONE/EXAONE-4.0-1.2B; check the path."
        )
    return _download(model, revision)


def _download(hub_id: str, revision: str | None) -> tuple[Path, str, str]:
    import huggingface_hub

    try:
        snapshot = huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=list(_DOWNLOADED))
    except (OSError, ValueError) as cause:  # Every error of huggingface_hub and httpx for a download is one of these.
        raise CheckpointError(
            f"{hub_id} is no local folder and cannot be downloaded ({type(cause).__name__}); download it elsewhere "
            f"and give the folder's path."
        ) from cause
    return Path(snapshot), hub_id, Path(snapshot).name


# Reading the headers


def _read_headers(folder: Path) -> tuple[tuple[SafetensorsHeader, ...], dict[str, TensorInfo]]:
    index, single = folder / INDEX_NAME, folder / WEIGHTS_NAME
    if index.exists() and single.exists():
        raise CheckpointError(f"{folder} has both {WEIGHTS_NAME} and {INDEX_NAME}; remove the one that is stale.")
    if index.exists():
        return _read_sharded(index)
    if not single.exists():
        raise CheckpointError(_nothing_to_read(folder))
    header = SafetensorsHeader.read(single)
    return (header,), header.tensors


def _nothing_to_read(folder: Path) -> str:
    pickles = sorted(chain.from_iterable(folder.glob(pattern) for pattern in _PICKLES))
    if pickles:
        return (
            f"{folder} has pickled weights only ({pickles[0].name}), and a pickle runs code when opened; convert it "
            f"with save_pretrained of transformers, which writes safetensors."
        )
    return f"{folder} has neither {WEIGHTS_NAME} nor {INDEX_NAME}; download the checkpoint again."


def _read_sharded(index: Path) -> tuple[tuple[SafetensorsHeader, ...], dict[str, TensorInfo]]:
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

    headers = tuple(SafetensorsHeader.read(index.parent / name) for name in names)
    held = {(tensor.name, header.path.name): tensor for header in headers for tensor in header.tensors.values()}
    if strays := sorted(name for name, _ in held.keys() ^ set(weight_map.items())):
        raise CheckpointError(f"{index} and its shards disagree about {_first(strays)}; download the checkpoint again.")
    return headers, {name: tensor for (name, _), tensor in held.items()}


def _check_tensors(found: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    if missing := [name for name in expected if name not in found]:
        raise CheckpointError(
            f"{folder} lacks {_first(missing)}, which its config.json calls for; choose the matching config."
        )
    if extra := [name for name in found if name not in expected]:
        raise CheckpointError(
            f"{folder} has {_first(extra)}, which its config.json has no place for; choose the matching config."
        )
    wrong = [
        f"{name} {list(found[name].shape)} in place of {list(shape)}"
        for name, shape in expected.items()
        if found[name].shape != shape
    ]
    if wrong:
        raise CheckpointError(f"{folder} does not fit its config.json: {_first(wrong)}; choose the matching config.")


def _first(names: list[str]) -> str:
    """Up to three names, and how many more there are."""
    shown = ", ".join(name[:120] for name in names[:_NAMED_IN_ERROR])
    return shown if len(names) <= _NAMED_IN_ERROR else f"{shown} and {len(names) - _NAMED_IN_ERROR} more"


# Values


def _check_finite(tensor: torch.Tensor, info: TensorInfo) -> None:
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
    raise CheckpointError(
        f"{info.name} in {info.shard.name} is {tensor[tuple(index)].item()} at {index}; download the checkpoint again, "
        f"or choose one whose weights are finite."
    )


def _samples(shard: SafetensorsHeader) -> Iterator[bytes]:
    try:
        with shard.path.open("rb") as file:
            for tensor in sorted(shard.tensors.values(), key=lambda tensor: tensor.offset):
                file.seek(tensor.offset)
                yield file.read(min(_SAMPLE_BYTES, tensor.num_bytes))
    except OSError as cause:
        raise CheckpointError(f"{shard.path} cannot be read ({cause.strerror}); run the command again.") from cause
