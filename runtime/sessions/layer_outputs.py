"""Every layer's output of an artifact's graph, for finding where two implementations part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch

from exaone_export.cache_layout import CacheLayout

if TYPE_CHECKING:
    from exaone_export.artifact import Artifact


def layer_outputs(artifact: Artifact, input_ids: torch.Tensor) -> list[torch.Tensor]:
    """Run one prompt through a graph that hands out what its layers hand on.

    Args:
        artifact: Of target ``onnx`` or ``ort-cpu``.
        input_ids: ``[S]`` int64.

    Returns:
        One ``[S, hidden_size]`` float32 a layer.
    """
    import onnxruntime

    layout = CacheLayout.from_dict(artifact.manifest.cache)
    names = [f"layers.{i}.output" for i in range(len(layout.layers))]
    model = onnx.load(artifact.model_path, load_external_data=False)
    logits = model.graph.output[0].type.tensor_type
    for name in names:
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(name, logits.elem_type, ["batch", "sequence", None])
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(artifact.folder))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    length = input_ids.numel()
    feed = {
        "input_ids": input_ids[None].numpy(),
        "attention_mask": np.ones((1, length), np.int64),
        "position_ids": np.arange(length, dtype=np.int64)[None],
        "logits_to_keep": np.zeros(1, np.int64),
    }
    for value in session.get_inputs():
        if value.name.startswith("past_key_values."):
            dtype = onnx.helper.tensor_dtype_to_np_dtype(logits.elem_type)
            feed[value.name] = np.zeros((1, *value.shape[1:]), dtype)
    return [torch.from_numpy(output[0].astype(np.float32)) for output in session.run(names, feed)]
