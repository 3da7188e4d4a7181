"""Every layer's output of an artifact's graph, for finding where two implementations part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from exaone_export.targets.cache_layout import PAST, PRESENT, CacheLayout

from ..core.eviction import evict
from ..sessions.onnxruntime_loading import import_onnxruntime

if TYPE_CHECKING:
    from exaone_export.artifact.reader import Artifact


def layer_outputs(artifact: Artifact, input_ids: np.ndarray) -> list[np.ndarray]:
    """Run one prompt through a graph that hands out what its layers hand on.

    Args:
        artifact: That holds a graph.
        input_ids: ``[S]`` int64.

    Returns:
        One ``[S, hidden_size]`` float32 a layer.

    Raises:
        ArtifactReplacedError: The artifact was replaced after it was opened.
    """
    onnxruntime = import_onnxruntime()
    layout = CacheLayout.from_dict(artifact.manifest.cache)
    names = [f"layers.{i}.output" for i in range(len(layout.layers))]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(artifact.folder))
    with artifact.unchanged():
        model = onnx.load(artifact.graph_path, load_external_data=False)
        types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
        # Without a type: ONNX Runtime knows it, and the residual stream is float32 whatever the products are.
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    # One with a default is listed apart.
    inputs = [*session.get_inputs(), *session.get_overridable_initializers()]
    inputs.sort(key=lambda value: list(types).index(value.name))
    past = [
        np.zeros((1, *_sizes(value.shape[1:], layout)), onnx.helper.tensor_dtype_to_np_dtype(types[value.name]))
        for value in inputs
        if value.name.startswith(PAST)
    ]
    wanted = [*names, *(value.name for value in session.get_outputs() if value.name.startswith(PRESENT))]
    collected: list[list[np.ndarray]] = []
    length = input_ids.size
    chunk = layout.longest_step or length
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        step = [
            input_ids[None, start:stop],
            np.ones((1, stop), np.int64),
            np.arange(start, stop, dtype=np.int64)[None],
            np.zeros(1, np.int64),
        ]
        outputs = session.run(wanted, dict(zip((value.name for value in inputs), (*step, *past), strict=True)))
        collected.append(outputs[: len(names)])
        past = outputs[len(names) :]
        if layout.longest_step is not None:
            evict(past, layout, [start], [stop])
    return [np.concatenate(parts, 1)[0].astype(np.float32) for parts in zip(*collected, strict=True)]


def _sizes(shape: Sequence[int | str], layout: CacheLayout) -> list[int]:
    """A cache's shape; its rows may be the caller's choice."""
    return [size if isinstance(size, int) else layout.max_length for size in shape]
