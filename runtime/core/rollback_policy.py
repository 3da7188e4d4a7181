"""How far back a cache can go exactly: what of a call's evictions is saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto

from .row_caches import RowCaches

__all__ = ["RollbackPolicy"]


class RollbackPolicy(Enum):
    """What can be taken back whatever it has evicted, of calls that append tokens to every row."""

    LATEST_CALL = auto()
    """The latest call, where it is not the first and no longer than the narrowest window."""

    GUESSES = auto()
    """The tokens of the latest call that are judged, all but the first of them."""

    SINCE_RETURN = auto()
    """All calls since rows went back; of a longer one, its judged tokens, and at least a window."""

    def begin(
        self, rows: RowCaches, width: int, judged: int, lengths_after: Callable[[int], Sequence[int] | None]
    ) -> int:
        """Announce a call, and drop what earlier ones have saved if this one does not go on from it.

        Args:
            rows: The caches.
            width: Tokens that the call appends, the padding in front of a row included.
            judged: How many of them, the last ones, may be judged and taken back.
            lengths_after: Tokens of each row when so many of ``width`` are appended; None where that is not known yet.

        Returns:
            The first token from which evictions are to be saved; ``width`` if there is none.

        Raises:
            CacheRollbackError: The latest step was interrupted while it evicted.
        """
        rows.check_whole()
        first = self._first_saved(rows, width, judged, lengths_after)
        goes_on = self is RollbackPolicy.SINCE_RETURN and not first and not rows.has_returned
        if not goes_on:
            rows.stop_recording()
        return first

    def _first_saved(
        self, rows: RowCaches, width: int, judged: int, lengths_after: Callable[[int], Sequence[int] | None]
    ) -> int:
        window = rows.narrowest_window
        if not window:
            return width
        if self is RollbackPolicy.GUESSES:
            if judged < 2:
                return width
            before, after = lengths_after(width - judged + 1), lengths_after(width)
            evicts = before is None or after is None or rows.evicts_between(before, after)
            return max(width - judged, 0) if evicts else width
        if self is RollbackPolicy.SINCE_RETURN:
            return max(width - max(judged, window), 0)
        return 0 if any(rows.lengths) and 1 < width <= window else width
