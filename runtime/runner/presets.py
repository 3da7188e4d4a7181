"""The sampling that LG AI Research recommends for a model, by mode.

`MODELS` is the one table of the figures, each with the page that they are from. A model is told by what its artifact
says, in this order: the architecture, the name of the checkpoint that it was exported from, and the marks that its chat
template writes. What no preset names is `generation_config.json`'s, which also decides where no mode is named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import UnsupportedOptionError
from exaone_export.model.families import EXAONE3, EXAONE4, EXAONE_MOE

if TYPE_CHECKING:
    from .defaults import Defaults

__all__ = ["MODELS", "MODES", "OF_DRAWS", "Recommended", "apply_preset", "recommended"]

MODES = ("default", "reasoning")
"""Names of the presets."""

OF_DRAWS = frozenset(("top_p", "top_k", "min_p"))
"""Options that have no effect where no token is drawn."""

_GREEDY: Mapping[str, Any] = {"temperature": 0.0}


@dataclass(frozen=True)
class Recommended:
    """What is recommended for one model.

    Attributes:
        model: Its name, in sentences.
        architecture: The ``model_type`` of its artifacts.
        checkpoint: A regular expression for the names of its checkpoints.
        mark: What its chat template writes, and those of the other models of the architecture do not; None where the
            architecture has one model.
        default: Options of `exaone_export.runtime.core.sampling.Sampling` without reasoning.
        reasoning: The same for an answer that reasons; None for a model that does not reason.
        source: The page that says so.
    """

    model: str
    architecture: str
    checkpoint: str
    mark: str | None
    default: Mapping[str, Any]
    reasoning: Mapping[str, Any] | None
    source: str

    def options(self, mode: str) -> Mapping[str, Any]:
        """The options of one of `MODES`.

        Raises:
            UnsupportedOptionError: The model does not reason.
        """
        found = self.default if mode == "default" else self.reasoning
        if found is None:
            raise UnsupportedOptionError(
                f"{self.model} does not reason, so that no sampling is recommended for the mode {mode}; use the mode "
                f"default, or name a temperature."
            )
        return found


_WARM, _WARMER = {"temperature": 0.6, "top_p": 0.95}, {"temperature": 1.0, "top_p": 0.95}
_PAGES = "https://github.com/LG-AI-EXAONE"
MODELS = (
    Recommended("EXAONE 4.0", EXAONE4.model_type, r"4[._]0", "[|endofturn|]", _GREEDY, _WARM, f"{_PAGES}/EXAONE-4.0"),
    Recommended("EXAONE 4.5", EXAONE4.model_type, r"4[._]5", "<|endofturn|>", _WARMER, _WARMER, f"{_PAGES}/EXAONE-4.5"),
    Recommended("K-EXAONE", EXAONE_MOE.model_type, r"", None, _WARMER, _WARMER, f"{_PAGES}/K-EXAONE"),
    Recommended("EXAONE Deep", EXAONE3.model_type, r"Deep", "<thought>", _WARM, _WARM, f"{_PAGES}/EXAONE-Deep"),
    Recommended("EXAONE 3", EXAONE3.model_type, r"3[._][05]", "[|endofturn|]", _GREEDY, None, f"{_PAGES}/EXAONE-3.5"),
)
"""By model, in the order in which marks are looked for; what the pages say that no preset has:

- EXAONE 4.0, "Usage Guideline": a temperature below 0.6 without reasoning, for which the examples are greedy; a
  presence penalty of 1.5 where an answer degenerates; 0.1 for conversations in Korean with the 1.2B.
- EXAONE 4.5, "Using EXAONE 4.5": these figures for inputs of text alone, whether the model reasons or not; 0.6,
  top-k 20 and a presence penalty of 1.5 for Korean.
- K-EXAONE, "Usage Guideline": a presence penalty of 0, which is what it is otherwise.
- EXAONE Deep, "Usage Guideline": what it was evaluated with; it reasons in every answer.
- EXAONE 3.0 and 3.5, "Quickstart": ``do_sample=False``.
"""


def recommended(artifact: Artifact, chat_template: str | Mapping[str, str] | None) -> Recommended | None:
    """What is recommended for an artifact's model; None where nothing tells which model it is.

    Args:
        artifact: An opened artifact.
        chat_template: Its tokenizer's, as `Tokenizer.chat_template` has it.
    """
    models = [each for each in MODELS if each.architecture == artifact.spec.model_type]
    if len(models) == 1:
        return models[0]
    name = str(artifact.manifest.source.get("name"))
    for each in models:
        if re.search(rf"EXAONE[-_]{each.checkpoint}(?![0-9A-Za-z])", name, re.IGNORECASE):
            return each
    templates = chat_template.values() if isinstance(chat_template, Mapping) else [chat_template or ""]
    return next((each for each in models if any(str(each.mark) in text for text in templates)), None)


def apply_preset(
    mode: str | None, options: Mapping[str, Any], defaults: Defaults, model: Recommended | None, *, reasons: bool
) -> dict[str, Any]:
    """The options of an answer: a caller's, then those of the preset, and the file's where both are silent.

    A ``mode`` that is named is used whatever ``generation_config.json`` says. Without one, an answer that reasons is
    drawn as the file says if the file samples, else by the preset ``reasoning``: greedy reasoning repeats itself.
    Without a mode and without reasoning there is no preset.

    Args:
        mode: One of `MODES`, or None.
        options: Those of `exaone_export.runtime.runner.runner.Runner.generate`; None counts as not given.
        defaults: The artifact's, which fill in the rest when the answer is generated.
        model: What is recommended for the artifact, as `recommended` gives it.
        reasons: Whether the answer begins with reasoning: whether the prompt opens it.

    Returns:
        Options for `exaone_export.runtime.runner.runner.Runner.generate`.

    Raises:
        UnsupportedOptionError: The mode is unknown, or the model has no such mode, or nothing tells which model it is;
            or an option of sampling is given, and the mode is greedy.
    """
    if mode is not None and mode not in MODES:
        raise UnsupportedOptionError(f"{mode!r:.40} is not a preset of sampling; use {' or '.join(MODES)}.")
    given = {name: value for name, value in options.items() if value is not None}
    if mode is None and not (reasons and not defaults.samples and model is not None and model.reasoning is not None):
        return given
    if given.get("temperature") == 0:  # a preset says how tokens are drawn, and greedy draws none
        return given
    if model is None:
        raise UnsupportedOptionError(
            f"the checkpoint's name and the chat template cannot tell which EXAONE model this is, so the mode "
            f"{mode} has no recommended settings; pass a temperature."
        )
    preset = {**model.options(mode or "reasoning"), **given}
    drawn = sorted(OF_DRAWS & given.keys())
    if drawn and preset["temperature"] == 0:
        raise UnsupportedOptionError(
            f"{drawn[0]} is for sampling, and the mode {mode} of {model.model} is greedy; name a temperature too."
        )
    return preset
