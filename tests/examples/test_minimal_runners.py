"""The minimal runners give the tokens of `generate()`, past three windows."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, TINY

JAVASCRIPT = ROOT / "examples" / "javascript"
PROMPT = "[|user|]\n" + "Hello, how can you help? " * 20 + "[|endofturn|]\n[|assistant|]\n<think>\n\n</think>\n\n"


def answer_of(folder: Path) -> tuple[list[int], list[int], str]:
    """The prompt's tokens, PyTorch's greedy answer without the stop token, and its text."""
    import torch
    import transformers
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt: list[int] = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(TINY).eval()
    with torch.no_grad():
        row = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)[0].tolist()
    answer = [token for token in row[len(prompt) :] if token != model.config.eos_token_id]
    return prompt, answer, tokenizer.decode(answer)


def test_in_python(export_artifact: Callable[..., Path]) -> None:
    folder = export_artifact(TINY, "ort-cpu", max_length=512)
    prompt, answer, _ = answer_of(folder)
    assert len(prompt) > 3 * 32
    runner = runpy.run_path(str(ROOT / "examples" / "minimal_runner.py"))
    assert list(runner["generate"](folder, prompt, 40)) == answer
    assert list(runner["generate"](folder, prompt, 2)) == answer[:2]


def test_in_python_a_changed_file_is_refused(export_artifact: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(export_artifact(TINY, "ort-cpu", max_length=512), tmp_path / "copy"))
    (folder / "config.json").write_text("{}")
    runner = runpy.run_path(str(ROOT / "examples" / "minimal_runner.py"))
    with pytest.raises(SystemExit, match=r"config\.json is not the file that was exported"):
        list(runner["generate"](folder, [1], 1))


@pytest.mark.parametrize("script", ["examples/minimal_runner.py", "exporter/publish/card_runner.py"])
def test_nothing_is_sent_to_the_maker_of_the_runtime(script: str) -> None:
    source = (ROOT / script).read_text(encoding="utf-8")
    assert 0 < source.find('setdefault("ORT_DISABLE_TELEMETRY", "1")') < source.find("import onnxruntime")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.skipif(
    not (JAVASCRIPT / "node_modules").is_dir(), reason="run npm ci --ignore-scripts in examples/javascript"
)
@pytest.mark.parametrize("inline", [False, True])
def test_in_javascript(export_artifact: Callable[..., Path], inline: bool) -> None:
    folder = export_artifact(TINY, "onnx", max_length=512, **({"inline": True} if inline else {}))
    _, _, text = answer_of(folder)
    command = ["node", str(JAVASCRIPT / "minimal_runner.mjs"), str(folder), PROMPT, "40"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert printed.stdout.rstrip("\n") == text.rstrip("\n")
