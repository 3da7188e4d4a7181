"""The head of a model as text."""

from __future__ import annotations

from exaone_export.model.heads import HeadSpec
from exaone_export.model.spec import ModelSpec

__all__ = ["describe_head", "describe_outputs"]

_FIRST = 4
_LONGEST = 24


def describe_head(head: HeadSpec) -> str:
    """Its kind, how many labels it has and the first of them, and what their logits mean where the config says so."""
    parts = [head.kind]
    if head.labels:
        first = [label if len(label) <= _LONGEST else f"{label[:_LONGEST]}…" for label in head.labels[:_FIRST]]
        more = ["…"] if len(head.labels) > _FIRST else []
        count = "1 label" if len(head.labels) == 1 else f"{len(head.labels):,} labels"
        parts.append(f"{count} ({', '.join([*first, *more])})")
    return ", ".join([*parts, *([head.problem_type] if head.problem_type else [])])


def describe_outputs(spec: ModelSpec) -> str:
    """What a graph gives for every token, each with its shape."""
    own = [f"{name} {list(spec.output_shapes[name]) or ''}".rstrip() for name in spec.head.outputs]
    if spec.head.hidden_states:
        own.append(f"hidden_states.0 to hidden_states.{spec.num_hidden_layers - 1} {[spec.hidden_size]}")
    return f"{' and '.join(own)} for every token"
