"""ONNX file to network; a file that TensorRT cannot parse is an error that names the node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exaone_export.errors import TargetError
from exaone_export.targets.flavour import Flavour

from .node_words import describe_node
from .wiring import Wiring


@dataclass(frozen=True)
class ParsedNetwork:
    """A network and the objects that must outlive it: the parser owns the weights.

    Attributes:
        logger: Of `make_logger`.
        builder: The `Builder`.
        parser: The `OnnxParser`.
        network: The `INetworkDefinition`.
        wiring: The network's layers, read.
    """

    logger: Any
    builder: Any
    parser: Any
    network: Any
    wiring: Wiring


def parse(trt: Any, flavour: Flavour, model: Path, layers: Mapping[str, int], logger: Any) -> ParsedNetwork:
    """Parse an ONNX file; its external data is mapped, not read.

    Args:
        trt: The module of ``flavour``.
        flavour: Which it is.
        model: The file; its data lies beside it.
        layers: The model layer of each node, as far as it is known, by the node's name.
        logger: Of `make_logger`.

    Raises:
        TargetError: TensorRT cannot parse the graph; the message has its error and the node.
    """
    builder = trt.Builder(logger)
    # TensorRT 11 ignores the flag, because every network is strongly typed there.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(model))
    logger.at_node = None
    if not parsed:
        raise TargetError(
            f"{flavour.title} {trt.__version__} does not take {model}: {_errors(parser, logger, layers)}; "
            f"export it again with this version, or install another {flavour.package}."
        )
    return ParsedNetwork(logger, builder, parser, network, Wiring.of(network))


def _errors(parser: Any, logger: Any, layers: Mapping[str, int]) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    found = [f"{describe_node(error.node_name(), error.node_operator(), layers)}: {error.desc()}" for error in errors]
    return "; ".join(found) or logger.errors() or "no reason given"
