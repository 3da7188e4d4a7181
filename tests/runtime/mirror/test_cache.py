"""The cache against a plain list of everything it was ever given; no session runs."""

from __future__ import annotations

import copy
import gc
import random

import pytest
import torch

from exaone_export.errors import CacheRollbackError, PromptError, UnsupportedOptionError
from exaone_export.runtime.core.buffers import BufferPool, CacheGeometry
from exaone_export.runtime.core.memory import HOST, Memory
from exaone_export.runtime.mirror.cache import HybridCache
from exaone_export.runtime.sessions.torch_memory import TorchMemory
from exaone_export.targets.cache_layout import CacheLayout, LayerCache

LAYERS = (LayerCache(8, 8), LayerCache(11, 8), LayerCache(64, 0), LayerCache(9, 6), LayerCache(5, 5))
WINDOW = 5
NARROW = LayerCache(5, 5)


def new_cache(in_place: bool = True, layers: tuple[LayerCache, ...] = LAYERS, memory: Memory = HOST) -> HybridCache:
    return HybridCache(BufferPool(CacheGeometry(CacheLayout(64, layers), 2, 3, "float32", in_place, memory)))


class Model:
    """What a session does to the buffers, and a list of what every row was given."""

    def __init__(self, cache: HybridCache, pads: list[int]) -> None:
        self.cache, self.pads, self.columns = cache, pads, 0
        self.given: list[list[float]] = [[] for _ in pads]
        self.fresh = 1.0

    def feed(self, width: int, kept: int = 1) -> None:
        """A forward call, cut into steps as the model does."""
        self.cache.allocate(len(self.pads))
        judged_from = self.cache.begin(width, kept)
        start = 0
        while start < width:
            if start == judged_from:
                self.cache.mark()
            size = 7 if start < judged_from else min(7, self.cache.narrowest_window or 7)
            stop = min(start + size, judged_from if start < judged_from else width)
            self._step(stop - start)
            start = stop

    def _step(self, width: int) -> None:
        self.cache.prepare(width, self.pads)
        before = self.cache.lengths
        self.cache.advance(width)
        self.columns += width
        after, buffers = self.cache.lengths, self.cache.buffers
        new = [[self.fresh + i for i in range(new - old)] for old, new in zip(before, after, strict=True)]
        self.fresh += width
        for index, layer in enumerate(self.cache.geometry.layout.layers):
            tensors = [
                torch.as_tensor(buffers.sets[s][2 * index + w])
                for w in (0, 1)
                for s in (buffers.current, buffers.target)
            ]
            for source, target in (tensors[:2], tensors[2:]):
                sign = 1 if target is tensors[1] else -1
                for row, values in enumerate(new):
                    held = source[row, :, : layer.resident_rows(before[row])].clone()
                    added = torch.tensor(values).mul(sign)[:, None].expand(2, -1, 3)
                    rows = torch.cat((held, added), 1)[:, -layer.resident_rows(after[row]) or held.shape[1] :]
                    target[row] = torch.nan
                    if after[row]:
                        target[row, :, : rows.shape[1]] = rows
        for row, values in enumerate(new):
            self.given[row] += values
        buffers.turn()

    def crop(self, count: int) -> None:
        self.cache.crop(-count)
        self.columns -= count
        for row, pad in enumerate(self.pads):
            del self.given[row][max(self.columns - pad, 0) :]

    def check(self) -> None:
        """Everything that the next query sees is where the law puts it."""
        for row, given in enumerate(self.given):
            tokens = len(given)
            assert self.cache.lengths[row] == tokens
            for index, layer in enumerate(self.cache.geometry.layout.layers):
                for which, tensor in enumerate(map(torch.as_tensor, self.cache.buffers.layer(index))):
                    evicted = layer.evicted(tokens)
                    assert tensor[row, :, : tokens - evicted].isfinite().all()
                    needed = layer.oldest_needed(tokens)
                    expected = torch.tensor(given[needed:]) * (1 if which == 0 else -1)
                    found = tensor[row, :, needed - evicted : tokens - evicted]
                    assert (found == expected[:, None]).all(), (row, layer, which)


@pytest.mark.parametrize("memory", [HOST, TorchMemory("cpu")])
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("pads", [[0], [0, 3, 9]])
def test_random_histories_equal_a_list(memory: Memory, in_place: bool, pads: list[int]) -> None:
    rng = random.Random(len(pads) + in_place)
    refused = 0
    for recording in (False, True) * 2:
        model = Model(new_cache(in_place, memory=memory), pads)
        if recording:
            model.cache.activate_past_recording()
        model.feed(rng.randint(10, 30), kept=rng.randint(1, 4))
        while model.columns < 50:
            width = rng.choice([1, 1, 2, 3, WINDOW])
            model.feed(width, kept=width)
            model.check()
            operation = rng.random()
            if operation < 0.5:
                count = rng.randint(0, width if width > 1 or recording else 4)
                if width > 1 or recording:
                    model.crop(count)  # never refused
                else:
                    refused += crop_or_keep(model, count)
            elif operation < 0.6 and len(pads) > 1:
                order = [rng.randrange(len(pads)) for _ in pads]
                model.cache.reorder_cache(torch.tensor(order))
                model.given = [list(model.given[r]) for r in order]
                model.pads = [model.pads[r] for r in order]
            elif operation < 0.7:
                model.cache = copy.deepcopy(model.cache)
            model.check()
    assert refused


def crop_or_keep(model: Model, count: int) -> bool:
    given = copy.deepcopy(model.given)
    try:
        model.crop(count)
    except CacheRollbackError:
        assert model.given == given
        model.check()
        return True
    return False


