"""The trace-friendly EXAONE, written on the static hybrid cache.

It is `transformers`' ``Exaone4Model``, or Llama for EXAONE 3, under any of its heads, rewritten for tracing: QKV and
gate/up are packed, projections are stored ``[in, out]`` so that a traced graph holds plain products, attention is one
operator, and the cache is an argument.

Precision is part of it: products, attention and the cache have the model's dtype, while norms, rotary tables and the
residual stream are float32 whatever that is. Nothing normalizes the stream itself, so it grows from layer to layer, and
a half-precision stream would lose the small terms of its sum.

Legend: B batch, S query length, T mask length, C cache capacity, K kept positions, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from exaone_export.model.heads import QUESTION_ANSWERING
from exaone_export.model.sparse_mlp import SparseMlp
from exaone_export.model.spec import LayerSpec, ModelSpec
from exaone_export.targets.cache_layout import CacheLayout

from .attention import hybrid_attention
from .experts import Experts, Router

LayerCacheTensors = tuple[torch.Tensor, torch.Tensor]


class Projection(nn.Module):
    """A product with a weight ``[in, out]``, without bias, in the weight's dtype."""

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features, dtype=dtype), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` to ``[..., out]``."""
        return x.to(self.weight.dtype) @ self.weight


class Norm(nn.Module):
    """RMSNorm over the last dimension, in float32 (Zhang and Sennrich, 2019)."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, dtype=torch.float32), requires_grad=False)
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize ``[..., size]`` of any dtype; float32 comes out."""
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.epsilon)


class Attention(nn.Module):
    """Packed projection, the hybrid attention operator, output projection."""

    def __init__(self, spec: ModelSpec, layer: LayerSpec, dtype: torch.dtype) -> None:
        super().__init__()
        heads, kv_heads, head_dim = spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim
        self.spec, self.layer = spec, layer
        self.qkv = Projection(spec.hidden_size, (heads + 2 * kv_heads) * head_dim, dtype)
        self.q_norm = self.k_norm = None
        if spec.qk_norm:
            self.q_norm = nn.Parameter(torch.empty(head_dim, dtype=torch.float32), requires_grad=False)
            self.k_norm = nn.Parameter(torch.empty(head_dim, dtype=torch.float32), requires_grad=False)
        self.output = Projection(heads * head_dim, spec.hidden_size, dtype)

    def forward(
        self,
        hidden: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        past: LayerCacheTensors,
        lengths: tuple[torch.Tensor, torch.Tensor],
    ) -> tuple[torch.Tensor, LayerCacheTensors]:
        """``[B, S, hidden_size]`` to the same, and the layer's cache after the step."""
        mixed, key, value = hybrid_attention(
            self.qkv(hidden),
            self.q_norm,
            self.k_norm,
            *rope,
            *past,
            *lengths,
            num_heads=self.spec.num_attention_heads,
            num_key_value_heads=self.spec.num_key_value_heads,
            scale=self.spec.head_dim**-0.5,
            window=self.layer.window,
            rotary=self.layer.rotary,
            epsilon=self.spec.rms_norm_eps,
        )
        return self.output(mixed), (key, value)


class FeedForward(nn.Module):
    """SwiGLU with gate and up packed (Shazeer, 2020)."""

    def __init__(self, hidden_size: int, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.size = size
        self.gate_up = Projection(hidden_size, 2 * size, dtype)
        self.down = Projection(size, hidden_size, dtype)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[B, S, hidden_size]`` to the same."""
        gate, up = self.gate_up(hidden).split((self.size, self.size), -1)
        return self.down(F.silu(gate) * up)


class SparseFeedForward(FeedForward):
    """Experts that a router chooses for every token, and beside them those that every token passes."""

    def __init__(self, spec: ModelSpec, sparse: SparseMlp, dtype: torch.dtype) -> None:
        super().__init__(spec.hidden_size, sparse.shared_size, dtype)
        self.router = Router(spec.hidden_size, sparse.num_experts)
        self.experts = Experts(spec.hidden_size, sparse, dtype)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[B, S, hidden_size]`` float32 to the same."""
        return self.experts(hidden, self.router.weight, self.router.bias) + super().forward(hidden)


class Layer(nn.Module):
    """``x + norm(attention(x))``, then ``x + norm(mlp(x))``; or, with norms in front, ``x + attention(norm(x))``."""

    def __init__(self, spec: ModelSpec, layer: LayerSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.norms_in_front = spec.norm_position == "input"
        self.attention = Attention(spec, layer, dtype)
        self.attention_norm = Norm(spec.hidden_size, spec.rms_norm_eps)
        self.mlp = (
            FeedForward(spec.hidden_size, spec.intermediate_size, dtype)
            if layer.sparse is None
            else SparseFeedForward(spec, layer.sparse, dtype)
        )
        self.mlp_norm = Norm(spec.hidden_size, spec.rms_norm_eps)

    def forward(
        self,
        hidden: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        past: LayerCacheTensors,
        lengths: tuple[torch.Tensor, torch.Tensor],
    ) -> tuple[torch.Tensor, LayerCacheTensors]:
        """``[B, S, hidden_size]`` float32 to the same, and the layer's cache after the step."""
        if self.norms_in_front:
            mixed, present = self.attention(self.attention_norm(hidden), rope, past, lengths)
            hidden = hidden + mixed.float()
            return hidden + self.mlp(self.mlp_norm(hidden)).float(), present
        mixed, present = self.attention(hidden, rope, past, lengths)
        hidden = hidden + self.attention_norm(mixed)
        return hidden + self.mlp_norm(self.mlp(hidden)), present


class Decoder(nn.Module):
    """Embedding and layers: token ids to the last layer's hidden states, before the final norm."""

    def __init__(self, spec: ModelSpec, max_length: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(spec.vocab_size, spec.hidden_size, dtype=dtype), requires_grad=False)
        self.layers = nn.ModuleList(Layer(spec, layer, dtype) for layer in spec.layers)
        self.register_buffer("cos", torch.empty(max_length, spec.head_dim // 2, dtype=torch.float32))
        self.register_buffer("sin", torch.empty(max_length, spec.head_dim // 2, dtype=torch.float32))

    def forward(
        self,
        input_ids: torch.Tensor,
        lengths: tuple[torch.Tensor, torch.Tensor],
        past: Sequence[LayerCacheTensors],
    ) -> tuple[torch.Tensor, list[LayerCacheTensors]]:
        """``[B, S]`` token ids to ``[B, S, hidden_size]`` float32, and every layer's cache after the step."""
        hidden = F.embedding(input_ids, self.embedding).float()
        present = []
        for layer, layer_past in zip(self.layers, past, strict=True):
            hidden, layer_present = layer(hidden, (self.cos, self.sin), layer_past, lengths)
            present.append(layer_present)
        return hidden, present


class Head(nn.Module):
    """A product with a bias, in float32 whatever the model's dtype is: it is small, and nothing hides its rounding."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spec.hidden_size, spec.head_size), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(spec.head_size), requires_grad=False) if spec.head.bias else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[..., hidden_size]`` float32 to ``[..., head_size]``."""
        product = hidden @ self.weight
        return product if self.bias is None else product + self.bias


class Reference(nn.Module):
    """The body under its head.

    Its arguments are the graph's inputs. A row's tokens stand at the front of the chunk; padding behind them is marked
    by a negative position. The mask covers the cache and the chunk together and says by its sum how many tokens a row
    holds after the step, so the positions are dense and the two together give both lengths.

    Args:
        spec: The architecture.
        layout: The caches.
        dtype: Of products, attention, cache and next tokens' logits; other heads are float32.
    """

    def __init__(self, spec: ModelSpec, layout: CacheLayout, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.spec, self.layout = spec, layout
        self.body = Decoder(spec, layout.max_length, dtype)
        self.norm = Norm(spec.hidden_size, spec.rms_norm_eps)
        self.head: nn.Module | None = None
        if spec.head.is_causal_lm and not spec.shares_embedding:
            self.head = Projection(spec.hidden_size, spec.vocab_size, dtype)
        elif spec.head.module is not None and not spec.head.is_causal_lm:
            self.head = Head(spec)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        logits_to_keep: torch.Tensor,
        past_key_values: Sequence[LayerCacheTensors],
    ) -> tuple[tuple[torch.Tensor, ...], list[LayerCacheTensors]]:
        """Run one step.

        Args:
            input_ids: ``[B, S]`` int64.
            attention_mask: ``[B, T]`` int64, one for every token that a row holds after the step.
            position_ids: ``[B, S]`` int64, below 0 for padding.
            logits_to_keep: ``[K]`` int64, positions counted back from a row's last token: ``[0]`` is the last alone.
            past_key_values: Key and value ``[B, num_key_value_heads, C, D]`` of every layer.

        Returns:
            What the head gives at those positions, each ``[B, K, …]`` in the order of `ModelSpec.output_shapes`, and
            every layer's cache after the step.
        """
        query_lengths = (position_ids >= 0).sum(1)
        lengths = (attention_mask.sum(1) - query_lengths, query_lengths)
        hidden, present = self.body(input_ids, lengths, past_key_values)
        kept = (query_lengths.unsqueeze(1) - 1 - logits_to_keep).clamp(min=0)
        hidden = self.norm(hidden.gather(1, kept.unsqueeze(2).expand(-1, -1, hidden.shape[-1])))
        return self._outputs(hidden), present

    def _outputs(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the head gives for ``[B, K, hidden_size]``."""
        if self.spec.shares_embedding:
            return (F.linear(hidden.to(self.body.embedding.dtype), self.body.embedding),)
        if self.head is None:
            return (hidden,)
        output = self.head(hidden)
        return (output[..., 0], output[..., 1]) if self.spec.head.kind == QUESTION_ANSWERING else (output,)

    def empty_cache(self, batch: int) -> list[LayerCacheTensors]:
        """Caches for ``batch`` rows, zero-filled, in the products' dtype."""
        heads, head_dim, weight = self.spec.num_key_value_heads, self.spec.head_dim, self.body.embedding
        shapes = [(batch, heads, layer.rows, head_dim) for layer in self.layout.layers]
        return [(weight.new_zeros(shape), weight.new_zeros(shape)) for shape in shapes]
