"""Tables fit the terminal, and are Markdown elsewhere."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from exaone_export.cli.main import cli
from exaone_export.cli.tables import Column, Table, facts

TABLE = Table(
    [Column("slice", left=True), Column("lines", spare=True), Column("KL"), Column("target", left=True)],
    [["한국어 | [b]x[/b]", "12", "1.0e-03", "ort-cpu"], ["a name that is long", "3", "2.0e-03", "ort-cpu"]],
    title="a title",
    notes=["a note with more words than a terminal of few characters has room for"],
    constant=True,
)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    return monkeypatch


def test_markdown_has_every_column_and_says_which_are_numbers() -> None:
    assert TABLE.render("markdown").splitlines() == [
        "a title",
        "",
        "| slice               | lines |      KL | target  |",
        "|---------------------|------:|--------:|---------|",
        "| 한국어 \\| [b]x[/b]  |    12 | 1.0e-03 | ort-cpu |",
        "| a name that is long |     3 | 2.0e-03 | ort-cpu |",
        "",
        "a note with more words than a terminal of few characters has room for",
    ]


@pytest.mark.parametrize("width", [36, 80, 200])
def test_a_terminal_is_never_too_narrow(width: int, terminal: pytest.MonkeyPatch) -> None:
    terminal.setenv("COLUMNS", str(width))
    lines = TABLE.render("table").splitlines()
    assert all(cell_len(line) <= width for line in lines)
    assert lines[:2] == ["a title", "target ort-cpu"]
    assert ("lines" in lines[2]) == (width != 36)
    note = "Not shown on a terminal this narrow: lines; use --format markdown or json."
    assert (note in " ".join(lines)) == (width == 36)
    assert "[b]x[/b]" in "\n".join(lines)


def test_facts_fold_below_themselves(terminal: pytest.MonkeyPatch) -> None:
    terminal.setenv("COLUMNS", "24")
    assert facts([("a", "one"), ("longer", "two three four five")]) == (
        "a       one\nlonger  two three four\n        five"
    )


def test_control_characters_are_shown() -> None:
    assert facts([("a", "b\x1b[2J\n")]) == r"a  b\u001b[2J\n"


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ((), "markdown"),
        (("--json",), "json"),
        (("--format", "table"), "table"),
        (("--json", "--format", "table"), "table"),
    ],
)
def test_the_form_is_chosen_by_option(options: tuple[str, ...], form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = cli.get_command(None, "bench")  # type: ignore[arg-type]
    assert command is not None
    given = {}
    monkeypatch.setattr(command, "callback", lambda **options: given.update(options))
    result = CliRunner().invoke(command, ["artifact", *options])
    assert result.exit_code == 0, result.output
    assert given["form"] == form
