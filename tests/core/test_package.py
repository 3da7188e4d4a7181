"""The package's own names, and that looking at them costs nothing."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

import exaone_export
from tests.conftest import ROOT

HEAVY = ("torch", "transformers", "onnxruntime", "onnx", "onnx_ir", "numpy", "safetensors")


def test_importing_it_loads_nothing_until_a_name_is_used() -> None:
    code = f"""
import sys
import exaone_export
from exaone_export import errors

def loaded():
    return sorted(name for name in {HEAVY!r} if name in sys.modules)

assert not loaded(), loaded()
assert set(exaone_export.__all__) <= set(dir(exaone_export))
assert exaone_export.__version__ and not hasattr(exaone_export, "nothing")
assert not loaded(), loaded()
assert not [name for name in sys.modules if name.startswith(("exaone_export.exporter", "exaone_export.runtime"))]
from exaone_export import ExaoneForCausalLM
assert {{"torch", "transformers"}} <= set(loaded())
assert vars(exaone_export)["ExaoneForCausalLM"] is ExaoneForCausalLM
import exaone_export.runtime.mirror.text.chat
# The runtime needs neither the exporter nor the graphs, and a library of sessions only where one is opened.
unneeded = ("exaone_export.exporter", "exaone_export.graphs", "onnxruntime", "onnx_ir")
assert not [name for name in sys.modules if name.startswith(unneeded)]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_every_folder_of_the_product_is_installed_once() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = settings["package-dir"].items()
    folders = [(name, path) for name, room in rooms for path in sorted((ROOT / room).rglob("__init__.py"))]
    found = {
        ".".join((name, *path.parent.relative_to(ROOT / settings["package-dir"][name]).parts)) for name, path in folders
    }
    assert sorted(settings["packages"]) == sorted(found)


def test_what_packs_the_wheel_is_installed_and_pinned() -> None:
    """`make wheel` builds without isolation, in the environment that the extra dev makes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["build-system"]["requires"]) <= set(project["project"]["optional-dependencies"]["dev"])
    assert "setuptools" in [line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()]


def test_each_name_is_that_of_its_home() -> None:
    from exaone_export.exporter.build.engine import build_engine
    from exaone_export.exporter.calibrate.run import calibrate
    from exaone_export.exporter.export import export
    from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
    from exaone_export.runtime.mirror.text.chat import ChatFormat
    from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer

    for value in (build_engine, calibrate, export, load_tokenizer, ChatFormat, ExaoneForCausalLM):
        assert getattr(exaone_export, value.__name__) is value
        assert value.__name__ in exaone_export.__all__
    with pytest.raises(AttributeError, match="module 'exaone_export' has no attribute 'quantize'"):
        _ = exaone_export.quantize


def test_the_text_room_hands_on_its_names() -> None:
    from exaone_export.runtime import text
    from exaone_export.runtime.text import answer, chat, reasoning, stream, tokenizer

    homes = {name: home for home in (tokenizer, chat, answer, reasoning, stream) for name in home.__all__}
    for name in text.__all__:
        assert getattr(text, name) is getattr(homes[name], name)
    with pytest.raises(AttributeError, match=r"module 'exaone_export\.runtime\.text' has no attribute 'quantize'"):
        _ = text.quantize
