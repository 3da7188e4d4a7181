"""The scripts of an example, for the tests."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def imported(script: Path) -> Iterator[ModuleType]:
    """A script imported as it is run, with its folder on the path. Scripts of other examples have the same names."""
    names = {path.stem for path in EXAMPLES.glob("*/training/*.py")}
    before = {name: sys.modules.pop(name) for name in names & sys.modules.keys()}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(script.parent))
        try:
            yield importlib.import_module(script.stem)
        finally:
            for name in names:
                sys.modules.pop(name, None)
            sys.modules.update(before)
