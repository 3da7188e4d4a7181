"""Which layers are sparse, and their experts and router."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError
from ..sparse_mlp import SparseMlp
from ..spec import DENSE, SPARSE
from .values import flag, integer, positive, required, show, size

__all__ = ["read_mlp_types", "read_sparse_mlp"]

# What the router of every K-EXAONE does; a file that says another thing describes another model.
_FIXED = {"scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",)}
_LATER = {
    "swiglu_limits": "limits what its gated products may be",
    "sliding_windows": "gives layers windows of their own",
}


def read_sparse_mlp(config: Mapping[str, Any]) -> SparseMlp:
    """The experts and the router of the sparse layers.

    Raises:
        ConfigError: A number is missing or out of range, or a key describes another computation.
    """
    for key, known in _FIXED.items():
        if config.get(key) is not None and config[key] not in known:
            raise ConfigError(
                f"{key} is {show(config[key])}, and the router of K-EXAONE has {known[0]}; choose such a checkpoint."
            )
    for key, meaning in _LATER.items():
        if config.get(key):
            raise ConfigError(
                f"config.json has {key}, which {meaning}; transformers' K-EXAONE does not, and so it cannot be "
                f"exported; choose a checkpoint without it."
            )
    required(config, "norm_topk_prob")
    sparse = SparseMlp(
        num_experts=size(config, "num_experts", maximum=1 << 16),
        num_experts_per_tok=size(config, "num_experts_per_tok"),
        moe_intermediate_size=size(config, "moe_intermediate_size"),
        num_shared_experts=size(config, "num_shared_experts", maximum=1 << 10),
        n_group=size(config, "n_group"),
        topk_group=size(config, "topk_group"),
        norm_topk_prob=flag(config, "norm_topk_prob"),
        routed_scaling_factor=positive(config, "routed_scaling_factor"),
    )
    if sparse.num_experts < 2 * sparse.n_group:
        raise ConfigError(
            f"num_experts is {sparse.num_experts} for n_group {sparse.n_group}, and a group is chosen by its two best "
            f"experts; correct config.json."
        )
    return sparse


def read_mlp_types(config: Mapping[str, Any], num_layers: int) -> tuple[str, ...]:
    """``dense`` or ``sparse`` for every layer, whether they are listed, marked or counted.

    Raises:
        ConfigError: Nothing says it, or two keys disagree.
    """
    stated, marked = config.get("mlp_layer_types"), config.get("is_moe_layer")
    for key, value, kind in (("mlp_layer_types", stated, str), ("is_moe_layer", marked, bool)):
        if value is not None and not (isinstance(value, list | tuple) and all(isinstance(one, kind) for one in value)):
            raise ConfigError(f"{key} is {show(value)}, not a list with an entry for every layer; correct config.json.")
    found = {}
    if marked is not None:
        found["is_moe_layer"] = tuple(SPARSE if sparse else DENSE for sparse in marked)
    if stated is not None:
        found["mlp_layer_types"] = tuple(stated)
    elif config.get("first_k_dense_replace") is not None or marked is None:
        # transformers reads this one unless layers are listed, and saves its default beside a list.
        dense = integer(required(config, "first_k_dense_replace"), "first_k_dense_replace", minimum=0)
        found["first_k_dense_replace"] = (DENSE,) * min(dense, num_layers) + (SPARSE,) * max(num_layers - dense, 0)
    if len(set(found.values())) > 1:
        one, other = found
        raise ConfigError(f"{one} and {other} disagree on which layers are sparse; keep one of them in config.json.")
    return next(iter(found.values()))
