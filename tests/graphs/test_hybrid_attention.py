"""The operator's forms against attention over whole sequences, and the traps that one node can fall into."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from exaone_export.graphs.hybrid_attention import DOMAIN, NAME, register_schema
from exaone_export.targets.cache_layout import LayerCache
from tests.graphs.attention_reference import (
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    MAX_LENGTH,
    Weights,
    attend,
    make_rows,
    make_weights,
)
from tests.graphs.kernels import KINDS, STALE, Kernel, layer_cache, make_kernel

TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def weights() -> Weights:
    return make_weights(np.random.default_rng(0))


def empty(batch: int, layer: LayerCache, fill: float = np.nan) -> np.ndarray:
    return np.full((batch, KV_HEADS, layer.capacity, HEAD_DIM), fill, np.float32)


def run_ragged(kernel: Kernel, rows, layer: LayerCache, chunk: int, fill: float = np.nan):  # type: ignore[no-untyped-def]
    """Feed every row in chunks; returns each row's outputs and the caches."""
    batch = len(rows.tokens)
    key, value = empty(batch, layer, fill), empty(batch, layer, fill)
    outputs: list[list[np.ndarray]] = [[] for _ in rows.tokens]
    for qkv, past, count in rows.chunks(chunk):
        output, key, value = kernel(np.where(np.isnan(qkv), np.float32(fill), qkv), key, value, past, count)
        for b in range(batch):
            outputs[b].append(output[b, : count[b]])
    return [np.concatenate(parts) for parts in outputs], key, value


