"""From a folder or a hub id to checked tensors: where the files lie, and that they are those of the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from exaone_export.errors import CheckpointError, ConfigError
from exaone_export.hub.names import is_hub_id
from exaone_export.model.heads import HEAD_MODULES
from exaone_export.model.spec import ModelSpec
from exaone_export.model.stored_names import describe_left_out, is_left_out
from exaone_export.model.tensors import EMBEDDING_TENSOR, HEAD_MODULE, HEAD_TENSOR, expected_tensors

from .fused_experts import apart
from .hub import check_no_revision, download
from .prequantized.form import Form, Stored
from .prequantized.projections import Projections
from .safetensors_file import FLOAT_TYPES, READ_TYPES, SafetensorsHeader, TensorInfo
from .tensor_rows import read_rows
from .tensors import check_tensors, is_buffer, with_own_names
from .weight_files import read_headers

__all__ = ["SIDECAR_PATTERNS", "TOKENIZER_PATTERNS", "read_tensors", "resolve", "shard_of"]

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

# Values that are compared at a time.
_SLICE = 1 << 20

Shards = tuple[SafetensorsHeader, ...]


def resolve(model: str | Path, revision: str | None) -> tuple[Path, str, str | None]:
    """The folder, the name, and the commit if it came from the hub."""
    folder = Path(model).expanduser()
    if model != "" and folder.is_dir():  # Path("") is the current folder, which an unset variable does not mean.
        check_no_revision(folder, revision)
        return folder, folder.resolve().name, None
    if isinstance(model, Path) or not is_hub_id(model):
        raise CheckpointError(
            f"{model} is neither a folder nor a hub id such as LGAI-EXAONE/EXAONE-4.0-1.2B; check the path."
        )
    snapshot = download(model, revision, _DOWNLOADED)
    return snapshot, model, snapshot.name


def read_tensors(
    folder: Path, spec: ModelSpec, form: Form | None, model_type: str
) -> tuple[Shards, dict[str, TensorInfo], Projections | None, tuple[str, ...]]:
    """Read every header, and check every tensor's name, type and shape.

    Args:
        folder: The checkpoint.
        spec: What its config says.
        form: How the config says that projections are quantized; None where they are not.
        model_type: As the config has it, which names of tensors depend on.

    Returns:
        The headers, the tensors by name, the quantized projections, and what is left out, a sentence for each part.

    Raises:
        CheckpointError: Files are missing or damaged, or the tensors are not those of the config.
        ConfigError: The quantization stands in another file than the config.
    """
    unnamed = form is None and (folder / "quantize_config.json").exists()
    dtypes = FLOAT_TYPES if form is None and not unnamed else READ_TYPES
    left_out: set[str] = set()

    def is_unread(name: str) -> bool:
        if is_left_out(name, model_type):
            left_out.add(name)
        return name in left_out or is_buffer(name)

    shards, tensors = read_headers(folder, dtypes, is_unread)
    if unnamed and any(name.endswith(".qweight") for name in tensors):
        raise ConfigError(
            f"{folder} has a quantize_config.json, and config.json has no quantization_config; copy the content of "
            f'the one into the other, with "quant_method": "gptq".'
        )
    tensors = apart(with_own_names(tensors, model_type), spec)
    tied = _pop_module(tensors, HEAD_MODULE) if spec.shares_embedding else {}
    if spec.head.module is None:  # the bare model of a checkpoint that may have any head
        for module in HEAD_MODULES:
            _pop_module(tensors, module)
    projections, expected = None, {name: Stored((shape,)) for name, shape in expected_tensors(spec).items()}
    if form is not None:
        projections = Projections.find(form, spec, {name: info.dtype for name, info in tensors.items()})
        expected = projections.expected(expected_tensors(spec))
    check_tensors(tensors, expected, folder, spec)
    if tied:
        _check_tied(folder, tied, tensors[EMBEDDING_TENSOR], shards)
    return shards, tensors, projections, describe_left_out(left_out, model_type)


def _pop_module(tensors: dict[str, TensorInfo], module: str) -> dict[str, TensorInfo]:
    """Take the tensors of one module out."""
    return {name: tensors.pop(name) for name in list(tensors) if name.startswith(f"{module}.")}


def shard_of(info: TensorInfo, shards: Sequence[SafetensorsHeader]) -> SafetensorsHeader:
    """The file that holds a tensor."""
    return next(header for header in shards if header.path == info.shard)


def _check_tied(
    folder: Path, found: Mapping[str, TensorInfo], embedding: TensorInfo, shards: Sequence[SafetensorsHeader]
) -> None:
    """Raise where a vocabulary projection is not the embedding, though the config says that the two are one."""
    head = found.get(HEAD_TENSOR)
    same = False
    if head is not None and len(found) == 1 and (head.dtype in FLOAT_TYPES, head.shape) == (True, embedding.shape):
        rows = max(_SLICE // embedding.shape[1], 1)
        heads, embeddings = (read_rows(shard_of(info, shards), info, rows) for info in (head, embedding))
        pairs = zip(heads, embeddings, strict=True)
        same = all(torch.equal(one.float(), other.float()) for one, other in pairs)
    if not same:
        raise CheckpointError(
            f"{folder} has a vocabulary projection ({next(iter(found))}) that differs from the embedding, and "
            f"its config.json ties the two; to keep it, write tie_word_embeddings: false in config.json."
        )
