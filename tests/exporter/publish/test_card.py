"""The programs that a model card shows give the answer of the artifact."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from exaone_export import Runner
from exaone_export.artifact.manifest import read_manifest
from exaone_export.exporter.publish.card import CardFields, model_card
from tests.conftest import ROOT, TINY
from tests.examples.scripts import imported


@pytest.mark.parametrize("package", ["exaone_export", "onnxruntime_genai", "onnxruntime"])
def test_its_programs_answer_as_the_artifact_does(package: str, export_artifact: Callable[..., Path]) -> None:
    pytest.importorskip(package)
    with imported(ROOT / "examples" / "demo.py") as demo:  # past three windows, where positions and mask matter
        prompt = f"[|user|]\n{demo.HOMES}[|endofturn|]\n[|assistant|]\n<think>\n\n</think>\n\n"
    folder = export_artifact(TINY, "ort-cpu", max_length=512)
    card = model_card(read_manifest(folder), "org/model", CardFields())
    programs = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    (program,) = [each for each in programs if re.search(rf"^(import|from) {package}\b", each, re.M)]
    program = re.sub(r'(?<!\[)"(org/)?model"', f'"{folder}"', program).replace('"Hello"', repr(prompt))
    with Runner.open(folder) as runner:
        wanted = runner.generate(prompt).read()
    assert wanted
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(program, {})
    assert printed.getvalue().rstrip("\n").endswith(wanted)
