"""A feed-forward network of many experts, of which a router chooses some for every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

__all__ = ["SparseMlp"]


@dataclass(frozen=True)
class SparseMlp:
    """One sparse feed-forward network; the names, and their meaning, are those of ``config.json``.

    The router scores every expert in float32, by the sigmoid of a product; a stored bias is added to the scores that
    experts are chosen by, and not to those that they are weighted by. The experts of the best ``topk_group`` groups
    compete, and the ``num_experts_per_tok`` best of them are summed, weighted by their scores; shared experts are added
    for every token.

    Attributes:
        num_experts: Of which the router chooses.
        num_experts_per_tok: How many it chooses for a token.
        moe_intermediate_size: Gated products of one expert.
        num_shared_experts: Experts that every token passes, stored as one of so many times the size; 0 for none.
        n_group: Groups that the experts are divided into, in order.
        topk_group: Groups of which experts can be chosen, those whose two best scores have the largest sum.
        norm_topk_prob: Whether the chosen experts' weights are divided by their sum.
        routed_scaling_factor: What their weights are multiplied by at last.
    """

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    num_shared_experts: int = 0
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0

    def __post_init__(self) -> None:
        """Raise ConfigError where the fields contradict each other."""
        if self.num_experts % self.n_group:
            raise ConfigError(
                f"num_experts is {self.num_experts}, which is not a multiple of n_group ({self.n_group}); correct "
                f"config.json."
            )
        if not 1 <= self.topk_group <= self.n_group:
            raise ConfigError(
                f"topk_group is {self.topk_group}, and n_group has {self.n_group} to choose from; correct config.json."
            )
        most = self.num_experts // self.n_group * self.topk_group
        if not 1 <= self.num_experts_per_tok <= most:
            raise ConfigError(
                f"num_experts_per_tok is {self.num_experts_per_tok}, and there are {most} experts to choose from; "
                f"correct config.json."
            )

    @property
    def shared_size(self) -> int:
        """Gated products of the shared experts together."""
        return self.num_shared_experts * self.moe_intermediate_size

    def to_config(self) -> dict[str, Any]:
        """What ``config.json`` says of it."""
        names = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "num_shared_experts", "n_group")
        more = ("topk_group", "norm_topk_prob", "routed_scaling_factor")
        return {name: getattr(self, name) for name in (*names, *more)}
