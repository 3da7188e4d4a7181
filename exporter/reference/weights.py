"""The name table: which checkpoint tensors make which tensor of the reference model."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from exaone_export.errors import CheckpointError
from exaone_export.model.spec import ModelSpec
from exaone_export.targets.cache_layout import CacheLayout

from ..checkpoint.checkpoint import Checkpoint
from .model import CausalLM
from .rope import rope_tables

COMPUTE_WIDER = "pass --precision float32 or bfloat16, or --compute-type bfloat16 beside a quantized one"
"""What a user is told whose model float16 does not hold."""

# Of a tensor that is read a part at a time. Larger parts are no faster, and the heap keeps more of them; in smaller
# ones a turned row of the largest models is a few bytes.
_PART_BYTES = 8 << 20


@dataclass(frozen=True)
class Source:
    """Where a weight comes from.

    Attributes:
        names: Checkpoint tensors, stacked along their output dimension in this order.
        transposed: Whether the checkpoint's ``[out, in]`` becomes ``[in, out]``.
    """

    names: tuple[str, ...]
    transposed: bool = False


_LAYER = {
    "attention.qkv.weight": Source(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), transposed=True),
    "attention.q_norm": Source(("self_attn.q_norm",)),
    "attention.k_norm": Source(("self_attn.k_norm",)),
    "attention.output.weight": Source(("self_attn.o_proj",), transposed=True),
    "attention_norm.weight": Source(("post_attention_layernorm",)),
    "mlp.gate_up.weight": Source(("mlp.gate_proj", "mlp.up_proj"), transposed=True),
    "mlp.down.weight": Source(("mlp.down_proj",), transposed=True),
    "mlp_norm.weight": Source(("post_feedforward_layernorm",)),
}


def weight_sources(spec: ModelSpec) -> dict[str, Source]:
    """Reference name to checkpoint source, for every weight of the model."""
    sources = {"body.embedding": Source(("model.embed_tokens.weight",)), "norm.weight": Source(("model.norm.weight",))}
    for i in range(spec.num_hidden_layers):
        for name, source in _LAYER.items():
            names = tuple(f"model.layers.{i}.{part}.weight" for part in source.names)
            sources[f"body.layers.{i}.{name}"] = Source(names, source.transposed)
    if not spec.tie_word_embeddings:
        sources["head.weight"] = Source(("lm_head.weight",), transposed=True)
    return sources


def read_weight(checkpoint: Checkpoint, source: Source, dtype: torch.dtype) -> torch.Tensor:
    """Read, stack, cast and turn one weight; nothing of it is kept afterwards.

    Raises:
        CheckpointError: A tensor is damaged or holds a value that is not finite.
    """
    shapes = [checkpoint.shape(name) for name in source.names]
    outputs = sum(shape[0] for shape in shapes)
    parts = weight_rows(checkpoint, source, dtype)
    return stack(parts, (outputs, *shapes[0][1:]), dtype, turned=source.transposed)


def stack(
    parts: Iterable[torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype, *, turned: bool = False
) -> torch.Tensor:
    """Put rows behind each other as they come, so that beside the whole there is one part in memory.

    Args:
        parts: ``[rows, …]`` each.
        shape: Of all of them together.
        dtype: Theirs.
        turned: Whether the two dimensions change places.
    """
    whole = torch.empty(shape[::-1] if turned else shape, dtype=dtype)
    done = 0
    for part in parts:
        # Turned on its own first: torch does that in blocks, which a copy into columns would not be.
        rows = part.T.contiguous() if turned else part
        whole.narrow(int(turned), done, len(part)).copy_(rows)
        done += len(part)
        del part, rows  # before the next is read
    assert done == whole.shape[int(turned)], f"{done} rows of {tuple(shape)}"
    return whole


def rows_at_once(columns: int, item_size: int) -> int:
    """How many rows of a checkpoint's tensor are read at a time: an even number, for two int4 values share a byte."""
    return max(_PART_BYTES // (columns * item_size), 2) // 2 * 2


def weight_rows(checkpoint: Checkpoint, source: Source, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Read and cast one weight some output channels at a time, each part ``[rows, in]``; raises as `read_weight`."""
    for name in source.names:
        columns = math.prod(checkpoint.shape(name)[1:])
        parts = checkpoint.read_rows(name, rows_at_once(columns, dtype.itemsize))
        yield from map(partial(_cast, dtype=dtype, name=name), parts)


def _cast(tensor: torch.Tensor, *, dtype: torch.dtype, name: str) -> torch.Tensor:
    if dtype == torch.float16 and tensor.dtype != dtype:
        largest = tensor.abs().max().item()
        if largest > torch.finfo(dtype).max:
            raise CheckpointError(f"tensor {name} holds {largest:.3g}, which float16 does not: {COMPUTE_WIDER}.")
    return tensor.to(dtype)


@dataclass(frozen=True)
class WeightReader:
    """Makes one tensor of a graph, or of the reference model, when it is called.

    Attributes:
        parts: In the dtype that is asked for, contiguous pieces of the tensor, one behind the other.
        source: What it is made of; tensors of one source are made by one reading.
        whole: Whether there is one part, which holds the whole tensor.
    """

    parts: Callable[[torch.dtype], Iterator[torch.Tensor]]
    source: Hashable
    whole: bool = False

    def __call__(self, dtype: torch.dtype) -> torch.Tensor:
        """The whole tensor."""
        parts = list(self.parts(dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def weight_readers(checkpoint: Checkpoint, layout: CacheLayout) -> dict[str, WeightReader]:
    """For every tensor of the reference model, by name, what makes it."""

    def turned(source: Source, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        yield read_weight(checkpoint, source, dtype)

    def table(which: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        yield rope_tables(checkpoint.spec, layout.max_length)[which].to(dtype)

    readers = {
        name: WeightReader(partial(turned, source), source, whole=True)
        if source.transposed
        else WeightReader(partial(weight_rows, checkpoint, source), source)
        for name, source in weight_sources(checkpoint.spec).items()
    }
    return readers | {
        name: WeightReader(partial(table, which), name, whole=True)
        for which, name in enumerate(("body.cos", "body.sin"))
    }


def load_reference(checkpoint: Checkpoint, layout: CacheLayout, dtype: torch.dtype = torch.float32) -> CausalLM:
    """The reference model with the checkpoint's weights, for parity and calibration."""
    with torch.device("meta"):
        model = CausalLM(checkpoint.spec, layout, dtype)
    sources, readers = weight_sources(checkpoint.spec), weight_readers(checkpoint, layout)
    state = {
        name: read_weight(checkpoint, sources[name], tensor.dtype) if name in sources else readers[name](tensor.dtype)
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()
