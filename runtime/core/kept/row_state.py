"""What a row of caches holds, beside its numbers: enough to tell where each of them belongs."""

from __future__ import annotations

from exaone_export.files.records import Record, Size
from exaone_export.targets.cache_layout import PAST, CacheLayout

from ..rollback import EvictionJournal

__all__ = ["RowState"]


class RowState(Record, frozen=True):
    """One row's state.

    Attributes:
        length: Its tokens.
        lost: Of every layer that evicts, the position before which nothing is held that may be read.
        marked: Tokens that it held at the latest mark, since which evictions are saved; None if they are not.
        up_to: The position from which on they are not; None if all are.
    """

    length: Size
    lost: list[Size]
    marked: Size | None
    up_to: Size | None

    def fits(self, layout: CacheLayout) -> bool:
        """Whether caches of this layout can have it, with at least one token."""
        evicting = sum(layer.evicts(layout.max_length) for layer in layout.layers)
        latest = max(self.marked or 0, *self.lost, 0)
        return latest <= self.length and 0 < self.length <= layout.max_length and len(self.lost) == evicting

    def journal(self) -> EvictionJournal | None:
        """That of its evictions, with nothing saved yet; None where they are not."""
        if self.marked is None:
            return None
        return EvictionJournal([self.marked], None if self.up_to is None else [self.up_to])

    def rows(self, layout: CacheLayout) -> dict[str, int]:
        """By the names of `RowCaches.contents`, the rows of each array."""
        found: dict[str, int] = {}
        for index, layer in enumerate(layout.layers):
            found |= _pair(f"{PAST}{index}", layer.resident_rows(self.length))
        journal = self.journal()
        if journal is None:
            return found
        for index, layer in enumerate(layout.layers):
            if layer.evicts(layout.max_length) and (saved := len(journal.positions(layer, 0, self.length))):
                found |= _pair(f"evicted.{index}", saved)
        return found


def _pair(name: str, rows: int) -> dict[str, int]:
    return {f"{name}.{part}": rows for part in ("key", "value")}
