"""A package that is not installed is told from one that is installed and broken."""

from __future__ import annotations

import pickle
import sys
import tomllib
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from exaone_export import errors
from exaone_export.errors import MissingExtraError
from exaone_export.extras import EXPORT, EXPORT_MODULES, SERVE_MODULES, missing_extra, needs_extra, not_installed
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_modules_of_the_extra_are_those_that_pip_installs() -> None:
    extras = PROJECT["optional-dependencies"]
    named = {Requirement(line).name.replace("-", "_") for line in extras[EXPORT]}
    assert named == {*EXPORT_MODULES}
    assert not named & {Requirement(line).name for line in PROJECT["dependencies"]}
    for extra in ("cuda", "rtx", "tensorrt", "polygraphy", "dev"):  # what needs PyTorch brings it
        brought = [
            requirement for requirement in map(Requirement, extras[extra]) if requirement.name == "exaone-export"
        ]
        assert any(EXPORT in requirement.extras for requirement in brought)
    assert {Requirement(line).name.replace("-", "_") for line in extras["serve"]} == {*SERVE_MODULES}
    assert f"exaone-export[{EXPORT}]" not in [*extras["cpu"], *extras["plot"]]


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (ModuleNotFoundError("No module named 'gone'", name="gone"), ["gone"]),
        (ModuleNotFoundError("No module named 'gone.part'", name="gone.part"), ["gone"]),
        (ImportError("transformers names none"), ["gone"]),
        (ModuleNotFoundError("No module named 'json.part'", name="json.part"), None),
        (ImportError("libmissing.so", name="json._native"), None),
        (ModuleNotFoundError("No module named 'other'", name="other"), None),
        (MissingExtraError("a plot", "gone", extra="plot"), None),
    ],
)
def test_only_a_module_that_is_not_there_is_missing(error: ImportError, gone: list[str] | None) -> None:
    found = missing_extra(error, "this", "json", "gone", extra="x")
    assert (None if found is None else [found.name]) == gone
    if gone is None:
        with pytest.raises(type(error)) as raised, needs_extra("this", "json", "gone", extra="x"):
            raise error
        assert raised.value is error
        return
    with pytest.raises(MissingExtraError) as raised, needs_extra("this", "json", "gone", extra="x"):
        raise error
    assert str(raised.value) == "this needs gone, which is not installed; run: pip install 'exaone-export[x]'."
    assert raised.value.__cause__ is error


def test_several_modules_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hidden", None)
    monkeypatch.setitem(sys.modules, "stub", ModuleType("stub"))  # without a spec
    gone = not_installed("json", "hidden", "stub", "gone")
    assert gone == ["hidden", "gone"]
    assert str(MissingExtraError("this", *gone, extra="x")) == (
        "this needs hidden and gone, which are not installed; run: pip install 'exaone-export[x]'."
    )


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_reaches_another_process(name: str) -> None:
    kind = getattr(errors, name)
    error = kind("this", "hidden", "gone", extra="x") if kind is MissingExtraError else kind("a sentence")
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found)) == (kind, str(error))
    assert kind is not MissingExtraError or (found.name, found.extra) == ("hidden", "x")
