"""Read a layer's attention from a node of any target: its attributes and the nodes around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from exaone_export.errors import GraphContradictionError

from .hybrid_attention import INPUTS, has_qk_norm, is_hybrid_attention
from .topology import constant_ints, epsilon_of, is_norm, producer


@dataclass(frozen=True)
class AttentionReading:
    """One attention node.

    Attributes:
        operator: Its domain and name.
        past_key: The cache that it reads.
        rotary: Whether queries and keys have RoPE.
        window: Keys that a query sees; 0 for all.
        evicts: Whether old rows are evicted when the cache is full.
        num_heads: Attention heads.
        num_key_value_heads: Key-value heads.
        scale: Factor of the scores.
        qk_norm: Whether queries and keys are normalized.
        epsilons: Of those norms.
        sources: The nodes that compute queries, keys and values, before norms and rotations.
    """

    operator: str
    past_key: ir.Value
    rotary: bool
    window: int
    evicts: bool
    num_heads: int
    num_key_value_heads: int
    scale: float
    qk_norm: bool
    epsilons: tuple[float, ...]
    sources: frozenset[ir.Node | None]


def is_attention(node: ir.Node) -> bool:
    """Whether ``node`` is a layer's attention, in the form of any target."""
    return node.op_type in _READERS and (node.op_type != "HybridAttention" or is_hybrid_attention(node))


def read_attention(node: ir.Node) -> AttentionReading:
    """Read a node for which `is_attention` holds.

    Raises:
        GraphContradictionError: The wires around the node are not those of an attention layer.
    """
    return _READERS[node.op_type](node)


def _read_hybrid(node: ir.Node) -> AttentionReading:
    given = node.attributes
    window = given["window"].as_int()
    return AttentionReading(
        operator=_operator(node),
        past_key=_wired(node, node.inputs[INPUTS.index("past_key")], "cache"),
        rotary=bool(given["rotary"].as_int()),
        window=window,
        evicts=bool(window),
        num_heads=given["num_heads"].as_int(),
        num_key_value_heads=given["num_key_value_heads"].as_int(),
        scale=given["scale"].as_float(),
        qk_norm=has_qk_norm(node),
        epsilons=(given["epsilon"].as_float(),),
        sources=frozenset({producer(node.inputs[0])}),
    )


def _read_group_query(node: ir.Node) -> AttentionReading:
    given = node.attributes
    norms = [found for found in map(producer, node.inputs[:2]) if found is not None and is_norm(found)]
    # q_norm_weight and k_norm_weight, where the operator normalizes itself
    weights = [value for value in node.inputs[14:16] if value is not None]
    epsilons = tuple(map(epsilon_of, norms))
    if weights:
        epsilons += (given["qk_norm_epsilon"].as_float() if "qk_norm_epsilon" in given else 1e-6,)  # its default
    return AttentionReading(
        operator=_operator(node),
        past_key=_wired(node, node.inputs[3], "cache"),
        rotary=bool(given["do_rotary"].as_int()),
        window=max(given["local_window_size"].as_int(), 0) if "local_window_size" in given else 0,
        evicts="sliding_window_cache" in given and bool(given["sliding_window_cache"].as_int()),
        num_heads=given["num_heads"].as_int(),
        num_key_value_heads=given["kv_num_heads"].as_int(),
        scale=given["scale"].as_float(),
        qk_norm=_both(node, [*norms, *weights]),
        epsilons=epsilons,
        # Keys and values are absent where the product goes in as it is.
        sources=frozenset(_source(value) for value in node.inputs[:3] if value is not None),
    )


