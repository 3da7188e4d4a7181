"""What a calibration may be asked for."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exaone_export.cli.main import cli
from exaone_export.errors import CalibrationError, UnsupportedOptionError
from exaone_export.exporter.calibrate.options import (
    METHODS,
    PRECISION_NAMES,
    ROUNDINGS,
    SMOOTHINGS,
    Options,
    check_destination,
)
from tests.conftest import TINY


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int5"}, "precision is 'int5'; choose --precision from: int8, fp8, int4, int8-weights."),
        ({"precision": "float32"}, "precision is 'float32'; choose --precision from"),
        (
            {"precision": "int8", "method": "mean"},
            "method is 'mean'; choose --method from: max, percentile, entropy, mse.",
        ),
        ({"precision": "int4", "weights": "best"}, "weights is 'best'; choose --weights from: nearest, gptq, awq."),
        ({"precision": "int8", "smooth": "all"}, "smooth is 'all'; choose --smooth from: none, fold, explicit."),
        ({"cache": "int4"}, "cache is 'int4'; choose --cache from: int8."),
        ({"cache": "fp8"}, "cache is 'fp8'; choose --cache from: int8."),
        ({"precision": "int4", "keep_layers": "5%", "sensitivity": "x"}, "choose --sensitivity from: error, kl."),
        ({"weights": "gptq"}, "--weights gptq is for one precision; pass --precision too, or leave it out."),
        ({"method": "mse"}, "--method mse is for one precision"),
        ({"smooth": "fold"}, "--smooth fold is for one precision"),
        ({"keep_layers": "5%"}, "--keep-layers 5% is for one precision"),
        (
            {"precision": "int4", "method": "mse"},
            "precision int4 rounds no inputs, so it has no range to choose; leave",
        ),
        ({"precision": "int8-weights", "method": "entropy"}, "rounds no inputs"),
        ({"precision": "int8", "weights": "gptq"}, "precision int8 has its weights rounded at the export; leave"),
        ({"precision": "fp8", "weights": "nearest"}, "or pass --precision int4 or int8-weights."),
        ({"precision": "fp8", "smooth": "fold"}, "smoothing is for int8 inputs; leave --smooth fold out, or pass"),
        ({"precision": "int4", "smooth": "explicit"}, "smoothing is for int8 inputs"),
        ({"precision": "int8", "signed_scales": True}, "signed scales are for int4 by gptq or nearest; leave"),
        (
            {"precision": "int4", "weights": "awq", "signed_scales": True},
            "signed scales are for int4 by gptq or nearest",
        ),
        ({"signed_scales": True}, "signed scales are for int4"),
        ({"precision": "int8", "sensitivity": "kl"}, "--sensitivity kl chooses the layers to keep; pass --keep-layers"),
        *(
            (
                {"precision": "int4", "keep_layers": size},
                f"keep layers is {size!r}; pass a share or a size above 0, such as 10% or 200MiB",
            )
            for size in ("", "0", "0%", "-1", "ten", "1e9", "5 %%", "1PB")
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        Options(**options)
    message = str(caught.value)
    assert words in message
    assert message.endswith(".")
    assert "\n" not in message


def test_every_combination_is_refused_by_name_or_has_its_defaults() -> None:
    allowed = set()
    choices = itertools.product((None, *PRECISION_NAMES), METHODS, (None, *ROUNDINGS), SMOOTHINGS, (False, True))
    for precision, method, weights, smooth, signed in choices:
        try:
            options = Options(precision, method, weights, smooth, signed_scales=signed)
        except CalibrationError:
            continue
        allowed.add((precision, method, weights, smooth, signed))
        assert bool(options.formats) == (precision not in ("int4", "int8-weights"))
        assert (options.rounding is not None) == (precision in ("int4", "int8-weights"))
    # None: 1. int8: 4 methods x 3 smoothings. fp8: 4 methods. int4: 4 roundings, 3 of them signed too. int8-weights: 4.
    assert len(allowed) == 1 + 12 + 4 + 7 + 4
    assert Options("int4").rounding == "gptq"
    assert Options("int8-weights").rounding == "nearest"
    assert Options().formats == ("float8_e4m3fn", "int8")
    assert Options("fp8").formats == ("float8_e4m3fn",)


@pytest.mark.parametrize(
    ("size", "expected"),
    [("10%", 100), ("2.5 %", 25), ("150", 150), ("150B", 150), ("1.5kb", 1500), ("2MiB", 2**21), ("1 GiB", 2**30)],
)
def test_a_budget_is_bytes_or_a_share(size: str, expected: int) -> None:
    assert Options("int4", keep_layers=size).budget(1000) == expected


def test_the_command_refuses_before_it_reads_anything() -> None:
    arguments = ["calibrate", str(TINY), "out", "--data", "missing.jsonl", "--precision", "int8", "--weights", "awq"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert result.stderr == (
        "error: precision int8 has its weights rounded at the export; leave --weights awq out, or pass --precision "
        "int4 or int8-weights.\n"
    )


def test_overwrite_replaces_scales_alone(tmp_path: Path) -> None:
    path, scales = tmp_path / "file", {"__metadata__": {"exaone_export": "{}"}}
    lost = r"is not a scales file, and would be lost; remove it, or choose another path\."
    for content in (b'{"text": "Hello"}\n', (TINY / "model.safetensors").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(CalibrationError, match=lost):
            check_destination(path, overwrite=True)
        assert path.read_bytes() == content
    text = json.dumps(scales).encode()
    cut = json.dumps(scales | {"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
    for content in (b"", *(len(header).to_bytes(8, "little") + header for header in (text, cut))):
        path.write_bytes(content)
        check_destination(path, overwrite=True)


@pytest.mark.parametrize(
    "given",
    [
        {"samples": "3"},
        {"samples": True},
        {"seq_length": 2.5},
        {"keep_layers": 5, "precision": "int4"},
        {"signed_scales": "yes"},
        {"precision": 3},
    ],
)
def test_a_value_of_another_type_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedOptionError, match=r"^\w+ is .*, of type \w+; pass an? \w+\.$"):
        Options(**given)
