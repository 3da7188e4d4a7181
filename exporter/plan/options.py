"""The options of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..option_types import convert_types

__all__ = ["ExportOptions"]


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export that decide the artifact; `export`, `plan_export` and `read_deployment` take them.

    Attributes:
        target: A name of `exaone_export.targets.target.TARGETS`.
        precision: One that the target runs, or an alias such as fp16; None for the target's first, or, of a quantized
            checkpoint, its own.
        compute_type: Type of what a quantized precision leaves in floating point; None for the target's first.
        cache_precision: Number format of keys and values; None for the compute type.
        calibration: The scales file, for a precision that rounds activations.
        max_length: The most tokens, prompt and answer together; None for the model's own limit.
        prefill_chunk: Tokens of the longest step, on a target where the runtime evicts; None for the target's own.
        revision: Branch, tag or commit of a hub id.
        head: The kind of head, as `exaone_export.model.config.head.choose_head` takes it; None for the checkpoint's
            own.
        hidden_states: Whether the bare model also gives what every layer takes in.
        prefill_precision: Of the layers in a second graph, for prompts; None for one graph.
        prefill_threshold: Rows times tokens of a step from which on that graph runs it; None for the default.
        inline: Whether the graph holds the body of its attention function in place of every call, on the target onnx.

    Raises:
        UnsupportedOptionError: A value has another type.
    """

    target: str = "ort-cpu"
    precision: str | None = None
    compute_type: str | None = None
    cache_precision: str | None = None
    calibration: str | Path | None = None
    max_length: int | None = None
    prefill_chunk: int | None = None
    revision: str | None = None
    head: str | None = None
    hidden_states: bool = False
    inline: bool = False
    prefill_precision: str | None = None
    prefill_threshold: int | None = None

    def __post_init__(self) -> None:
        convert_types(self)
