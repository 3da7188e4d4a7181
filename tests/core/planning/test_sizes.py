from __future__ import annotations

import pytest

from exaone_export.errors import ConfigError
from exaone_export.planning.sizes import GPUS, format_duration, format_size, gpu_memory, parse_size
from exaone_export.targets.engine import FLAVOURS


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * 2**30),
        ("24 gib", 24 * 2**30),
        ("80GB", 80_000_000_000),
        ("1.5MiB", 3 * 2**19),
        ("1TiB", 2**40),
        ("512KB", 512_000),
        ("4096", 4096),
        ("7B", 7),
    ],
)
def test_a_size_is_read_with_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "0", "24GX", "1e9", "24 GiB 3", "nan", "9999999TiB"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a valid size; give bytes with a unit, such as 24GiB or 512MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    "name", ["rtx-4090", "RTX 4090", "RTX4090", "GeForce RTX 4090", "NVIDIA GeForce RTX 4090", "rtx_4090", "4090"]
)
def test_a_gpu_is_known_by_the_names_it_goes_by(name: str) -> None:
    assert gpu_memory(name) == GPUS["rtx-4090"].memory << 20


def test_a_gpu_may_be_a_size_and_nothing_else() -> None:
    assert gpu_memory("H100") == 81_559 << 20
    assert gpu_memory("rtx pro 6000") == GPUS["rtx-pro-6000"].memory << 20
    assert gpu_memory("16GiB") == 2**34
    with pytest.raises(ConfigError, match=r"GPU 'gtx-9' is unknown; give its memory, such as --gpu 24GiB, or one of"):
        gpu_memory("gtx-9")


def test_sizes_are_shown_in_the_largest_unit_that_leaves_one() -> None:
    assert [format_size(size) for size in (0, 1023, 1024, 3 * 2**19, 2**40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "1024.00 GiB",
    ]


def test_times_are_shown_as_people_say_them() -> None:
    assert [format_duration(seconds) for seconds in (0, 9.94, 9.96, 59.6, 200, 7500)] == [
        "0.0 s",
        "9.9 s",
        "10 s",
        "1 min 00 s",
        "3 min 20 s",
        "2 h 05 min",
    ]


def test_gpus_that_run_tensorrt_rtx() -> None:
    rtx = FLAVOURS["tensorrt_rtx"]
    assert {name for name, gpu in GPUS.items() if not rtx.serves(gpu.compute_capability)} == {
        "b200",
        "h100",
        "h200",
        "t4",
    }
    assert rtx.serves("7.5", named=True)
    assert all(FLAVOURS["tensorrt"].serves(gpu.compute_capability) for gpu in GPUS.values())
