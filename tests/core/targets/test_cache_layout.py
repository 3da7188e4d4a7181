"""The cache law, against a list that evicts as the law says in words."""

from __future__ import annotations

import re

import pytest

from exaone_export.errors import ArtifactError, ConfigError
from exaone_export.model.spec import LayerSpec
from exaone_export.targets.cache_layout import CacheLayout, LayerCache

LOCAL, GLOBAL = LayerSpec(0, 4096, True), LayerSpec(1, 0, False)
PUBLISHED_32B = (LOCAL, LOCAL, LOCAL, GLOBAL) * 16


@pytest.mark.parametrize(("window", "capacity"), [(1, 1), (1, 2), (4, 4), (4, 5), (4, 8), (8, 15)])
def test_a_local_layer_holds_its_window_and_at_most_its_capacity(window: int, capacity: int) -> None:
    layer = LayerCache(capacity, window)
    rows: list[int] = []
    for token in range(100):
        if len(rows) == capacity:  # full: the block that makes room for capacity - window + 1 tokens goes
            rows = rows[capacity - window + 1 :]
        rows.append(token)
        tokens = token + 1
        assert rows == list(range(layer.evicted(tokens), tokens))
        assert layer.resident_rows(tokens) == len(rows)
        assert min(tokens, window) <= len(rows) <= min(tokens, capacity)
        assert layer.oldest_needed(tokens) >= layer.evicted(tokens)


def test_a_global_layer_never_evicts() -> None:
    layer = LayerCache(64, 0)
    assert [layer.resident_rows(tokens) for tokens in (0, 1, 64)] == [0, 1, 64]
    assert layer.oldest_needed(64) == 0
    assert not layer.evicts(64)


def test_slack_is_at_most_the_window_and_no_layer_is_longer_than_the_longest_text() -> None:
    layout = CacheLayout.plan((LayerSpec(0, 8, True), LayerSpec(1, 200, True), GLOBAL), 100, slack=127)
    assert [layer.capacity for layer in layout.layers] == [16, 100, 100]
    assert [layer.evicts(100) for layer in layout.layers] == [True, False, False]
    assert layout.layers[1].evicted(100) == 0


def test_the_caches_of_the_32b_in_bfloat16() -> None:
    """131,072 tokens: 32 GiB where every layer holds them all, 8.75 GiB where local layers hold their window."""
    hybrid = CacheLayout.plan(PUBLISHED_32B, 131_072, slack=0)
    assert hybrid.num_bytes(8, 128, 2) == 8.75 * 2**30
    everywhere = CacheLayout.plan((GLOBAL,) * 64, 131_072, slack=0)
    assert everywhere.num_bytes(8, 128, 2) == 32 * 2**30
    assert hybrid.num_bytes(8, 128, 2, batch=4) == 35 * 2**30


def test_the_layout_reads_back_and_refuses_what_breaks_the_law() -> None:
    layout = CacheLayout.plan(PUBLISHED_32B, 8192, slack=127)
    assert CacheLayout.from_dict(layout.to_dict()) == layout
    broken = {
        "has no key 'max_length'": {},
        "has no key 'headrooms'": {"max_length": 8, "capacities": [4, 4], "windows": [4]},
        "cannot be used: capacities, windows and headrooms are not of one length": {
            "max_length": 8, "capacities": [4, 4], "windows": [4], "headrooms": [0],
        },
        "breaks the cache law": {"max_length": 8, "capacities": [3], "windows": [4], "headrooms": [0]},
        "has 0 at capacities[0], which is not int >= 1": {
            "max_length": 8, "capacities": [0], "windows": [0], "headrooms": [0],
        },
        "has 'many' at capacities[0], which is not int": {
            "max_length": 8, "capacities": ["many"], "windows": [0], "headrooms": [0],
        },
        "has -1 at windows[0], which is not int >= 0": {
            "max_length": 8, "capacities": [8], "windows": [-1], "headrooms": [0],
        },
        "has True at max_length, which is not int": {
            "max_length": True, "capacities": [], "windows": [], "headrooms": [],
        },
    }  # fmt: skip
    for message, value in broken.items():
        with pytest.raises(ArtifactError, match=f"^the manifest's cache layout {re.escape(message)}"):
            CacheLayout.from_dict(value)


def test_a_length_or_slack_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="max length is 1; it must be at least 2: pass --max-length 2 or more"):
        CacheLayout.plan((GLOBAL,), 1, 0)
    with pytest.raises(ConfigError, match="cache slack is -1"):
        CacheLayout.plan((GLOBAL,), 8, -1)
