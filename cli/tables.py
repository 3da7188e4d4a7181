"""Every table that a command prints: laid out by rich, at the terminal's width or as Markdown, never by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exaone_export.terminal_text import one_line

if TYPE_CHECKING:
    from rich.box import Box

__all__ = ["FORMATS", "Column", "Table", "facts", "grid"]

FORMATS = ("table", "markdown", "json")
"""What ``--format`` takes."""

_LONG = 18  # characters of a word or a name that is folded rather than another column
_UNLIMITED = 10_000  # characters: where there is no terminal, lines are not folded


@dataclass(frozen=True)
class Column:
    """A heading.

    Attributes:
        name: What it says.
        left: Whether its cells are text; numbers stand on the right.
        spare: Whether a terminal that is too narrow is not shown it.
    """

    name: str
    left: bool = False
    spare: bool = False


@dataclass(frozen=True)
class Table:
    """A result as rows and columns.

    Attributes:
        columns: The headings.
        rows: A cell a column each.
        title: A line above it.
        notes: Lines below it.
        constant: Whether a terminal is shown columns that hold the same text in every row in a line above the table.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = field(default_factory=tuple)
    constant: bool = False

    def render(self, form: str) -> str:
        """The text.

        Args:
            form: ``"markdown"``, or ``"table"`` for the width of the terminal.
        """
        return self._markdown() if form == "markdown" else self._terminal()

    def _terminal(self) -> str:
        from rich.box import SIMPLE_HEAD

        shown = list(range(len(self.columns)))
        lines = [self.title] if self.title else []
        if self.constant and self.rows:
            same = [number for number in shown if len({row[number] for row in self.rows}) == 1]
            told = [f"{self.columns[number].name} {self.rows[0][number]}" for number in same]
            lines += [", ".join(words for words in told if not words.endswith(" -"))] if told else []
            shown = [number for number in shown if number not in same]
        left_out: list[str] = []
        while self._width(shown) > _width() and (spare := [number for number in shown if self.columns[number].spare]):
            left_out.insert(0, self.columns[spare[-1]].name)
            shown.remove(spare[-1])
        rows = [[row[number] for number in shown] for row in self.rows]
        text = _draw([self.columns[number] for number in shown], rows, SIMPLE_HEAD, _width())
        notes = list(self.notes)
        if left_out:
            notes.append(f"Not shown on a terminal this narrow: {', '.join(left_out)}; use --format markdown or json.")
        return "\n".join([*map(_wrap, lines), text, *map(_wrap, notes)])

    def _width(self, numbers: Sequence[int]) -> int:
        """Characters of a line that is not folded."""
        from rich.cells import cell_len

        texts = [[self.columns[number].name, *(row[number] for row in self.rows)] for number in numbers]
        return 1 + sum(2 + max(map(cell_len, cells)) for cells in texts)

    def _markdown(self) -> str:
        from rich.box import MARKDOWN

        columns = [Column(_in_markdown(column.name), column.left) for column in self.columns]
        rows = [[_in_markdown(cell) for cell in row] for row in self.rows]
        lines = _draw(columns, rows, MARKDOWN, _UNLIMITED).splitlines()
        rules = lines[1].strip("|").split("|")
        marked = [rule if column.left else f"{rule[:-1]}:" for column, rule in zip(columns, rules, strict=True)]
        lines[1] = f"|{'|'.join(marked)}|"
        title = [one_line(self.title), ""] if self.title else []
        notes = ["", *map(one_line, self.notes)] if self.notes else []
        return "\n".join([*title, *lines, *notes])


def facts(rows: Iterable[tuple[str, str]], *, fold: bool = True) -> str:
    """Lines of a name and a value, the values below each other.

    Args:
        rows: The lines.
        fold: Whether to fold values at the terminal's width; a command that is to be copied must not be.
    """
    columns = [Column("", left=True), Column("", left=True)]
    return grid(columns, rows) if fold else _draw(columns, [list(row) for row in rows], None, _UNLIMITED)


def grid(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    """Rows without headings; the last column is folded at the terminal's width."""
    return _draw(columns, [list(row) for row in rows], None, _width())


def _width() -> int:
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else _UNLIMITED


def _wrap(line: str) -> str:
    return _draw([Column("", left=True)], [[line]], None, _width())


def _draw(columns: Sequence[Column], rows: Sequence[Sequence[str]], box: Box | None, width: int) -> str:
    from rich.box import MARKDOWN
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=box, show_header=box is not None, pad_edge=box is MARKDOWN)
    if box is not MARKDOWN:
        table.padding = (0, 1 if box else 2, 0, 0)
    for number, column in enumerate(columns):
        table.add_column(
            Text(one_line(column.name)),
            justify="left" if column.left else "right",
            overflow="fold",
            no_wrap=box is None and number < len(columns) - 1,
            min_width=_least_width(column, [row[number] for row in rows]),
        )
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))  # no markup, no emoji: they are texts of files
    console = Console(width=width, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


def _least_width(column: Column, cells: Sequence[str]) -> int:
    """So that a narrow terminal folds between words, and names only where they are long."""
    from rich.cells import cell_len

    parts = [*column.name.split(), *(cells if column.left else [word for cell in cells for word in cell.split()])]
    return min(max(map(cell_len, parts), default=0), _LONG)


def _in_markdown(text: str) -> str:
    return text.replace("|", "\\|")
