"""The files of a folder that hold a checkpoint's weights, or what the folder holds in their place.

transformers writes ``model.safetensors``, or shards with an index; quantizers write the same under names of their own,
such as ``gptq_model-4bit-128g.safetensors``. An index says which files belong together; where a tensor lies, the files
themselves say, as for transformers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from itertools import chain
from pathlib import Path

from exaone_export.errors import CheckpointError
from exaone_export.files import strict_json
from exaone_export.files.names import is_plain_name

from .safetensors_file import SafetensorsHeader, TensorInfo

__all__ = ["INDEX_NAME", "WEIGHTS_NAME", "adapter", "first_names", "no_checkpoint", "read_headers"]

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

_PICKLES = ("*.bin", "*.pt", "*.pth")
# What a training leaves beside its weights.
_TRAINING = re.compile(r"training_args\.bin|(optimizer|scheduler)\.(bin|pt)|rng_state.*\.pth")
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_MAX_INDEX_BYTES = 16 << 20
_NAMED_IN_ERROR = 3
_COMPLETE = "give a folder with config.json and model.safetensors, or a hub id"


def read_headers(
    folder: Path, dtypes: Collection[str], unread: Callable[[str], bool]
) -> tuple[tuple[SafetensorsHeader, ...], dict[str, TensorInfo]]:
    """Read the headers of all weight files.

    Args:
        folder: The checkpoint's.
        dtypes: Of the tensors that they may hold.
        unread: Whether a tensor of this name is left out.

    Returns:
        The headers, sorted by file name, and every tensor by name.

    Raises:
        CheckpointError: There are none, one is missing or damaged, or it is open which are meant.
    """
    headers = tuple(SafetensorsHeader.read(folder / name, dtypes=dtypes, unread=unread) for name in _find(folder))
    tensors: dict[str, TensorInfo] = {}
    for tensor in chain.from_iterable(header.tensors.values() for header in headers):
        if (other := tensors.setdefault(tensor.name, tensor)) is not tensor:
            raise CheckpointError(
                f"{folder} has {tensor.name[:120]} in both {other.shard.name} and {tensor.shard.name}; download the "
                f"checkpoint again."
            )
    return headers, tensors


def no_checkpoint(folder: Path) -> str:
    """One sentence on a folder without weights, or without a config: what is there, and what to give."""
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return f"{folder} is empty; {_COMPLETE}."
    if "exaone_export.json" in names:
        return f"{folder} is an artifact of an export, not a checkpoint; give the checkpoint that it was exported from."
    if ggufs := [name for name in names if name.endswith(".gguf")]:
        return (
            f"{folder} holds GGUF files ({first_names(ggufs)}) and no safetensors, and GGUF cannot be exported; give "
            f"the checkpoint in Hugging Face form that they were made from."
        )
    if pickles := [
        path.name
        for path in chain.from_iterable(folder.glob(one) for one in _PICKLES)
        if not _TRAINING.match(path.name)
    ]:
        return (
            f"{folder} has pickled weights only ({min(pickles)}), and a pickle runs code when opened; convert it with "
            f"save_pretrained of transformers, which writes safetensors."
        )
    if "adapter_model.safetensors" in names:
        return adapter(folder)
    if "snapshots" in names:
        return f"{folder} is a repository of the hub's cache; give the folder of one commit in {folder / 'snapshots'}."
    if "config.json" in names:
        return (
            f"{folder} has neither {WEIGHTS_NAME} nor {INDEX_NAME}; download the checkpoint again, or choose one that "
            f"is published as safetensors."
        )
    if any(name.endswith(".safetensors") for name in names):
        return f"{folder} has weights and no config.json; copy the checkpoint's config.json into it."
    if inside := sorted(folder.glob("*/config.json")):
        return f"{folder} is not a checkpoint, and {inside[0].parent} looks like one; give that folder."
    return f"{folder} has neither a config.json nor safetensors files; {_COMPLETE}."


def adapter(folder: Path, base: str = "") -> str:
    """One sentence on a folder that holds an adapter alone, of a model that ``base`` names."""
    return (
        f"{folder} holds an adapter{base}, not a whole model; merge it with merge_and_unload() of peft and give the "
        f"folder that save_pretrained writes."
    )


def first_names(names: list[str]) -> str:
    """Up to three names, and how many more there are."""
    shown = ", ".join(name[:120] for name in names[:_NAMED_IN_ERROR])
    return shown if len(names) <= _NAMED_IN_ERROR else f"{shown} and {len(names) - _NAMED_IN_ERROR} more"


def _find(folder: Path) -> list[str]:
    """The names of the weight files, sorted."""
    index, single = folder / INDEX_NAME, folder / WEIGHTS_NAME
    if index.exists() and single.exists():
        raise CheckpointError(f"{folder} has both {WEIGHTS_NAME} and {INDEX_NAME}; remove the one that is stale.")
    if single.exists():
        return [single.name]
    indexes = [index] if index.exists() else sorted(folder.glob("*.safetensors.index.json"))
    if len(indexes) == 1:
        return _listed(indexes[0])
    names = sorted(path.name for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))
    if not names:
        raise CheckpointError(no_checkpoint(folder))
    if whole := _numbered(names):
        _check_present(folder, sorted(whole))
    elif len(names) > 1 or indexes:
        raise CheckpointError(
            f"{folder} has {first_names(names)} and no {INDEX_NAME} that says which of them belong together; remove "
            f"those that are stale."
        )
    return names


def _numbered(names: list[str]) -> set[str]:
    """All files of a checkpoint of which some are named, by the numbers in their names; empty where they have none."""
    numbered = [match for match in map(_NUMBERED.fullmatch, names) if match]
    if len(numbered) != len(names) or len({(one[1], one[3]) for one in numbered}) != 1:
        return set()
    base, count = numbered[0][1], numbered[0][3]
    return {f"{base}-{i:05}-of-{count}.safetensors" for i in range(1, int(count) + 1)}


def _listed(index: Path) -> list[str]:
    """The files that an index names."""
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
    _check_present(index.parent, names)
    if (whole := _numbered(names)) and (
        rest := [name for name in whole.difference(names) if (index.parent / name).exists()]
    ):
        raise CheckpointError(
            f"{index} does not name {first_names(sorted(rest))}, part of the same checkpoint; download the index again."
        )
    return names


def _check_present(folder: Path, names: Iterable[str]) -> None:
    if missing := [name for name in names if not (folder / name).exists()]:
        raise CheckpointError(f"{folder} lacks {first_names(missing)}; download the checkpoint again.")
