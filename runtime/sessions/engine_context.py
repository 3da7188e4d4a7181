"""One execution context of an engine, held to one optimization profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from exaone_export.errors import TargetError


class EngineContext:
    """Sets shapes and addresses on an execution context, each only when it changes.

    Args:
        context: An ``IExecutionContext``.
        profile: Index of the optimization profile.
        stream: Handle of a CUDA stream.
    """

    def __init__(self, context: Any, profile: int, stream: int) -> None:
        self._context = context
        self._bound: dict[str, tuple[int, tuple[int, ...]]] = {}
        if not context.set_optimization_profile_async(profile, stream):
            raise TargetError(
                f"the engine has no optimization profile {profile}; run: exaone-export build ARTIFACT OUT."
            )

    def bind(self, inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]) -> None:
        """Bind tensors; those of inputs set the shapes too.

        Raises:
            TargetError: A shape lies outside the optimization profile.
        """
        for name, tensor in inputs.items():
            address, shape = tensor.data_ptr(), tuple(tensor.shape)
            known = self._bound.get(name)
            if known == (address, shape):
                continue
            if (known is None or known[1] != shape) and not self._context.set_input_shape(name, shape):
                raise TargetError(
                    f"the engine does not take {name} of shape {list(shape)}; run: exaone-export build ARTIFACT OUT, "
                    f"with a --max-batch and --prefill-chunk that cover it."
                )
            self._context.set_tensor_address(name, address)
            self._bound[name] = (address, shape)
        for name, tensor in outputs.items():
            if self._bound.get(name) != (tensor.data_ptr(), ()):
                self._context.set_tensor_address(name, tensor.data_ptr())
                self._bound[name] = (tensor.data_ptr(), ())

    def enqueue(self, stream: int) -> None:
        """Start a step on a CUDA stream, and do not wait for it.

        Raises:
            RuntimeError: TensorRT refuses; its log has the reason.
        """
        if not self._context.execute_async_v3(stream):
            raise RuntimeError("TensorRT could not start the step; see its message above.")
