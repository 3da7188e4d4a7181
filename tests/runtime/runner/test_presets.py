"""Recommended sampling: a caller's options, then the preset of the model, then the file."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from exaone_export.errors import UnsupportedOptionError
from exaone_export.runtime.core.sampling import Sampling
from exaone_export.runtime.runner.defaults import Defaults
from exaone_export.runtime.runner.presets import MODELS, MODES, apply_preset, recommended

GREEDY = {"do_sample": False}
DRAWS = {"do_sample": True, "temperature": 0.9, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}
BY_NAME = {each.model: each for each in MODELS}


def drawn(temperature: float, top_p: float, top_k: int = 20) -> Sampling:
    return Sampling(temperature, top_k, top_p, repetition_penalty=1.1)


def sampling(model: str | None, mode: str | None, reasons: bool, file: dict[str, Any], **options: Any) -> Sampling:
    defaults = Defaults(file, frozenset())
    of = None if model is None else BY_NAME[model]
    return defaults.sampling(apply_preset(mode, options, defaults, of, reasons=reasons))


@pytest.mark.parametrize(
    ("mode", "reasons", "file", "options", "expected"),
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
    mode: str | None, reasons: bool, file: dict[str, Any], options: dict[str, Any], expected: Sampling
) -> None:
    assert sampling("EXAONE 4.0", mode, reasons, file, **options) == expected


@pytest.mark.parametrize(
    ("model", "default", "reasoning"),
    [
        ("EXAONE 4.0", Sampling(), Sampling(0.6, 50, 0.95)),
        ("EXAONE 4.5", Sampling(1.0, 50, 0.95), Sampling(1.0, 50, 0.95)),
        ("K-EXAONE", Sampling(1.0, 50, 0.95), Sampling(1.0, 50, 0.95)),
        ("EXAONE Deep", Sampling(0.6, 50, 0.95), Sampling(0.6, 50, 0.95)),
        ("EXAONE 3", Sampling(), None),
    ],
)
def test_every_model_has_its_own_figures(model: str, default: Sampling, reasoning: Sampling | None) -> None:
    assert sampling(model, "default", False, GREEDY) == default
    if reasoning is not None:
        assert sampling(model, "reasoning", True, GREEDY) == sampling(model, None, True, GREEDY) == reasoning
        return
    assert sampling(model, None, True, GREEDY) == Sampling()
    with pytest.raises(UnsupportedOptionError, match="EXAONE 3 does not reason"):
        sampling(model, "reasoning", False, GREEDY)


def artifact(model_type: str, name: str) -> Any:
    return SimpleNamespace(spec=SimpleNamespace(model_type=model_type), manifest=SimpleNamespace(source={"name": name}))


OLD, NEW, DEEP = "'[|endofturn|]'", "'<|endofturn|>'", "'[|endofturn|][|assistant|]<thought>'"


@pytest.mark.parametrize(
    ("model_type", "name", "template", "expected"),
    [
        # the architecture, then the name of the checkpoint, then what the template writes
        ("exaone_moe", "anything", None, "K-EXAONE"),
        ("exaone4", "LGAI-EXAONE/EXAONE-4.5-33B", None, "EXAONE 4.5"),
        ("exaone4", "EXAONE-4.0.1-32B", NEW, "EXAONE 4.0"),
        ("exaone4", "EXAONE-4.05", None, None),
        ("exaone4", "mine", NEW, "EXAONE 4.5"),
        ("exaone4", "mine", OLD, "EXAONE 4.0"),
        ("exaone4", "mine", {"default": OLD, "tool_use": OLD}, "EXAONE 4.0"),
        ("exaone4", "mine", "{{ messages }}", None),
        ("exaone4", "EXAONE-Deep-7.8B", None, None),  # which is not of this architecture
        ("exaone", "EXAONE-3.5-2.4B-Instruct", DEEP, "EXAONE 3"),
        ("exaone", "EXAONE-Deep-7.8B", None, "EXAONE Deep"),
        ("exaone", "mine", DEEP, "EXAONE Deep"),
        ("exaone", "mine", OLD, "EXAONE 3"),
    ],
)
def test_a_model_is_told_by_what_its_artifact_says(
    model_type: str, name: str, template: Any, expected: str | None
) -> None:
    found = recommended(artifact(model_type, name), template)
    assert (found and found.model) == expected


def test_a_model_that_nothing_tells_is_not_guessed() -> None:
    assert sampling(None, None, True, GREEDY) == Sampling()
    for mode in MODES:
        with pytest.raises(
            UnsupportedOptionError, match=f"so the mode {mode} has no recommended settings; pass a temperature"
        ):
            sampling(None, mode, True, GREEDY)


def test_a_preset_that_there_is_not_and_an_option_that_has_no_effect() -> None:
    assert MODES == ("default", "reasoning")
    with pytest.raises(
        UnsupportedOptionError, match="'creative' is not a preset of sampling; use default or reasoning"
    ):
        sampling("EXAONE 4.0", "creative", False, {})
    with pytest.raises(UnsupportedOptionError, match=r"top_k is for sampling, and the mode default of EXAONE 4\.0"):
        sampling("EXAONE 4.0", "default", False, {}, top_k=5)
    assert sampling("K-EXAONE", "default", False, {}, top_k=5) == Sampling(1.0, 5, 0.95)
