"""One finding, and a report of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from exaone_export.terminal_text import one_line

__all__ = ["Finding", "Report", "without_mend"]


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        name: Of the thing.
        ok: Whether it is as it should be; None where nothing is asked of it.
        detail: What was found, and where it is not as it should be, why.
        mend: The command or the edit that mends it; None where nothing is to be mended.
    """

    name: str
    ok: bool | None
    detail: str
    mend: str | None = None


@dataclass(frozen=True)
class Report:
    """Findings by section: ``machine``, ``packages``, ``targets`` and, where one was given, ``artifact``.

    Attributes:
        sections: In the order in which they are shown.
        failed: Whether a package that everything needs is missing or too old, or the artifact does not open here.
    """

    sections: dict[str, Sequence[Finding]]
    failed: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = {name: [asdict(finding) for finding in findings] for name, findings in self.sections.items()}
        return {"failed": self.failed, **found}

    def to_text(self) -> str:
        """For people: a line a finding, its mend below it."""
        width = max(len(finding.name) for findings in self.sections.values() for finding in findings)
        lines: list[str] = []
        for section, findings in self.sections.items():
            lines += ["", section] if lines else [section]
            for finding in findings:
                mark = {True: "ok ", False: "no ", None: "   "}[finding.ok]
                lines.append(f"  {mark} {finding.name:<{width}}  {one_line(finding.detail)}")
                if finding.mend is not None:
                    lines.append(f"      {'':<{width}}  -> {one_line(finding.mend)}")
        return "\n".join(lines)


def without_mend(sentence: str) -> tuple[str, str | None]:
    """An error's sentence, taken apart at the semicolon behind which this project's errors say what mends them."""
    what, separator, mend = sentence.rstrip(".").rpartition("; ")
    return (re.sub(r"^run: ", "", what), re.sub(r"^run: ", "", mend)) if separator else (sentence.rstrip("."), None)
