"""What each target asks of the graph and of the cache: data that the pipelines read, not branches."""

from __future__ import annotations

from dataclasses import dataclass

from exaone_export.errors import TargetError


@dataclass(frozen=True)
class Target:
    """One place where a graph runs.

    Attributes:
        name: The name on the command line and in the manifest.
        attention: What ``exaone::HybridAttention`` becomes: ``"body"`` (stays, with its ONNX function) or ``"gqa"``.
        precisions: The precisions that the target runs, the default first.
        in_place: Whether past and present share one buffer; otherwise the session alternates between two.
        cache_slack: The most rows that a local layer's cache holds beyond its window.
    """

    name: str
    attention: str
    precisions: tuple[str, ...]
    in_place: bool
    cache_slack: int

    def check_precision(self, precision: str) -> str:
        """Return ``precision``, or raise `TargetError` where this target does not run it."""
        if precision not in self.precisions:
            raise TargetError(
                f"target {self.name} does not run precision {precision!r}; choose --precision from: "
                f"{', '.join(self.precisions)}."
            )
        return precision


TARGETS = {
    target.name: target
    for target in (
        Target("onnx", "body", ("float32", "float16", "bfloat16"), in_place=False, cache_slack=0),
        # The slack trades memory for time: a window is moved once in slack + 1 tokens.
        Target("ort-cpu", "gqa", ("float32",), in_place=True, cache_slack=127),
    )
}


def get_target(name: str) -> Target:
    """Return the target called ``name``.

    Raises:
        TargetError: There is none.
    """
    try:
        return TARGETS[name]
    except KeyError:
        raise TargetError(f"target {name!r} is unknown; choose --target from: {', '.join(TARGETS)}.") from None