@pytest.mark.parametrize(
    ("window", "slack", "rotary"),
    [
        *((0, 0, rotary) for rotary in (True, False)),
        *((8, 8, rotary) for rotary in (True, False)),
        *((1, 0, True), (2, 0, False), (8, 0, True), (8, 1, False), (60, 40, True)),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_of_cutting_a_sequence_is_attention_over_all_of_it(
    kind: str, window: int, slack: int, rotary: bool, weights: Weights
) -> None:
    """Traps 4, 6 and 9: ragged rows in chunks below, at and above the window, unused slots and padding full of NaN."""
    layer = layer_cache(window, slack)
    kernel = make_kernel(kind, weights, layer, rotary)
    rows = make_rows(np.random.default_rng(1), (37, 5, 20))
    wanted = [attend(tokens, weights, window, rotary) for tokens in rows.tokens]
    for chunk in {1, 3, max(window - 1, 1), window + 1, min(2 * window + 1, MAX_LENGTH), 37}:
        outputs, _, _ = run_ragged(kernel, rows, layer, chunk, STALE.get(kind, np.nan))
        for got, want in zip(outputs, wanted, strict=True):
            np.testing.assert_allclose(got, want, atol=TOLERANCE, rtol=0, err_msg=f"chunk {chunk}")


@pytest.mark.parametrize(("window", "slack"), [(0, 0), (8, 0), (8, 5)])
def test_the_forms_leave_the_same_cache(window: int, slack: int, weights: Weights) -> None:
    """Rows [0, L) hold the L newest positions, oldest first, by the law of `LayerCache`."""
    layer = layer_cache(window, slack)
    rows = make_rows(np.random.default_rng(2), (37, 5, 20))
    _, *wanted = run_ragged(make_kernel("torch", weights, layer, True), rows, layer, 37)
    whole = LayerCache(64, 0)
    _, *everything = run_ragged(make_kernel("torch", weights, whole, True), rows, whole, 37)
    for kind in KINDS:
        for chunk in (1, 7, 37):
            kernel, stale = make_kernel(kind, weights, layer, True), STALE.get(kind, np.nan)
            _, *caches = run_ragged(kernel, rows, layer, chunk, stale)
            for cache, want, all_rows in zip(caches, wanted, everything, strict=True):
                for b, tokens in enumerate(rows.tokens):
                    resident, evicted = layer.resident_rows(len(tokens)), layer.evicted(len(tokens))
                    np.testing.assert_allclose(cache[b, :, :resident], want[b, :, :resident], atol=TOLERANCE)
                    np.testing.assert_allclose(
                        cache[b, :, :resident], all_rows[b, :, evicted : len(tokens)], atol=TOLERANCE
                    )


@pytest.mark.parametrize("window", [1, 2, 4, 4096])
@pytest.mark.parametrize("kind", KINDS)
def test_a_window_lets_a_query_see_exactly_its_width(kind: str, window: int) -> None:
    """Trap 1: with queries and keys 0 every visible value has the same share, so the mean says which are visible."""
    length = window + 3
    layer = LayerCache(window, window)
    weights = Weights(*np.ones((2, HEAD_DIM), np.float32), *np.ones((2, 2 * length, HEAD_DIM // 2), np.float32))
    kernel = make_kernel(kind, weights, layer, False)
    # Value i is 1 at one place only: position mod the head size; two neighbours of the window's edges differ in it.
    values = np.zeros((length, KV_HEADS, HEAD_DIM), np.float32)
    values[np.arange(length), :, np.arange(length) % HEAD_DIM] = 1
    qkv = np.zeros((1, length, HEADS + 2 * KV_HEADS, HEAD_DIM), np.float32)
    qkv[0, :, HEADS + KV_HEADS :] = values
    qkv = qkv.reshape(1, length, -1)

    key, value = empty(1, layer, STALE.get(kind, np.nan)), empty(1, layer, STALE.get(kind, np.nan))
    prompt = np.array([length - 2])
    out_prefill, key, value = kernel(qkv[:, :-2], key, value, np.array([0]), prompt)
    out_first, key, value = kernel(qkv[:, -2:-1], key, value, prompt, np.array([1]))
    out_second, _, _ = kernel(qkv[:, -1:], key, value, prompt + 1, np.array([1]))
    output = np.concatenate((out_prefill, out_first, out_second), 1)[0].reshape(length, HEADS, HEAD_DIM)
    sums = np.concatenate((np.zeros((1, HEAD_DIM)), values[:, 0].cumsum(0, np.float64)))
    ends = np.arange(length) + 1
    starts = np.maximum(ends - window, 0)
    wanted = (sums[ends] - sums[starts]) / (ends - starts)[:, None]
    np.testing.assert_allclose(output[:, 0], wanted, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 20], ids=["decode", "prefill"])
def test_a_token_older_than_the_window_is_out_of_sight(kind: str, step: int, weights: Weights) -> None:
    """Trap 4: a local output stays bit-equal when an older token changes; a global one does not."""
    rng = np.random.default_rng(3)
    rows = make_rows(rng, (20,))
    changed = make_rows(rng, (20,))
    changed.tokens[0][1:] = rows.tokens[0][1:]
    for window in (8, 0):
        layer = layer_cache(window, 3)
        kernel = make_kernel(kind, weights, layer, False)
        (before,), _, _ = run_ragged(kernel, rows, layer, step, STALE.get(kind, np.nan))
        (after,), _, _ = run_ragged(kernel, changed, layer, step, STALE.get(kind, np.nan))
        if window:
            assert (before[:window] != after[:window]).any(1).all()
            np.testing.assert_array_equal(before[window:], after[window:])
        else:
            assert (before != after).any(1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [8, 0])
def test_what_stands_in_unused_slots_does_not_matter(kind: str, window: int, weights: Weights) -> None:
    """Trap 9: NaN, or whatever may stand there, gives the bits that zero gives."""
    layer = layer_cache(window, 5)
    kernel = make_kernel(kind, weights, layer, True)
    rows = make_rows(np.random.default_rng(4), (37, 5, 20))
    for chunk in (1, 6, 37):
        zero, _, _ = run_ragged(kernel, rows, layer, chunk, fill=0.0)
        stale, _, _ = run_ragged(kernel, rows, layer, chunk, fill=STALE.get(kind, np.nan))
        for one, other in zip(zero, stale, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_shifting_all_positions_changes_rotated_keys_only(kind: str, weights: Weights) -> None:
    """Trap 2: the key of a NoPE layer does not know where it stands; the key of a local layer does."""
    row = make_rows(np.random.default_rng(5), (9,)).tokens[0]
    for rotary in (True, False):
        layer = layer_cache(8 if rotary else 0, 8)
        kernel = make_kernel(kind, weights, layer, rotary)
        keys = []
        for start in (0, 4):
            tokens = np.concatenate((np.ones((start, row.shape[1]), np.float32), row))
            past = empty(1, layer, STALE.get(kind, np.nan))
            _, key, _ = kernel(tokens[None], past, past.copy(), np.array([0]), np.array([len(tokens)]))
            keys.append(key[0, :, start : start + len(row)])
        same = np.array_equal(*keys)
        assert same is not rotary


def test_the_schema_registers_once_and_names_every_attribute() -> None:
    register_schema()
    register_schema()
    schema = onnx.defs.get_schema(NAME, DOMAIN)
    assert all(attribute.required for attribute in schema.attributes.values())
    assert len(schema.inputs) == 9
    assert len(schema.outputs) == 3