def _read_attention(node: ir.Node) -> AttentionReading:
    """Standard attention over a scattered cache, or in an inlined body, under an explicit mask."""
    scatters = [producer(value) for value in node.inputs[1:3]]
    if all(maker is not None and maker.op_type == "Where" for maker in scatters):
        return _read_inlined(node)
    if any(scatter is None or scatter.op_type != "TensorScatter" for scatter in scatters):
        raise GraphContradictionError(f"attention node {node.name!r} does not attend to a cache that the step updates.")
    key, value = (scatter for scatter in scatters if scatter is not None)
    query_maker, key_maker = producer(node.inputs[0]), producer(key.inputs[1])
    rotations = [
        found for found in (query_maker, key_maker) if found is not None and found.op_type == "RotaryEmbedding"
    ]
    if len(rotations) == 1:
        raise GraphContradictionError(f"attention node {node.name!r} rotates queries or keys and not both.")
    normal = [producer(found.inputs[0]) for found in rotations] or [query_maker, key_maker]
    norms = [found for found in normal if found is not None and is_norm(found)]
    heads, kv_heads, _ = _split_sizes(node)
    written = {scatter.inputs[2] for scatter in (key, value)}
    return AttentionReading(
        operator=_operator(node),
        past_key=_wired(node, key.inputs[0], "cache"),
        rotary=bool(rotations),
        window=_mask_window(node),
        evicts=all(map(_behind_evicted, written)),
        num_heads=heads,
        num_key_value_heads=kv_heads,
        scale=node.attributes["scale"].as_float(),
        qk_norm=_both(node, norms),
        epsilons=tuple(map(epsilon_of, norms)),
        sources=frozenset({_source(node.inputs[0]), _source(key.inputs[1]), _source(value.inputs[1])}),
    )


def _read_inlined(node: ir.Node) -> AttentionReading:
    """The body of ``exaone::HybridAttention``: resident rows and the chunk, joined, behind an explicit mask."""

    def follow(value: ir.Value | None, *steps: tuple[str, int]) -> ir.Value:
        """From ``value`` through nodes of these operators, each left by the input of this index."""
        for operator, index in steps:
            maker = value.producer() if value is not None else None
            if maker is None or maker.op_type != operator:
                raise GraphContradictionError(f"attention node {node.name!r} is not in the body of HybridAttention.")
            value = maker.inputs[index]
        return _wired(node, value, "wire")

    def constant(value: ir.Value | None) -> int:
        found = constant_ints(value)
        if len(found) != 1:
            raise GraphContradictionError(f"attention node {node.name!r} depends on a value that is not constant.")
        return found[0]

    def rotates(value: ir.Value | None) -> set[int]:
        rotation = producer(value)
        if rotation is None or rotation.op_type != "RotaryEmbedding":
            return {0}
        return {constant(follow(table, ("Where", 0))) for table in rotation.inputs[1:3]}

    def evicts(joined: ir.Value | None) -> bool:
        """Whether the new cache is gathered from behind the rows that have been evicted."""
        gathers = [user for user in _wired(node, joined, "cache").consumers() if user.op_type == "GatherElements"]
        index = gathers[0].inputs[1] if len(gathers) == 1 else None
        source = follow(index, ("Expand", 0), ("Unsqueeze", 0), ("Clip", 0), ("Where", 1))
        evicted = follow(source, ("Sub", 0), ("Add", 0), ("Unsqueeze", 0), ("Where", 0))
        return bool(constant(evicted))

    query, keys, values, mask = node.inputs[:4]
    key = follow(keys, ("Where", 1), ("Concat", 1))
    rotary = rotates(query) | rotates(key)
    if len(rotary) != 1:
        raise GraphContradictionError(f"attention node {node.name!r} rotates queries or keys and not both.")
    in_window = follow(mask, ("Unsqueeze", 0), ("And", 1))
    oldest = follow(in_window, ("And", 1), ("Greater", 1))
    reach = follow(oldest, ("Sub", 1))
    if follow(oldest, ("Sub", 0)) is not follow(in_window, ("And", 0), ("LessOrEqual", 1)):
        raise GraphContradictionError(f"attention node {node.name!r} has a mask that is not a window.")
    makers = [producer(rotation.inputs[0]) for value in (query, key) if (rotation := producer(value)) is not None]
    norms = [found for found in makers if found is not None and is_norm(found)]
    heads, kv_heads, _ = _split_sizes(node)
    return AttentionReading(
        operator=_operator(node),
        past_key=follow(keys, ("Where", 1), ("Concat", 0)),
        rotary=bool(rotary.pop()),
        window=constant(follow(reach, ("Where", 1))) if constant(follow(reach, ("Where", 0))) else 0,
        evicts=evicts(keys) and evicts(values),
        num_heads=heads,
        num_key_value_heads=kv_heads,
        scale=node.attributes["scale"].as_float(),
        qk_norm=_both(node, norms),
        epsilons=tuple(map(epsilon_of, norms)),
        sources=frozenset({_source(query), _source(key), _source(follow(values, ("Where", 1), ("Concat", 1)))}),
    )


