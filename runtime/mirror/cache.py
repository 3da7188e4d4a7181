"""`HybridCache`: the ``past_key_values`` of an exported model.

It counts the way transformers does, in columns of the left-padded batch, over `RowCaches`, which hold the rows without
padding: row ``r`` of the batch has seen ``max(columns - pads[r], 0)`` tokens.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from exaone_export.errors import CacheInUseError, CacheRollbackError, PromptError, UnsupportedOptionError

from ..core.buffers import BufferPool, CacheBuffers, CacheGeometry
from ..core.cancellation import Cancellation
from ..core.rollback_policy import RollbackPolicy
from ..core.row_caches import RowCaches
from .layer_view import LayerView

CACHE_NAME = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"
"""The name of a cache in calls and outputs of the installed transformers."""


class _User:
    """The thread that a cache belongs to, while it is entered."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise CacheInUseError("past_key_values is used by another thread; give every thread a cache of its own.")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class HybridCache(Cache):
    """The keys and values of one conversation, or of one batch of them.

    The first step takes buffers from ``pool``; they return to it when nothing refers to the cache any more. A cache can
    be copied with ``copy.deepcopy``, for instance to answer many questions about one long prompt.

    Args:
        pool: Where buffers come from.

    Attributes:
        rows: The same caches, counted in tokens of each row.
        pads: Columns of left padding of every row of the batch; empty before the first step.
        prefill_chunk_size: The most tokens a row that one step takes; None for the model's own choice.
        cancellation: Ends the call that uses the cache, from any thread.
    """

    def __init__(self, pool: BufferPool) -> None:
        # Cache.__init__ would want a list of layers; ours are views, made on access.
        self.layer_class_to_replicate = None
        self.offloading = False
        self.rows = RowCaches(pool)
        self.prefill_chunk_size: int | None = None
        self._pool = pool
        self._columns = 0
        self.pads: list[int] = []
        self._policies = [RollbackPolicy.LATEST_CALL]
        self._user = _User()
        self.cancellation = Cancellation()

    def cancel(self) -> None:
        """End the call that uses this cache, from any thread: it raises `CancelledError`, and so does any later one.

        A prompt ends between two of its steps, and on ONNX Runtime's CPU inside one. `reset` makes the cache usable.
        """
        self.cancellation.cancel()

    # For the session and the model

    def used(self) -> contextlib.AbstractContextManager[None]:
        """Within the block, the cache belongs to this thread.

        Raises:
            CacheInUseError: Another thread has it.
        """
        return self._user

    @property
    def geometry(self) -> CacheGeometry:
        """Layout, heads and dtype."""
        return self.rows.geometry

    @property
    def buffers(self) -> CacheBuffers:
        """The buffers; `allocate` has taken them."""
        return self.rows.buffers

    @property
    def lengths(self) -> list[int]:
        """Tokens that every row of the batch holds."""
        return self.rows.lengths

    @property
    def narrowest_window(self) -> int:
        """The shortest window of the layers that evict; 0 if none does."""
        return self.rows.narrowest_window

    def allocate(self, batch: int) -> None:
        """Take buffers for ``batch`` rows, if there are none yet.

        Raises:
            PromptError: The cache holds another number of rows.
        """
        if self._columns and batch != self.batch_size:
            raise PromptError(
                f"input_ids has {batch} rows and past_key_values holds {self.batch_size}; expand the cache "
                f"with batch_repeat_interleave or batch_select_indices first."
            )
        self.rows.allocate(batch)

    def begin(self, width: int, kept: int) -> int:
        """Announce ``width`` columns, of which the last ``kept`` may be judged and taken back.

        Returns:
            The first column whose steps must be revertible exactly; ``width`` if there is none.

        Raises:
            CacheRollbackError: The latest step was interrupted while it evicted.
        """
        return self._policies[-1].begin(self.rows, width, kept, self._lengths_after)

    def mark(self) -> None:
        """Save what is evicted from here on, until the next `begin` that starts anew."""
        self.rows.mark()

    def prepare(self, width: int, pads: Sequence[int]) -> None:
        """Before a step of ``width`` columns: note the padding, and save what it will evict if that is recorded."""
        if not self._columns:
            self.pads = list(pads)
        self.rows.prepare(self._lengths_at(self._columns + width))

    def advance(self, width: int) -> None:
        """After a step of ``width`` columns."""
        self._columns += width
        self.rows.advance(self._lengths_at(self._columns))

    def assume(self, columns: int) -> None:
        """Count so many columns without padding, which no step has run; the buffers stay as they are."""
        self.reset()
        if columns:
            self._columns, self.pads = columns, [0] * self.batch_size
            self.rows.assume(self._lengths_at(columns))

    # For transformers

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns seen, left padding included: what transformers counts in."""
        return self._columns

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """The most tokens that a row may hold; for a layer, the rows of its buffer."""
        layout = self.geometry.layout
        return layout.max_length if layer_idx is None else layout.layers[layer_idx].capacity

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """The most tokens that a row may hold, under the name of earlier releases."""
        return self.geometry.layout.max_length

    @property
    def max_cache_len(self) -> int:
        """The most tokens that a row may hold."""
        return self.geometry.layout.max_length

    @property
    def max_batch_size(self) -> int:
        """Rows of the batch, or -1 before the first step."""
        return self.batch_size

    @property
    def batch_size(self) -> int:
        """Rows of the batch, or -1 before the first step."""
        return len(self.rows.lengths) if self.rows.is_allocated else -1

    @property
    def layers(self) -> list[LayerView]:
        """One view a layer."""
        layouts = self.geometry.layout.layers
        return [LayerView(self.rows, index, layout, self.get_seq_length) for index, layout in enumerate(layouts)]

    @property
    def is_compileable(self) -> bool:
        """False: a session runs the graph, nothing is compiled."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether there are buffers."""
        return self.rows.is_allocated

    def update(self, *_args: Any, **_kwargs: Any) -> Any:
        """Refused: only a session writes the buffers."""
        raise UnsupportedOptionError(
            "past_key_values of an exported model cannot be used by another model; pass None to start a new cache."
        )

    def activate_past_recording(self) -> None:
        """Save all that is evicted between two `crop` calls, so that `crop` is exact; assisted decoding calls this."""
        self._policies[0] = RollbackPolicy.SINCE_RETURN

    @contextlib.contextmanager
    def guessing(self) -> Iterator[None]:
        """Within the block, `crop` takes back the guesses among the latest call's judged columns, exactly.

        All of them but the first may be taken back, whatever they have evicted; unlike `activate_past_recording`,
        nothing else is saved, and nothing after the block.
        """
        self._policies.append(RollbackPolicy.GUESSES)
        try:
            yield
        finally:
            self._policies.pop()
            self.rows.stop_recording()

    def reset(self) -> None:
        """Forget every token; the buffers stay."""
        self._columns, self.pads = 0, []
        self.rows.clear()
        self.cancellation.clear()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Make row ``r`` of the batch what row ``beam_idx[r]`` was; only the rows that change are copied."""
        if self.is_initialized:
            order = beam_idx.tolist()
            self.rows.reorder(order)
            self._select_pads(order)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row of the batch ``repeats`` times, one after the other."""
        self.batch_select_indices(torch.arange(max(self.batch_size, 0)).repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows of the batch that ``indices`` names, in its order; it may be a mask."""
        if self.is_initialized:
            order = torch.arange(self.batch_size)[indices].tolist()
            self.rows.select(order)
            self._select_pads(order)

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the newest columns, exactly.

        Args:
            tokens_to_remove: Minus the number of columns to remove; a positive number is the length to go back to, as
                in earlier releases of transformers.

        Raises:
            CacheRollbackError: What the next query reads has left the window.
        """
        target = tokens_to_remove if tokens_to_remove > 0 else self._columns + tokens_to_remove
        if target < 0:
            raise CacheRollbackError(
                f"{-tokens_to_remove} tokens cannot be removed from a cache that holds {self._columns}; remove fewer."
            )
        if self._columns:
            columns = min(target, self._columns)
            self.rows.return_to(self._lengths_at(columns))
            self._columns = columns

    def __deepcopy__(self, memo: dict[int, Any]) -> HybridCache:
        twin = HybridCache(self._pool)
        memo[id(self)] = twin
        twin.rows = copy.deepcopy(self.rows, memo)
        twin.prefill_chunk_size, twin._columns, twin.pads = self.prefill_chunk_size, self._columns, list(self.pads)
        twin._policies = self._policies[:1]
        return twin

    def __repr__(self) -> str:
        return f"HybridCache(batch_size={self.batch_size}, lengths={self.lengths})"

    def _lengths_at(self, columns: int) -> list[int]:
        """Tokens of every row when the batch has seen so many columns."""
        return [max(columns - pad, 0) for pad in self.pads]

    def _select_pads(self, order: Sequence[int]) -> None:
        self.pads = [self.pads[row] for row in order] if self.pads else []

    def _lengths_after(self, columns: int) -> list[int] | None:
        """Tokens of every row when so many more columns were seen; None while the padding is not known."""
        return self._lengths_at(self._columns + columns) if self._columns else None
