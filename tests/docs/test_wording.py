"""Plain technical English: phrases that documentation and messages avoid."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

AVOIDED = {
    r"\bmend(s|ed|ing)?\b": "fix, hint",
    r"(?<!there )\bis no (?!longer\b)": "is not a",
    r"\bwhat (is|was) asked\b|\b(is|was|were) asked for\b": "requested, given",
    r"\bstrangers?\b": "unlisted files",
    r"\bin other clothes\b": "rewritten for tracing",
    r"\bgoes through\b": "passes",
    r"\bfell over\b": "a flipped bit",
    r"\bspeaks? loudly\b": "large activations",
    r"\bjust so many\b": "maximum tokens per prefill step",
    r"\bvouch(es|ed)?\b": "signed",
    r"\bdoors?\b": "entry point, plugin support",
    r"\b(un)?tied words\b|\bwords are (un)?tied\b": "tied embeddings",
    r"\bas far as the target\b": "default: the target's first supported precision",
    r"; the compute type's own\b": "default: the compute type",
    r"\bcannot be\.": "say what is not allowed",
}
"""By pattern, what to write in its place."""

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Made from the strings of cli/, so it is checked together with them.
GENERATED = {ROOT / "docs" / "reference" / "command-line.md": "cli"}

CHECKED = ["exaone_export", "cli", "exporter", "graphs", "calibration", "runtime", "benchmarks", "examples"]
"""Folders and files of the product whose strings and docstrings are checked."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_uses_a_phrase_to_avoid(page: Path) -> None:
    if page in GENERATED and GENERATED[page] not in CHECKED:
        pytest.skip(f"made from the strings of {GENERATED[page]}/, which are not checked")
    found = [f"line {line}: {phrase}" for line, text in _lines(page) for phrase in _avoided(text)]
    assert not found


@pytest.mark.parametrize("checked", CHECKED)
def test_no_message_or_docstring_uses_a_phrase_to_avoid(checked: str) -> None:
    path = ROOT / checked
    sources = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert sources
    found = [
        f"{source.relative_to(ROOT)}:{line}: {phrase}"
        for source in sources
        for line, text in _strings(source)
        for phrase in _avoided(text)
    ]
    assert not found


def test_a_phrase_to_avoid_is_found_in_all_of_its_forms() -> None:
    bad = ["what mends it", "OUT is\nno artifact", "what was asked cannot be.", "the words are tied", "nothing vouches"]
    assert [text for text in bad if not _avoided(text)] == []
    good = ["there is no GPU", "it is no longer read", "amended", "a mendable key", "outdoors", "passwords"]
    assert [text for text in good if _avoided(text)] == []


def test_strings_are_read_whole(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text('"""One."""\nraise ValueError(f"{1} " "two"\n    f" three {4:.1f} five")\nx = ["six"]\n')
    assert _strings(source) == [(1, "One."), (2, "… two three … five"), (4, "six")]


def _avoided(text: str) -> list[str]:
    """What is found, and what to write."""
    line = " ".join(text.split())
    found = ((re.search(pattern, line, re.I), instead) for pattern, instead in AVOIDED.items())
    return [f"{match[0]!r}; write: {instead}" for match, instead in found if match]


def _lines(page: Path) -> list[tuple[int, str]]:
    """By number, each line with the next one, since a phrase may be wrapped; code in backticks is left out."""
    text = re.sub(r"`[^`\n]+`", "`…`", page.read_text(encoding="utf-8"))
    lines = [*text.splitlines(), ""]
    return [(number, f"{line} {after}") for number, (line, after) in enumerate(itertools.pairwise(lines), 1)]


def _strings(source: Path) -> list[tuple[int, str]]:
    """By line, the string constants of a file; what is formatted into one is an ellipsis."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    inside = {id(part) for node in joined for part in ast.walk(node) if part is not node}
    found = []
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            found.append((node.lineno, "".join(map(str, parts))))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append((node.lineno, node.value))
    return sorted(found)
