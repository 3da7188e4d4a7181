"""Read a parsed network back: every model layer must have become TensorRT's native layers, or the build is refused.

A graph that parses can still lack native attention: TensorRT decomposes an operator that it has no layer for, and the
caches are then copied at every step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from exaone_export.errors import GraphContradictionError
from exaone_export.model.spec import ModelSpec
from exaone_export.targets.cache_layout import PAST, cache_names

from .wiring import Wiring

_UPDATE, _ATTENTION, _ROTARY, _PLUGIN = "KV_CACHE_UPDATE", "ATTENTION_INPUT", "ROTARY_EMBEDDING", "PLUGIN_V3"
# Where a model layer ends: its projection, its cache, and whatever only asks for a shape.
_ENDS = frozenset({"MATRIX_MULTIPLY", "SHAPE", _UPDATE, _ROTARY})


@dataclass(frozen=True)
class NativeLayers:
    """The native layers of one model layer.

    Attributes:
        key_updates: Updates of its key cache.
        value_updates: Updates of its value cache.
        attentions: Attention layers that read its keys and its values, and no others.
        rotated: Whether its queries and its keys, in this order, are rotated.
    """

    key_updates: int
    value_updates: int
    attentions: int
    rotated: tuple[bool, bool]


def read_native_layers(wiring: Wiring, num_layers: int) -> list[NativeLayers]:
    """Count the native layers of every model layer, known by the names of its caches."""
    updates = wiring.of_kind(_UPDATE)
    caches = Counter(update.inputs[0] for update in updates)
    attentions = [
        (attention.inputs[0], _caches_behind(wiring, attention.inputs[1]), _caches_behind(wiring, attention.inputs[2]))
        for attention in wiring.of_kind(_ATTENTION)
    ]
    readings = []
    names = cache_names(PAST, num_layers)
    for key, value in zip(names[::2], names[1::2], strict=True):
        queries = [query for query, keys, values in attentions if keys == {key} and values == {value}]
        written = [update.inputs[1] for update in updates if update.inputs[0] == key]
        rotated = (_is_rotated(wiring, queries), _is_rotated(wiring, written))
        readings.append(NativeLayers(caches[key], caches[value], len(queries), rotated))
    return readings


def check_native_layers(wiring: Wiring, spec: ModelSpec) -> None:
    """Compare the native layers with the model's.

    Raises:
        GraphContradictionError: A model layer does not have exactly one update of its key cache, one of its value cache
            and one attention, or its rotation is not the model's; or there are native layers of no model layer.
    """
    readings = read_native_layers(wiring, spec.num_hidden_layers)
    for index, (reading, layer) in enumerate(zip(readings, spec.layers, strict=True)):
        wanted = NativeLayers(1, 1, 1, (layer.rotary, layer.rotary))
        if reading != wanted:
            raise GraphContradictionError(
                f"layer {index} of the network has {_describe(reading)}, and the model's has {_describe(wanted)}; "
                f"export the model again with this version."
            )
    total = (2 * len(readings), len(readings), 2 * sum(layer.rotary for layer in spec.layers))
    found = tuple(len(wiring.of_kind(kind)) for kind in (_UPDATE, _ATTENTION, _ROTARY))
    if found != total:
        raise GraphContradictionError(
            f"the network has {found[0]} cache updates, {found[1]} attention layers and {found[2]} rotary layers, and "
            f"the model has {total[0]}, {total[1]} and {total[2]}; export the model again with this version."
        )


def check_plugin_layers(wiring: Wiring, spec: ModelSpec) -> None:
    """Check that every model layer has become one plugin.

    Raises:
        GraphContradictionError: It has not.
    """
    for index, cache in enumerate(cache_names(PAST, spec.num_hidden_layers)[::2]):
        found = sum(cache in plugin.inputs for plugin in wiring.of_kind(_PLUGIN))
        if found != 1:
            raise GraphContradictionError(
                f"layer {index} of the network has {found} plugins on its key cache, and must have 1; "
                f"export the model again with this version."
            )


def _caches_behind(wiring: Wiring, tensor: str | None) -> set[str | None]:
    _, makers = wiring.behind([tensor], lambda _, maker: maker.kind in _ENDS)
    return {maker.inputs[0] for maker in makers if maker.kind == _UPDATE}


def _is_rotated(wiring: Wiring, tensors: list[str | None]) -> bool:
    _, makers = wiring.behind(tensors, lambda _, maker: maker.kind in _ENDS)
    return any(maker.kind == _ROTARY for maker in makers)


def _describe(reading: NativeLayers) -> str:
    rotated = [name for name, is_rotated in zip(("queries", "keys"), reading.rotated, strict=True) if is_rotated]
    return (
        f"{reading.key_updates} native updates of its key cache, {reading.value_updates} of its value cache, "
        f"{reading.attentions} native attention layers and RoPE on {' and '.join(rotated) or 'nothing'}"
    )
