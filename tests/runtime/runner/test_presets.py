"""Recommended sampling: a caller's options, then the preset, then the file."""

from __future__ import annotations

from typing import Any

import pytest

from exaone_export.errors import UnsupportedOptionError
from exaone_export.runtime.core.sampling import Sampling
from exaone_export.runtime.runner.defaults import Defaults
from exaone_export.runtime.runner.presets import MODES, apply_preset

GREEDY = {"do_sample": False}
DRAWS = {"do_sample": True, "temperature": 0.9, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}


def drawn(temperature: float, top_p: float, top_k: int = 20) -> Sampling:
    return Sampling(temperature, top_k, top_p, repetition_penalty=1.1)


@pytest.mark.parametrize(
    ("mode", "thinking", "file", "options", "expected"),
    [
        (None, False, GREEDY, {}, Sampling()),
        (None, False, DRAWS, {}, drawn(0.9, 0.8)),
        # reasoning without a mode: the file's sampling, and the preset where the file is greedy
        (None, True, DRAWS, {}, drawn(0.9, 0.8)),
        (None, True, GREEDY, {}, Sampling(0.6, 50, 0.95)),
        (None, True, {}, {}, Sampling(0.6, 50, 0.95)),
        (None, True, GREEDY, {"temperature": 0.0}, Sampling()),
        (None, True, GREEDY, {"top_p": 0.5}, Sampling(0.6, 50, 0.5)),
        (None, True, GREEDY, {"temperature": None, "top_p": None}, Sampling(0.6, 50, 0.95)),
        # a named mode is used whatever the file says; what the preset does not name is the file's
        ("reasoning", False, DRAWS, {}, drawn(0.6, 0.95)),
        ("reasoning", True, GREEDY, {}, Sampling(0.6, 50, 0.95)),
        ("default", False, DRAWS, {}, Sampling(repetition_penalty=1.1)),
        ("default", True, GREEDY, {}, Sampling()),
        # an option wins over both
        ("reasoning", True, DRAWS, {"temperature": 0.3}, drawn(0.3, 0.95)),
        ("default", False, DRAWS, {"temperature": 0.3}, drawn(0.3, 0.8)),
        ("reasoning", True, DRAWS, {"top_k": 0, "seed": 7}, Sampling(0.6, 0, 0.95, repetition_penalty=1.1, seed=7)),
    ],
)
def test_options_then_the_preset_then_the_file(
    mode: str | None, thinking: bool, file: dict[str, Any], options: dict[str, Any], expected: Sampling
) -> None:
    defaults = Defaults(file, frozenset())
    assert defaults.sampling(apply_preset(mode, options, defaults, enable_thinking=thinking)) == expected


def test_a_preset_that_there_is_not() -> None:
    assert MODES == ("default", "reasoning")
    with pytest.raises(
        UnsupportedOptionError, match="'creative' is not a preset of sampling; use default or reasoning"
    ):
        apply_preset("creative", {}, Defaults({}, frozenset()), enable_thinking=False)
