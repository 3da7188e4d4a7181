"""``exaone::routed_experts``: the router and its experts, as the reference runs them and tracing records as one node.

Legend: B batch, S query length, T tokens, E experts, K chosen experts, H hidden_size, I gated products of an expert.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from exaone_export.model.sparse_mlp import SparseMlp


@torch.library.custom_op("exaone::routed_experts", mutates_args=())
def routed_experts(
    hidden: torch.Tensor,
    router: torch.Tensor,
    bias: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    chosen: int,
    groups: int,
    chosen_groups: int,
    normalized: bool,
    scale: float,
) -> torch.Tensor:
    """The sum of a token's chosen experts, weighted by their scores (DeepSeek-AI, 2024, without its auxiliary loss).

    Args:
        hidden: ``[B, S, H]`` float32.
        router: ``[H, E]`` float32; every expert's score is the sigmoid of its product.
        bias: ``[E]`` float32, added to the scores that experts are chosen by.
        gate_up: ``[E, H, 2 I]``, gate and up packed; float32, bfloat16 or float16.
        down: ``[E, I, H]`` of the same type.
        chosen: K.
        groups: Into which the experts are divided, in order.
        chosen_groups: Those whose two best experts have the largest sums, of which experts can be chosen.
        normalized: Whether the chosen scores are divided by their sum.
        scale: What they are multiplied by at last.

    Returns:
        ``[B, S, H]`` float32.
    """
    tokens = hidden.flatten(0, 1)
    indices, weights = route(tokens, router, bias, chosen, groups, chosen_groups, normalized, scale)
    output = torch.zeros_like(tokens)
    for expert in indices.unique().tolist():
        at, which = torch.where(indices == expert)
        mixed = pass_expert(tokens[at], gate_up[expert], down[expert])
        output.index_add_(0, at, mixed * weights[at, which, None])
    return output.view_as(hidden)


@routed_experts.register_fake
def _(hidden, *_others):  # type: ignore[no-untyped-def]
    return torch.empty_like(hidden)


def route(
    tokens: torch.Tensor,
    router: torch.Tensor,
    bias: torch.Tensor,
    chosen: int,
    groups: int,
    chosen_groups: int,
    normalized: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose experts for ``[T, H]``, see `routed_experts`: their numbers and weights, each ``[T, K]``."""
    scores_TE = (tokens @ router).sigmoid()
    choice_TE = scores_TE + bias
    if chosen_groups < groups:
        grouped = choice_TE.unflatten(1, (groups, -1))
        best = grouped.topk(2).values.sum(-1).topk(chosen_groups).indices
        left_out = torch.ones(len(tokens), groups, dtype=torch.bool).scatter(1, best, value=False)
        choice_TE = grouped.masked_fill(left_out[:, :, None], -torch.inf).flatten(1)
    indices = choice_TE.topk(chosen).indices
    weights = scores_TE.gather(1, indices)
    if normalized:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return indices, weights * scale


def pass_expert(tokens: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """``[T, H]`` of any type through one expert, in its type; float32 comes out."""
    gate, up = (tokens.to(gate_up.dtype) @ gate_up).chunk(2, -1)
    return ((F.silu(gate) * up) @ down).float()


class Router(nn.Module):
    """The router's weight ``[H, E]`` and bias ``[E]``, float32 whatever the model's dtype is."""

    def __init__(self, hidden_size: int, num_experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size, num_experts, dtype=torch.float32), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(num_experts, dtype=torch.float32), requires_grad=False)


class Experts(nn.Module):
    """The experts' stacked weights, ``[E, H, 2 I]`` and ``[E, I, H]``."""

    def __init__(self, hidden_size: int, sparse: SparseMlp, dtype: torch.dtype) -> None:
        super().__init__()
        experts, size = sparse.num_experts, sparse.moe_intermediate_size
        self.gate_up = nn.Parameter(torch.empty(experts, hidden_size, 2 * size, dtype=dtype), requires_grad=False)
        self.down = nn.Parameter(torch.empty(experts, size, hidden_size, dtype=dtype), requires_grad=False)
        self.routing = (
            sparse.num_experts_per_tok,
            sparse.n_group,
            sparse.topk_group,
            sparse.norm_topk_prob,
            sparse.routed_scaling_factor,
        )

    def forward(self, hidden: torch.Tensor, router: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """``[B, S, H]`` float32 to the same."""
        return routed_experts(hidden, router, bias, self.gate_up, self.down, *self.routing)
