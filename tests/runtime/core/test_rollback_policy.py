"""From which token on a call's evictions are saved, by what is to be taken back."""

from __future__ import annotations

import pytest

from exaone_export.errors import CacheRollbackError
from exaone_export.runtime.core.buffers import BufferPool, CacheGeometry
from exaone_export.runtime.core.rollback_policy import RollbackPolicy
from exaone_export.runtime.core.row_caches import RowCaches
from exaone_export.targets.cache_layout import CacheLayout, LayerCache

LATEST_CALL, GUESSES, SINCE_RETURN = RollbackPolicy.LATEST_CALL, RollbackPolicy.GUESSES, RollbackPolicy.SINCE_RETURN
LAYERS = (LayerCache(8, 5), LayerCache(64, 0), LayerCache(9, 9))  # evicts 4 at a time above 8, and 1 above 9


def rows_of(*lengths: int, layers: tuple[LayerCache, ...] = LAYERS) -> RowCaches:
    rows = RowCaches(BufferPool(CacheGeometry(CacheLayout(64, layers), 2, 3, "float32", in_place=True)))
    rows.allocate(len(lengths))
    rows.assume(lengths)
    return rows


def begin(policy: RollbackPolicy, rows: RowCaches, width: int, judged: int = 1) -> int:
    return policy.begin(rows, width, judged, lambda count: [length + count for length in rows.lengths])


@pytest.mark.parametrize(
    ("policy", "lengths", "width", "judged", "first"),
    [
        (LATEST_CALL, [0], 4, 4, 4),  # the first call
        (LATEST_CALL, [6], 1, 1, 1),  # every token of an answer
        (LATEST_CALL, [6, 0], 5, 1, 0),
        (LATEST_CALL, [6], 6, 6, 6),  # longer than the window
        (GUESSES, [20], 4, 1, 4),
        (GUESSES, [3], 4, 4, 4),  # from 4 to 7 tokens nothing is evicted
        (GUESSES, [7], 4, 2, 2),
        (GUESSES, [3, 7], 7, 3, 4),
        (SINCE_RETURN, [0], 5, 1, 0),
        (SINCE_RETURN, [6], 12, 1, 7),  # at least a window
        (SINCE_RETURN, [6], 12, 8, 4),
    ],
)
def test_the_first_token_that_is_saved(
    policy: RollbackPolicy, lengths: list[int], width: int, judged: int, first: int
) -> None:
    assert begin(policy, rows_of(*lengths), width, judged) == first


def test_guesses_are_saved_where_the_lengths_are_not_known_yet() -> None:
    assert GUESSES.begin(rows_of(0), 20, 4, lambda _: None) == 16


@pytest.mark.parametrize("policy", RollbackPolicy)
def test_nothing_is_saved_where_nothing_is_evicted(policy: RollbackPolicy) -> None:
    assert begin(policy, rows_of(6, layers=(LayerCache(64, 0), LayerCache(64, 8))), 4, 3) == 4


def test_a_journal_goes_on_until_rows_return() -> None:
    rows = rows_of(20)
    assert begin(SINCE_RETURN, rows, 3) == 0
    rows.mark()
    rows.prepare([23])
    rows.advance([23])
    assert begin(SINCE_RETURN, rows, 2) == 0
    assert rows.is_recording
    rows.return_to([23])  # nothing is taken back, and what was judged is accepted
    assert begin(SINCE_RETURN, rows, 2) == 0
    assert not rows.is_recording


@pytest.mark.parametrize("policy", [LATEST_CALL, GUESSES])
def test_a_call_of_its_own_drops_the_journal(policy: RollbackPolicy) -> None:
    rows = rows_of(20)
    rows.mark()
    begin(policy, rows, 2, 2)
    assert not rows.is_recording


@pytest.mark.parametrize("policy", RollbackPolicy)
def test_nothing_follows_a_step_that_was_interrupted(policy: RollbackPolicy) -> None:
    rows = rows_of(20)
    rows.prepare([21])
    with pytest.raises(CacheRollbackError, match="interrupted while it evicted"):
        begin(policy, rows, 1)
