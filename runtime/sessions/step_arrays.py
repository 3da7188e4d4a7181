"""What a step on the CPU reads and gives beside its caches, at addresses that a session binds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.memory import HOST, Memory
from ..core.steps import Step

__all__ = ["StepArrays"]


class StepArrays:
    """The inputs and outputs of steps of one shape.

    Args:
        shape: Of `Step.shape`: B rows, W tokens of each, K positions whose outputs are wanted.
        output_shapes: By the graph's names, the shape of an output for one token.
        dtype: Of the outputs.
        memory: Where the outputs are.

    Attributes:
        inputs: By the graph's names, int64, on the host. The mask is one column, a row's tokens: a graph that only sums
            it finds there what a column for every token comes to.
        outputs: By the graph's names, ``[B, K, …]``.
    """

    def __init__(
        self, shape: tuple[int, int, int], output_shapes: Mapping[str, tuple[int, ...]], dtype: str, memory: Memory
    ) -> None:
        rows, width, kept = shape
        inputs = {
            "input_ids": (rows, width),
            "attention_mask": (rows, 1),
            "position_ids": (rows, width),
            "logits_to_keep": (kept,),
        }
        self.inputs = {name: HOST.empty(of, "int64") for name, of in inputs.items()}
        self.outputs: dict[str, Any] = {
            name: memory.empty((rows, kept, *of), dtype) for name, of in output_shapes.items()
        }

    def fill(self, step: Step) -> None:
        """Write a step's inputs."""
        ids, totals, positions, kept = self.inputs.values()
        ids[:], totals[:, 0], kept[:] = step.input_ids, step.after, step.kept
        step.write_positions(positions)
