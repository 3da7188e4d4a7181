"""The families of EXAONE that can be exported: where their blocks differ, and what their files call things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .heads import CAUSAL_LM, CLASS_SUFFIXES, HIDDEN_STATES

__all__ = ["EXAONE3", "EXAONE4", "EXAONE_MOE", "FAMILIES", "Family", "NormPosition"]

NormPosition = Literal["input", "output"]


@dataclass(frozen=True)
class Family:
    """One architecture, by the ``model_type`` of its ``config.json``.

    Attributes:
        model_type: In ``config.json``.
        name: In sentences.
        norm_position: Which side of a sublayer is normalized: ``input``, before its first product, or ``output``,
            before the residual sum.
        qk_norm: Whether queries and keys are normalized, each head on its own.
        windows: Whether layers may be local.
        classes: What the names of its classes begin with in ``architectures``: the written one first, and last that of
            transformers' own.
        heads: The kinds of heads that it has classes for.
        bos_token_id: Where ``config.json`` names none, as are the other two; transformers' defaults.
        eos_token_id: See ``bos_token_id``.
        pad_token_id: See ``bos_token_id``.
    """

    model_type: str
    name: str
    norm_position: NormPosition
    qk_norm: bool
    windows: bool
    classes: tuple[str, ...]
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    heads: tuple[str, ...] = tuple(CLASS_SUFFIXES)

    def architecture(self, kind: str) -> str:
        """The name of the class with this kind of head, as ``architectures`` has it."""
        return self.classes[0] + CLASS_SUFFIXES[kind]

    def transformers_class(self, kind: str) -> str:
        """The name of transformers' own class with this kind of head."""
        return self.classes[-1] + CLASS_SUFFIXES[kind]

    @property
    def kinds(self) -> dict[str, str]:
        """By every name of a class, the kind of its head."""
        return {prefix + CLASS_SUFFIXES[kind]: kind for prefix in self.classes for kind in self.heads}


EXAONE3 = Family(
    "exaone",
    "EXAONE 3",
    norm_position="input",
    qk_norm=False,
    windows=False,
    classes=("Exaone", "Llama"),  # transformers computes it as a Llama, and saves that name
    bos_token_id=1,
    eos_token_id=361,
    pad_token_id=0,
)
"""EXAONE 3.0, 3.5 and Deep."""

EXAONE4 = Family(
    "exaone4",
    "EXAONE 4",
    norm_position="output",
    qk_norm=True,
    windows=True,
    classes=("Exaone4",),
    bos_token_id=0,
    eos_token_id=2,
    pad_token_id=None,
)
"""EXAONE 4.0, and the language model of EXAONE 4.5."""

EXAONE_MOE = Family(
    "exaone_moe",
    "K-EXAONE",
    norm_position="input",
    qk_norm=True,
    windows=True,
    classes=("ExaoneMoE", "ExaoneMoe"),  # the published files' name, and transformers'
    bos_token_id=1,
    eos_token_id=53,
    pad_token_id=0,
    heads=(CAUSAL_LM, HIDDEN_STATES),
)
"""K-EXAONE: sparse layers of many experts behind a dense one."""

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in (EXAONE4, EXAONE3, EXAONE_MOE)}
"""By ``model_type``."""
