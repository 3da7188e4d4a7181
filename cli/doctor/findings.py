"""One finding, and a report of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from exaone_export.terminal_text import one_line

from ..tables import Column, grid

__all__ = ["Finding", "Report", "split_fix"]


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        name: Of the thing.
        ok: Whether it is as it should be; None where nothing is required of it.
        detail: What was found and, where it is not as it should be, why.
        fix: The command or the edit that fixes it; None where there is nothing to fix.
    """

    name: str
    ok: bool | None
    detail: str
    fix: str | None = None


@dataclass(frozen=True)
class Report:
    """A verdict, and the findings that it rests on.

    Attributes:
        verdict: One line: whether the artifact runs here or, without one, what works here.
        sections: ``artifact`` where one was given, ``targets``, ``packages`` and ``machine``, in the order in which
            they are shown.
        failed: Whether a required package is missing or too old, or the artifact does not open or run here.
    """

    verdict: str
    sections: dict[str, Sequence[Finding]]
    failed: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = {name: [asdict(finding) for finding in findings] for name, findings in self.sections.items()}
        return {"verdict": self.verdict, "failed": self.failed, **found}

    def to_text(self) -> str:
        """For people: the verdict, then a line per finding, with its fix below it."""
        return "\n\n".join([one_line(self.verdict), *map(_section, self.sections, self.sections.values())])


def _section(name: str, findings: Sequence[Finding]) -> str:
    rows = []
    for finding in findings:
        rows.append(("", {True: "ok", False: "no", None: "-"}[finding.ok], finding.name, finding.detail))
        if finding.fix is not None:
            rows.append(("", "", "", f"fix: {finding.fix}"))
    return f"{name}\n{grid([Column('', left=True)] * 4, rows)}"


def split_fix(sentence: str) -> tuple[str, str | None]:
    """An error's sentence, split at the semicolon after which this project's errors say what fixes it."""
    what, separator, fix = sentence.rstrip(".").rpartition("; ")
    return (re.sub(r"^run: ", "", what), re.sub(r"^run: ", "", fix)) if separator else (sentence.rstrip("."), None)
