"""Walking a parsed network: which layers a tensor comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NetworkLayer:
    """One layer of a network, as names.

    Attributes:
        name: The layer's.
        kind: Name of its type, ``"ATTENTION_INPUT"`` for one.
        inputs: Names of its inputs; None where an optional one is left out.
        outputs: Names of its outputs.
    """

    name: str
    kind: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]


class Wiring:
    """The layers of a network and the wires between them.

    Attributes:
        layers: All layers, in the order of the network.
    """

    def __init__(self, layers: Iterable[NetworkLayer]) -> None:
        self.layers = list(layers)
        self._maker = {name: layer for layer in self.layers for name in layer.outputs}

    @classmethod
    def of(cls, network: Any) -> Wiring:
        """Read an `INetworkDefinition`."""
        return cls(_read(network.get_layer(index)) for index in range(network.num_layers))

    def of_kind(self, kind: str) -> list[NetworkLayer]:
        """Every layer of one type."""
        return [layer for layer in self.layers if layer.kind == kind]

    def behind(
        self, tensors: Iterable[str | None], stop: Callable[[str, NetworkLayer], bool]
    ) -> tuple[set[str], list[NetworkLayer]]:
        """Everything that ``tensors`` are computed from.

        Args:
            tensors: Where to start; None is passed over.
            stop: Called with a tensor and the layer that makes it; true where its own inputs are not to be followed.

        Returns:
            The tensors, the first ones among them, and the layers that make them, those that were stopped at too.
        """
        seen, makers, pending = set[str](), dict[str, NetworkLayer](), [name for name in tensors if name is not None]
        while pending:
            tensor = pending.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            maker = self._maker.get(tensor)
            if maker is None:
                continue
            makers[maker.name] = maker
            if not stop(tensor, maker):
                pending.extend(name for name in maker.inputs if name is not None)
        return seen, list(makers.values())


def _read(layer: Any) -> NetworkLayer:
    inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
    return NetworkLayer(
        layer.name,
        layer.type.name,
        tuple(None if tensor is None else tensor.name for tensor in inputs),
        tuple(layer.get_output(index).name for index in range(layer.num_outputs)),
    )