def test_crop_is_refused_exactly_where_the_window_is_gone() -> None:
    layer = LayerCache(11, 8)
    for tokens in range(1, 30, 2):
        for length in range(max(tokens - 14, 0), tokens):
            model = Model(new_cache(layers=(layer, LayerCache(64, 0))), [0])
            model.feed(tokens)
            possible = length == 0 or layer.oldest_needed(length) >= layer.evicted(tokens)
            if possible:
                model.crop(tokens - length)
                model.check()
            else:
                message = f"from {tokens} to {length} tokens.*run the first {length} tokens again"
                with pytest.raises(CacheRollbackError, match=message):
                    model.crop(tokens - length)
                model.check()


def test_rows_lost_in_one_rollback_are_not_taken_for_held_by_the_next() -> None:
    model = Model(new_cache(layers=(LayerCache(11, 8),)), [0])
    model.feed(22)  # holds 12 to 21
    model.crop(3)  # 19 tokens hold 8 to 18 by the law, but 8 to 11 are gone
    model.check()
    with pytest.raises(CacheRollbackError):
        model.crop(1)
    model.feed(1)
    model.check()


def test_a_second_crop_after_the_first_goes_on_from_the_journal() -> None:
    model = Model(new_cache(), [0])
    model.feed(30)
    model.feed(WINDOW, kept=WINDOW)
    for _ in range(WINDOW):
        model.crop(1)
        model.check()


def test_a_cache_emptied_by_crop_is_as_new() -> None:
    model = Model(new_cache(), [0])
    model.feed(30)
    model.crop(30)
    model.feed(20)
    model.check()
    model.feed(WINDOW, kept=WINDOW)
    model.crop(WINDOW)
    model.check()


def test_a_recording_cache_goes_back_over_many_steps() -> None:
    model = Model(new_cache(), [0])
    model.cache.activate_past_recording()
    model.feed(30)
    for _ in range(12):
        model.feed(1)
    model.crop(12)
    model.check()


def test_a_copy_shares_nothing() -> None:
    model = Model(new_cache(), [0])
    model.feed(30)
    twin = Model(copy.deepcopy(model.cache), [0])
    twin.columns, twin.given, twin.fresh = model.columns, copy.deepcopy(model.given), 1000.0
    twin.feed(9)
    twin.check()
    model.check()


def test_a_positive_crop_is_the_length_to_keep() -> None:
    model = Model(new_cache(), [0])
    model.feed(4)
    model.cache.crop(3)
    assert model.cache.get_seq_length() == 3
    model.cache.crop(9)
    assert model.cache.get_seq_length() == 3


def test_removing_more_than_there_is_is_refused() -> None:
    model = Model(new_cache(), [0])
    model.feed(4)
    with pytest.raises(CacheRollbackError, match="5 tokens cannot be removed from a cache that holds 4"):
        model.cache.crop(-5)


def test_the_journal_is_dropped_by_a_step_that_is_not_judged() -> None:
    model = Model(new_cache(), [0])
    model.feed(30)
    model.feed(3, kept=3)
    assert model.cache.rows.is_recording
    model.feed(1)
    assert not model.cache.rows.is_recording


def test_the_identity_reorder_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(new_cache(), [0, 0])
    model.feed(6)
    monkeypatch.setattr(type(model.cache.rows), "_rows_in_use", None)  # would be called
    model.cache.reorder_cache(torch.tensor([0, 1]))
    model.check()


def test_select_and_repeat() -> None:
    model = Model(new_cache(), [0, 4])
    model.feed(20)
    model.cache.batch_repeat_interleave(2)
    model.given = [list(model.given[r]) for r in (0, 0, 1, 1)]
    model.pads = [0, 0, 4, 4]
    model.check()
    model.cache.batch_select_indices(torch.tensor([False, True, True, False]))
    model.given, model.pads = model.given[1:3], model.pads[1:3]
    model.check()
    model.feed(3)
    model.check()


def test_another_batch_size_is_refused_while_tokens_are_held() -> None:
    model = Model(new_cache(), [0, 0])
    model.feed(3)
    with pytest.raises(PromptError, match="input_ids has 3 rows and past_key_values holds 2"):
        model.cache.allocate(3)
    model.cache.reset()
    model.cache.allocate(3)
    assert model.cache.batch_size == 3


def test_a_first_step_that_fails_leaves_nothing_for_a_batch_of_another_size() -> None:
    cache = new_cache(in_place=False)
    cache.activate_past_recording()
    cache.allocate(2)
    assert cache.begin(3, 1) == 0
    cache.mark()
    cache.prepare(3, [1, 0])  # and the step fails
    model = Model(cache, [2, 0, 1])
    model.feed(4)
    model.crop(1)
    model.check()


def test_buffers_are_used_again_once_nobody_holds_the_cache() -> None:
    cache = new_cache()
    pool = cache._pool
    cache.allocate(2)
    first = cache.buffers
    other = HybridCache(pool)
    other.allocate(2)
    assert other.buffers is not first
    del cache
    gc.collect()
    third = HybridCache(pool)
    third.allocate(2)
    assert third.buffers is first


def test_views_are_copies_and_carry_what_transformers_reads() -> None:
    model = Model(new_cache(), [0])
    assert model.cache.layers[0].keys is None
    model.feed(12)
    layer = model.cache.layers[1]
    keys = layer.keys
    assert keys is not None and keys.shape == (1, 2, LAYERS[1].resident_rows(12), 3)
    keys.zero_()
    model.check()
    assert model.cache.is_sliding == [True, True, False, True, True]
    assert not model.cache.is_compileable and model.cache.is_croppable and model.cache.is_initialized
    assert len(model.cache) == 5 and model.cache.get_max_length() == 64 and model.cache.get_max_length(1) == 11
    with pytest.raises(UnsupportedOptionError, match="cannot be used by another model"):
        model.cache.update(None, None, 0)
