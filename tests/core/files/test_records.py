"""Records: what JSON can hold is refused by type, in one sentence, and never brings the process down."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import pytest

from exaone_export.errors import ArtifactError
from exaone_export.files.records import Count, Record, Sha256, Size, one_of, read_record
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.engine import EngineInfo
from exaone_export.targets.recipe import Recipe
from tests.core.artifacts import MANIFEST
from tests.core.targets.test_engine import ON_89
from tests.core.targets.test_precision import RECIPE


class Inner(Record, frozen=True, array_like=True):
    low: Count
    high: Count

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"{self.low} is above {self.high}")


class Outer(Record, frozen=True):
    hashes: dict[str, Sha256]
    pairs: list[Inner]
    layers: dict[Size, str]
    color: Annotated[str, one_of(("red", "dark-red"))] | None = None


GOOD: dict[str, Any] = {"hashes": {"a": "0" * 64}, "pairs": [[1, 2]], "layers": {"3": "x"}, "color": "dark-red"}


def read(value: Any) -> Outer:
    return read_record(value, Outer, name="the file", fix="write it again", error=ArtifactError)


def test_a_record_is_read() -> None:
    assert read(GOOD) == Outer({"a": "0" * 64}, [Inner(1, 2)], {3: "x"}, "dark-red")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda v: v.pop("hashes"), "the file has no key 'hashes'"),
        (lambda v: v.update({"x" * 500: 1}), f"the file has an unknown key '{'x' * 80}'"),
        (lambda v: v["hashes"].update(a="b"), "the file has 'b' at hashes[...], which is not of the form [0-9a-f]{64}"),
        (lambda v: v["hashes"].update(b=1), "the file has int at hashes[...], which is not str"),
        (lambda v: v["hashes"].update(a="0" * 64 + "\n"), "the file has '000"),
        (lambda v: v["pairs"].append([2, 1]), "the file cannot be used: pairs[1]: 2 is above 1"),
        (lambda v: v["pairs"].append([1]), "the file has [1] at pairs[1], which is not array of at least length 2"),
        (lambda v: v["pairs"].append([1, True]), "the file has True at pairs[1][1], which is not int"),
        (lambda v: v["pairs"].append([1, 2.0]), "the file has 2.0 at pairs[1][1], which is not int"),
        (lambda v: v["layers"].update({"03": "y"}), "the file has a key in layers that is not int"),
        (lambda v: v["layers"].update({"-3": "y"}), "the file has a key in layers that is not int >= 0"),
        (lambda v: v.update(color="blue"), "the file has 'blue' at color, which is not of the form red|dark-red"),
        (lambda v: v.update({"\ud800": 1}), "the file cannot be used: 'utf-8' codec can't encode character"),
    ],
)
def test_what_is_wrong_is_named(change: Callable[[dict[str, Any]], Any], sentence: str) -> None:
    value = json.loads(json.dumps(GOOD))
    change(value)
    with pytest.raises(ArtifactError, match=rf"^{re.escape(sentence)}.*; write it again\.$"):
        read(value)
    with pytest.raises(ArtifactError, match=r"^the file is \[\], not object; write it again\.$"):
        read([])


VALUES: list[Any] = [
    None, True, False, 0, -1, 2**63, -(2**70), 10**400, 0.5, -0.0, 1e300, "", "x", "\ud800", "\0", "é" * 300,
    [], [[]], {}, {"": None}, {"\ud800": "\ud800"}, {"sha256": 1},
]  # fmt: skip


def _spoil(value: Any, dice: random.Random) -> Any:
    """A copy of a JSON value with another one somewhere in it."""
    if not value or not isinstance(value, dict | list) or dice.random() < 0.2:
        return dice.choice(VALUES)
    if isinstance(value, list):
        at = dice.randrange(len(value))
        return [_spoil(item, dice) if index == at else item for index, item in enumerate(value)]
    key = dice.choice(sorted(value))
    if dice.random() < 0.1:
        return {("\ud800" if name == key else name): item for name, item in value.items()}
    return {**value, key: _spoil(value[key], dice)}


READERS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "manifest": (
        lambda value: read_record(value, type(MANIFEST), name="it", fix="write it again", error=ArtifactError),
        msgspec.structs.asdict(msgspec.structs.replace(MANIFEST, files={"a": {"sha256": "0" * 64, "size": 1}})),
    ),
    "engine": (EngineInfo.from_dict, ON_89.to_dict()),
    "recipe": (Recipe.from_dict, RECIPE.to_dict()),
    "cache": (CacheLayout.from_dict, MANIFEST.cache),
}


@pytest.mark.hostile
@pytest.mark.parametrize("name", READERS)
def test_whatever_a_value_is_it_is_read_or_refused(name: str) -> None:
    read_back, good = READERS[name]
    dice, refused = random.Random(7), 0
    for _ in range(2000):
        try:
            read_back(_spoil(good, dice))
        except ArtifactError as error:
            refused += 1
            assert str(error).endswith(".") and len(str(error)) < 400
    assert refused > 500
