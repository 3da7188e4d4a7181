"""Names that tensors have in the files of some families, and not in `exaone_export.model.tensors`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["describe_left_out", "describe_parts_left_out", "is_left_out", "own_name"]

Renaming = tuple[re.Pattern[str], str]


def _renamings(pairs: Mapping[str, str]) -> tuple[Renaming, ...]:
    return tuple((re.compile(pattern), own) for pattern, own in pairs.items())


_OWN_NAMES: Mapping[str, tuple[Renaming, ...]] = {
    # As LG AI Research has published them, and as transformers saves them from 5.24 on.
    "exaone": _renamings(
        {
            r"^(transformer\.)?wte\.": "model.embed_tokens.",
            r"^(transformer\.)?h\.": "model.layers.",
            r"^(transformer\.)?ln_f\.": "model.norm.",
            r"\.attn\.attention\.": ".self_attn.",
            r"\.self_attn\.out_proj\.": ".self_attn.o_proj.",
            r"\.ln_1\.": ".input_layernorm.",
            r"\.ln_2\.": ".post_attention_layernorm.",
            r"\.mlp\.c_fc_0\.": ".mlp.gate_proj.",
            r"\.mlp\.c_fc_1\.": ".mlp.up_proj.",
            r"\.mlp\.c_proj\.": ".mlp.down_proj.",
        }
    ),
    "exaone4_5": _renamings({r"^(model\.)?language_model\.": "model."}),
    # Where transformers' module has it; its files have it beside the module.
    "exaone_moe": _renamings({r"\.mlp\.gate\.e_score_correction_bias$": ".mlp.e_score_correction_bias"}),
}

_VISION = (re.compile(r"(model\.)?visual\..+"), "the vision model")
_DRAFT = (re.compile(r"(model\.)?mtp\..+"), "the layers that predict several tokens at once")
_LEFT_OUT: Mapping[str, tuple[Renaming, ...]] = {"exaone4_5": (_VISION, _DRAFT), "exaone_moe": (_DRAFT,)}


def own_name(name: str, model_type: str) -> str:
    """The name that a tensor has in `exaone_export.model.tensors`, but for its prefix.

    Args:
        name: In a file.
        model_type: Of the checkpoint's ``config.json``, as it is there.
    """
    for pattern, own in _OWN_NAMES.get(model_type, ()):
        name = pattern.sub(own, name)
    return name


def is_left_out(name: str, model_type: str) -> bool:
    """Whether a tensor of this name in a file is of another model than the language model."""
    return any(pattern.fullmatch(name) for pattern, _ in _LEFT_OUT.get(model_type, ()))


def describe_parts_left_out(model_type: str) -> str | None:
    """What the checkpoints of a type may hold beside their language model, whose files are not read; None for nothing.

    Args:
        model_type: As `is_left_out`'s.
    """
    parts = [part for _, part in _LEFT_OUT.get(model_type, ())]
    left_out = f"where the checkpoint holds {' or '.join(parts)}, they are left out"
    return f"the language model alone is exported: {left_out}" if parts else None


def describe_left_out(names: Iterable[str], model_type: str) -> tuple[str, ...]:
    """What was left out, a sentence without its full stop for each part.

    Args:
        names: Those for which `is_left_out` holds.
        model_type: As `is_left_out`'s.
    """
    found, sentences = sorted(names), []
    for pattern, part in _LEFT_OUT.get(model_type, ()):
        if those := [name for name in found if pattern.fullmatch(name)]:
            count = "1 tensor" if len(those) == 1 else f"{len(those):,} tensors"
            sentences.append(f"left out {count} of {part} ({those[0]:.60}, …): the language model alone is exported")
    return tuple(sentences)
