"""Documentation that cannot drift: what is generated is compared, what is linked exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from exaone_export.cli.reference import reference
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_command_line_reference_is_what_the_commands_say() -> None:
    assert (ROOT / "docs" / "reference" / "command-line.md").read_text() == reference(), "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_every_page_of_the_documentation_is_reachable_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    unlinked = [page for page in PAGES[2:] if str(page.relative_to(ROOT)) not in readme]
    assert not unlinked


def test_every_promise_of_trust_names_a_test_that_there_is() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "explanation" / "trust.md").read_text())
    assert named
    assert [name for name in named if f"def {name}(" not in sources] == []


def test_the_readme_shows_the_benchmarks_as_they_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from peers import report

    shown = re.findall(
        r"<!-- begin: make bench -->\n(.*?)\n<!-- end: make bench -->", (ROOT / "README.md").read_text(), re.S
    )
    assert shown
    for tables in shown:
        found = re.search(r"benchmarks/results/(\S+?-1\.2b-peers\.json)", tables)
        assert found is not None
        measured = json.loads((ROOT / "benchmarks" / "results" / found[1]).read_text())
        assert tables == report.tables(measured, found[1])
