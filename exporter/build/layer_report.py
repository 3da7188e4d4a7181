"""``layers.json``: the layers of the engine, or of the network that it was built from."""

from __future__ import annotations

import json
from typing import Any

LAYERS_NAME = "layers.json"


def layers_of_network(network: Any) -> list[dict[str, Any]]:
    """One record a layer, before TensorRT fuses any.

    Returns:
        Name, type, the ONNX node that it comes from (empty for the parser's own), and name, type and shape of every
        output; -1 stands for a dimension that is not fixed.
    """
    return [_record(network.get_layer(index)) for index in range(network.num_layers)]


def layers_of_engine(trt: Any, logger: Any, engine: Any) -> list[Any] | None:
    """The engine inspector's report of a serialized engine, which needs a GPU; None if it cannot be loaded here.

    Args:
        trt: The module.
        logger: Of `make_logger`.
        engine: The serialized engine, a buffer.
    """
    loaded = trt.Runtime(logger).deserialize_cuda_engine(engine)
    if loaded is None:
        return None
    text = loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers = json.loads(text).get("Layers")
    return layers if isinstance(layers, list) else None


def write_report(file: Any, source: str, layers: list[Any]) -> None:
    """Write JSON with a line a layer.

    Args:
        file: A text file.
        source: ``"engine"`` for what runs, ``"network"`` for what was parsed.
        layers: The layers.
    """
    file.write(f'{{"source": {json.dumps(source)}, "layers": [\n')
    file.write(",\n".join(json.dumps(layer, sort_keys=True) for layer in layers))
    file.write("\n]}\n")


def _record(layer: Any) -> dict[str, Any]:
    outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
    return {
        "name": layer.name,
        "type": layer.type.name,
        "node": layer.metadata.removeprefix("[ONNX Layer: ").removesuffix("]"),
        "outputs": [
            {"name": tensor.name, "type": tensor.dtype.name, "shape": list(tensor.shape)} for tensor in outputs
        ],
    }
