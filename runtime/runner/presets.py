"""The sampling that LG AI Research recommends for EXAONE 4.0, by mode.

The figures are those of the "Usage Guideline" of https://github.com/LG-AI-EXAONE/EXAONE-4.0, which the model cards
repeat: a temperature below 0.6 without reasoning, for which the published examples are greedy; a temperature of 0.6 and
top-p of 0.95 with reasoning; and a presence penalty of 1.5 where an answer degenerates, which no preset applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from exaone_export.errors import UnsupportedOptionError

if TYPE_CHECKING:
    from .defaults import Defaults

__all__ = ["MODES", "PRESETS", "apply_preset"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {"temperature": 0.0},
    "reasoning": {"temperature": 0.6, "top_p": 0.95},
}
"""Options of `exaone_export.runtime.core.sampling.Sampling`, by mode."""

MODES = tuple(PRESETS)
"""Names of the presets."""


def apply_preset(
    mode: str | None, options: Mapping[str, Any], defaults: Defaults, *, enable_thinking: bool
) -> dict[str, Any]:
    """The options of an answer: a caller's, then those of the preset, and the file's where both are silent.

    A ``mode`` that is named is used whatever ``generation_config.json`` says. Without one, an answer that reasons is
    drawn as the file says if the file samples, else by the preset ``reasoning``: greedy reasoning repeats itself.
    Without a mode and without reasoning there is no preset.

    Args:
        mode: One of `MODES`, or None.
        options: Those of `exaone_export.runtime.runner.runner.Runner.generate`; None counts as not given.
        defaults: The artifact's, which fill in the rest when the answer is generated.
        enable_thinking: Whether the model reasons.

    Returns:
        Options for `exaone_export.runtime.runner.runner.Runner.generate`.

    Raises:
        UnsupportedOptionError: The mode is unknown.
    """
    if mode is not None and mode not in PRESETS:
        raise UnsupportedOptionError(f"{mode!r:.40} is not a preset of sampling; use {' or '.join(MODES)}.")
    if mode is None and enable_thinking and not defaults.samples:
        mode = "reasoning"
    given = {name: value for name, value in options.items() if value is not None}
    if mode is None or given.get("temperature") == 0:  # a preset says how tokens are drawn, and greedy draws none
        return given
    return {**PRESETS[mode], **given}
