"""Documentation that cannot drift: what is generated is compared, what is linked exists."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import statistics
from pathlib import Path
from typing import Any

import click
import pytest

from exaone_export.cli.main import cli
from exaone_export.cli.reference import reference
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PERFORMANCE = ROOT / "docs" / "explanation" / "performance.md"
FOLDERS = (
    "benchmarks",
    "calibration",
    "cli",
    "docs",
    "examples",
    "exaone_export",
    "exporter",
    "graphs",
    "runtime",
    "tests",
)


def test_the_command_line_reference_is_what_the_commands_say() -> None:
    assert (ROOT / "docs" / "reference" / "command-line.md").read_text() == reference(), "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_anchor_of_a_link_is_a_heading(page: Path) -> None:
    missing = []
    for link, anchor in re.findall(r"\]\(([^):#]*)#([^)]+)\)", page.read_text()):
        headings = re.findall(r"^#+ (.*)$", ((page.parent / link) if link else page).read_text(), re.M)
        if anchor not in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]:
            missing.append(f"{link}#{anchor}")
    assert not missing


def test_every_page_of_the_documentation_is_reachable_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    unlinked = [page for page in PAGES[2:] if str(page.relative_to(ROOT)) not in readme]
    assert not unlinked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(rf"(?:`|^| )((?:{'|'.join(FOLDERS)})/[\w./-]+)", page.read_text(), re.M)
    assert [name for name in named if not (ROOT / name.rstrip(".")).exists()] == []


def test_every_name_of_the_package_that_a_page_gives_exists() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for module, names in re.findall(r"^from (exaone_export[\w.]*) import ([\w, ]+)$", text, re.M):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
    for name in set(re.findall(r"`(exaone_export\.(?!json)[\w.]+)`", text)):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_one_that_there_is(page: Path) -> None:
    blocks = "\n".join(re.findall(r"^```(?:console)?\n(.*?)^```", page.read_text(), re.S | re.M))
    if page.name == "command-line.md":
        pytest.skip("made from the commands")
    for line in re.findall(r"^(?:\$ )?exaone-export (.*)$", blocks.replace("\\\n", ""), re.M):
        arguments = [word for word in shlex.split(line, comments=True) if not word.startswith(">")]
        command = cli.get_command(click.Context(cli), arguments[0])
        assert command is not None, line
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        unknown = [word for word in arguments[1:] if re.match("--?[a-z]", word) and word not in known]
        assert not unknown, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_runs_to_refresh_a_page_ends_and_installs_nothing(page: Path) -> None:
    blocks = "\n".join(re.findall(r"^```console\n(.*?)^```", page.read_text(), re.S | re.M))
    assert not re.findall(r"^\$ (?:pip .*|exaone-export (?:serve|.* out\b).*)$", blocks, re.M)


def test_every_promise_of_trust_names_a_test_that_there_is() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "explanation" / "trust.md").read_text())
    assert named
    assert [name for name in named if f"def {name}(" not in sources] == []


def test_the_tables_show_the_benchmarks_as_they_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from peers import report

    shown = re.findall(r"<!-- begin: make bench -->\n(.*?)\n<!-- end: make bench -->", PERFORMANCE.read_text(), re.S)
    assert shown
    for tables in shown:
        found = re.search(r"benchmarks/results/(\S+?-1\.2b-peers\.json)", tables)
        assert found is not None
        measured = json.loads((ROOT / "benchmarks" / "results" / found[1]).read_text())
        assert tables == report.tables(measured, found[1])


def test_the_headline_figures_are_the_measured_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from peers.report import ratios

    def systems(day: str) -> dict[str, Any]:
        found = json.loads((ROOT / "benchmarks" / "results" / f"{day}-1.2b-peers.json").read_text())
        assert isinstance(found["systems"], dict)
        return found["systems"]

    def median(found: dict[str, Any], figure: str) -> float:
        return statistics.median(run[figure] for run in found["runs"])

    amx, avx2 = systems("2026-11-26"), systems("2026-11-25")
    decode = [f"{median(each['ours-int4'], 'decode tok/s'):.1f}" for each in (amx, avx2)]
    prefill = [f"{median(each['ours-int8'], 'prefill tok/s'):.0f}" for each in (amx, avx2)]
    lean, mirror = systems("2026-11-27-two-graphs"), systems("2026-11-27")
    runs = (lean["ours-int4"], mirror["ours-int4-mirror"], lean["genai-int4-b128"])
    held = [f"{median(each, 'peak bytes') / 1e9:.2f}" for each in runs]
    prompts = lean["ours-int4-int8"]
    faster = [
        f"{statistics.median(ratios(prompts['runs'], lean[name]['runs'], 'prefill tok/s')):.2f}"
        for name in ("genai-int4-b128", "llamacpp-q4_0", "openvino-int4")
    ]
    beside = [
        f"{statistics.median(ratios(each['ours-int4']['runs'], each['genai-int4-b128']['runs'], 'decode tok/s')):.2f}"
        for each in (amx, avx2)
    ]
    readme = (ROOT / "README.md").read_text()
    assert (
        f"{decode[0]} tok/s (AMX), {decode[1]} (AVX2): {beside[0]} and {beside[1]} times ONNX Runtime GenAI" in readme
    )
    assert f"{prefill[0]} tok/s (AMX), {prefill[1]} (AVX2)" in readme
    assert (
        f"{median(prompts, 'prefill tok/s'):.1f} tok/s: {faster[0]} times ONNX Runtime GenAI's int4, {faster[1]} times "
        f"llama.cpp's, {faster[2]} times OpenVINO's" in readme
    )
    load = [f"{median(lean[name], 'load s'):.2f}" for name in ("ours-int4", "genai-int4-b128", "llamacpp-q4_0")]
    assert f"{load[0]} s; ONNX Runtime GenAI's int4 {load[1]}, llama.cpp's Q4_0 {load[2]}" in readme
    assert f"{held[0]} GB; by `ExaoneForCausalLM` {held[1]}, ONNX Runtime GenAI's int4 {held[2]}" in readme


def test_the_servers_figures_are_the_measured_ones() -> None:
    text = PERFORMANCE.read_text()
    for report in json.loads((ROOT / "benchmarks" / "results" / "2026-11-27-1.2b-servers.json").read_text()):
        for level in report["levels"]:
            first, each = (
                f"{1e3 * level[name]['p50']:.0f} / {1e3 * level[name]['p95']:.0f}"
                for name in ("time_to_first_token", "time_per_output_token")
            )
            speed = f"{level['answer_tokens_per_second']:.1f}"
            assert f"| {report['server']} | {level['concurrency']} | {speed} | {first} | {each} |" in text
            assert not level["failed"]


def test_the_gpu_figures_are_the_measured_ones() -> None:
    run = json.loads((ROOT / "benchmarks" / "results" / "2026-11-26-nvidia-h200.json").read_text())
    times = {name: found.get("generate() ms a token") for name, found in run["speed"].items()}
    ours = [f"{times[f'ort-cuda {precision}'][1]:.2f}" for precision in ("float16", "int4")]
    theirs = f"{times['transformers, static cache, torch.compile'][1]:.2f}"
    readme = (ROOT / "README.md").read_text()
    assert (
        f"{ours[0]} ms/token in float16, {ours[1]} in int4; `transformers` compiled with a static cache: {theirs}"
        in readme
    )
    page = (ROOT / "docs" / "explanation" / "performance.md").read_text()
    for name, (low, median, high) in ((name, each) for name, each in times.items() if each):
        assert f"{run['speed'][name]['prefill tok/s']:,} | {median:.2f} ({low:.2f} to {high:.2f})" in page
