"""Deliberate mistakes in the architecture, to show that the checkpoint's answers notice them.

Each function breaks a loaded model in place, the way that an exporter could get it wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import PreTrainedModel


def rotate_global_layers(model: PreTrainedModel) -> None:
    """RoPE on the global layers, which have none."""
    for layer in model.model.layers:
        layer.self_attn.sliding_window = None


def no_rotation(model: PreTrainedModel) -> None:
    """No RoPE on any layer."""
    for layer in model.model.layers:
        layer.self_attn.is_sliding = False


def window_on_every_layer(model: PreTrainedModel) -> None:
    """The sliding window on the global layers too."""
    model.config.layer_types = ["sliding_attention"] * model.config.num_hidden_layers


def no_window(model: PreTrainedModel) -> None:
    """Local layers that see everything."""
    model.config.layer_types = ["full_attention"] * model.config.num_hidden_layers


def half_window(model: PreTrainedModel) -> None:
    """A window of half its width."""
    model.config.sliding_window //= 2


def narrow_window(model: PreTrainedModel) -> None:
    """A window of one token less."""
    model.config.sliding_window -= 1


def wide_window(model: PreTrainedModel) -> None:
    """A window of one token more."""
    model.config.sliding_window += 1


def unscaled_rope(model: PreTrainedModel) -> None:
    """RoPE without the llama3 scaling of its low frequencies."""
    rope = model.config.rope_parameters
    exponents = torch.arange(0, model.config.head_dim, 2) / model.config.head_dim
    model.model.rotary_emb.inv_freq = rope["rope_theta"] ** -exponents


def no_query_norm(model: PreTrainedModel) -> None:
    """Queries that are not normalized."""
    for layer in model.model.layers:
        layer.self_attn.q_norm = torch.nn.Identity()


def doubled_attention_scale(model: PreTrainedModel) -> None:
    """Attention logits twice as large."""
    for layer in model.model.layers:
        layer.self_attn.scaling *= 2


FAULTS: dict[str, Callable[[PreTrainedModel], None]] = {
    "rotate-global-layers": rotate_global_layers,
    "no-rotation": no_rotation,
    "window-on-every-layer": window_on_every_layer,
    "no-window": no_window,
    "half-window": half_window,
    "narrow-window": narrow_window,
    "wide-window": wide_window,
    "unscaled-rope": unscaled_rope,
    "no-query-norm": no_query_norm,
    "doubled-attention-scale": doubled_attention_scale,
}
