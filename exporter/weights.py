"""The name table: which checkpoint tensors make which tensor of the reference model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from exaone_export.cache_layout import CacheLayout
from exaone_export.errors import CheckpointError
from exaone_export.exporter.checkpoint import Checkpoint
from exaone_export.exporter.model import CausalLM
from exaone_export.exporter.rope import rope_tables
from exaone_export.spec import ModelSpec

COMPUTE_WIDER = "pass --precision float32 or bfloat16, or --compute-type bfloat16 beside a quantized one"
"""What a user is told whose model float16 does not hold."""


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
    parts = [_cast(checkpoint.read(name), dtype, name) for name in source.names]
    tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
    return tensor.T.contiguous() if source.transposed else tensor


def _cast(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    if dtype == torch.float16 and tensor.dtype != dtype:
        largest = tensor.abs().max().item()
        if largest > torch.finfo(dtype).max:
            raise CheckpointError(f"tensor {name} holds {largest:.3g}, which float16 does not: {COMPUTE_WIDER}.")
    return tensor.to(dtype)


WeightReader = Callable[[torch.dtype], torch.Tensor]
"""Makes one tensor of the reference model, in the dtype that is asked for."""


def weight_readers(checkpoint: Checkpoint, layout: CacheLayout) -> dict[str, WeightReader]:
    """For every tensor of the reference model, by name, the call that makes it."""

    def reader(source: Source) -> WeightReader:
        return lambda dtype: read_weight(checkpoint, source, dtype)

    def table(which: int) -> WeightReader:
        return lambda dtype: rope_tables(checkpoint.spec, layout.max_length)[which].to(dtype)

    readers = {name: reader(source) for name, source in weight_sources(checkpoint.spec).items()}
    return readers | {"body.cos": table(0), "body.sin": table(1)}


def load_reference(checkpoint: Checkpoint, layout: CacheLayout, dtype: torch.dtype = torch.float32) -> CausalLM:
    """The reference model with the checkpoint's weights, for parity and calibration."""
    with torch.device("meta"):
        model = CausalLM(checkpoint.spec, layout, dtype)
    readers = weight_readers(checkpoint, layout)
    state = {name: readers[name](tensor.dtype) for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()