_READERS: dict[str, Callable[[ir.Node], AttentionReading]] = {
    "HybridAttention": _read_hybrid,
    "GroupQueryAttention": _read_group_query,
    "Attention": _read_attention,
}


def _both(node: ir.Node, norms: Sequence[object]) -> bool:
    """Whether queries and keys have the norms that were found."""
    if len(norms) not in (0, 2):
        raise GraphContradictionError(
            f"attention node {node.name!r} has {len(norms)} norms of queries and keys, not one of each."
        )
    return bool(norms)


def _mask_window(node: ir.Node) -> int:
    """The window that a mask ``p <= q and p > q - W`` says; 0 for ``p <= q``."""
    causal = _wired(node, node.inputs[3] if len(node.inputs) > 3 else None, "mask").producer()
    if causal is not None and causal.op_type == "And":
        parts = {part.op_type: part for value in causal.inputs if value is not None and (part := value.producer())}
        newer = parts.get("Greater")
        oldest = producer(newer.inputs[1]) if newer is not None else None
        causal = parts.get("LessOrEqual")
        if causal is None or oldest is None or oldest.op_type != "Sub" or oldest.inputs[0] is not causal.inputs[1]:
            raise GraphContradictionError(f"attention node {node.name!r} has a mask that is not a window.")
        (window,) = constant_ints(oldest.inputs[1])
        return window
    if causal is None or causal.op_type != "LessOrEqual":
        raise GraphContradictionError(f"attention node {node.name!r} has a mask that is not causal.")
    return 0


def _behind_evicted(write_at: ir.Value | None) -> bool:
    """Whether rows are written at ``past - blocks * size``, where the blocks are those that have been evicted."""
    difference = write_at.producer() if write_at is not None else None
    evicted = difference.inputs[1] if difference is not None and difference.op_type == "Sub" else None
    maker = evicted.producer() if evicted is not None else None
    return maker is not None and maker.op_type == "Mul"


def _split_sizes(node: ir.Node) -> tuple[int, ...]:
    """Heads of queries, keys and values, from the node that splits the packed product."""
    value = node.inputs[0]
    while value is not None and (maker := value.producer()) is not None and maker.op_type != "Split":
        value = maker.inputs[0]
    maker = value.producer() if value is not None else None
    sizes = constant_ints(maker.inputs[1]) if maker is not None else ()
    if len(sizes) != 3:
        raise GraphContradictionError(
            f"attention node {node.name!r} does not get queries, keys and values from one product."
        )
    return sizes


def _source(value: ir.Value | None) -> ir.Node | None:
    """The node that computes ``value``, before rotation and norm."""
    maker = producer(value)
    while maker is not None and (maker.op_type == "RotaryEmbedding" or is_norm(maker)):
        maker = producer(maker.inputs[0])
    return maker


def _wired(node: ir.Node, value: ir.Value | None, what: str) -> ir.Value:
    if value is None:
        raise GraphContradictionError(f"attention node {node.name!r} has no {what}.")
    return value


def _operator(node: ir.Node) -> str:
    return f"{node.domain or 'ai.onnx'}::{node.op_type}"
