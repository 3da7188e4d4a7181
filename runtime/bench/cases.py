"""What is measured: a prompt of some length, or new tokens behind a context of some length, for a batch of rows.

Of a model that generates no tokens it is the call on a prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

PREFILL, DECODE, FORWARD = "prefill", "decode", "forward"


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        kind: `PREFILL` or `DECODE`, or `FORWARD` of a model that generates no tokens.
        tokens: Of the prompt, or new ones.
        batch: Rows.
        depth: Tokens of the context before the new ones; 0 for a prompt.
    """

    kind: str
    tokens: int
    batch: int
    depth: int = 0

    @property
    def name(self) -> str:
        """As llama-bench writes it, the batch behind it where it is more than one row."""
        what = f"{'tg' if self.kind == DECODE else 'pp'}{self.tokens}"
        where = f" @ d{self.depth}" if self.depth else ""
        return f"{what}{where} b{self.batch}" if self.batch > 1 else f"{what}{where}"

    @property
    def context(self) -> int:
        """Tokens of a row's input: nothing can be continued, so a decode at depth 0 begins with one token."""
        return max(self.depth, 1) if self.kind == DECODE else self.tokens

    @property
    def new_tokens(self) -> int:
        """Tokens that a row is answered with."""
        return {PREFILL: 1, FORWARD: 0}.get(self.kind, self.tokens)

    @property
    def length(self) -> int:
        """Tokens that a row needs, answer and all."""
        return self.context + self.new_tokens


@dataclass(frozen=True)
class LeftOut:
    """A case that the artifact cannot run.

    Attributes:
        case: That one.
        reason: What it needs, what there is, and the fix.
    """

    case: Case
    reason: str


def all_cases(prompt: int, new: int, depths: Iterable[int], batches: Iterable[int]) -> Iterator[Case]:
    """Every case, those that need little memory first.

    Raises:
        ValueError: A number is too small.
    """
    depths, batches = sorted(set(depths)), sorted(set(batches))
    # A time per token is a time between two.
    for name, value, least in (
        ("prompt", prompt, 1),
        ("new", new, 2),
        *(("depth", depth, 0) for depth in depths),
        *(("batch", batch, 1) for batch in batches),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}.")
    for batch in batches:
        yield Case(PREFILL, prompt, batch)
        for depth in depths:
            yield Case(DECODE, new, batch, depth)


def forward_cases(cases: Iterable[Case]) -> list[Case]:
    """The cases of a model that generates no tokens: its call on every prompt."""
    return [replace(case, kind=FORWARD) for case in cases if case.kind == PREFILL]


def fit(cases: Iterable[Case], max_length: int, max_batch: int | None) -> tuple[list[Case], list[LeftOut]]:
    """Part the cases that an artifact can run from those that it cannot.

    Args:
        cases: Of `all_cases`.
        max_length: Tokens that a row of its cache holds.
        max_batch: Rows that a step may have; None for no limit.
    """
    fitting, left_out = [], []
    for case in cases:
        if case.length > max_length:
            reason = (
                f"{case.length} tokens a row do not fit the {max_length} that the artifact holds; export with "
                f"--max-length {case.length} or more"
            )
            left_out.append(LeftOut(case, reason))
        elif max_batch is not None and case.batch > max_batch:
            reason = f"the engine takes {max_batch} rows; build it with --max-batch {case.batch}"
            left_out.append(LeftOut(case, reason))
        else:
            fitting.append(case)
    return fitting, left_out
