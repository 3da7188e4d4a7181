"""`HybridCache`: the ``past_key_values`` of an exported model.

It counts the way transformers does, in columns of the left-padded batch, and holds the rows dense, without padding: row
``r`` of the batch has seen ``max(columns - pads[r], 0)`` tokens. What its buffers hold for so many tokens is the law of
`exaone_export.targets.cache_layout`.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from exaone_export.errors import CacheInUseError, CacheRollbackError, PromptError, UnsupportedOptionError
from exaone_export.targets.cache_layout import LayerCache

from ..core.buffers import BufferPool, CacheBuffers, CacheGeometry
from ..core.cancellation import Cancellation
from ..core.rollback import EvictionJournal, can_return, held_from, shift_back
from .layer_view import LayerView

CACHE_NAME = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"
"""What the installed transformers calls a cache, in calls and in outputs."""


class HybridCache(Cache):
    """The keys and values of one conversation, or of one batch of them.

    Buffers are taken from ``pool`` by the first step and go back to it when nobody holds the cache any more. A cache
    can be copied with ``copy.deepcopy``, for instance to answer many questions about one long prompt.

    Args:
        pool: Where buffers come from.

    Attributes:
        prefill_chunk_size: Tokens a step takes at most, where the model's own choice is not wanted.
        cancellation: Ends the call that uses the cache, from any thread.
    """

    def __init__(self, pool: BufferPool) -> None:
        # Cache.__init__ would want a list of layers; ours are views, made when asked for.
        self.layer_class_to_replicate = None
        self.offloading = False
        self.prefill_chunk_size: int | None = None
        self._pool = pool
        self._buffers: CacheBuffers | None = None
        self._finalizer: weakref.finalize | None = None
        self._columns = 0
        self._pads: list[int] = []
        self._lost: dict[LayerCache, list[int]] = {}
        self._journal: EvictionJournal | None = None
        self._recording = self._guessing = self._cropped = self._unfinished = False
        self._user = threading.RLock()
        self.cancellation = Cancellation()
        layers = self.geometry.layout.layers
        self._evicting = [(i, layer) for i, layer in enumerate(layers) if layer.evicts(self.geometry.layout.max_length)]
        self._narrowest_window = min((layer.window for _, layer in self._evicting), default=0)

    def cancel(self) -> None:
        """End the call that uses this cache, from any thread: it raises `CancelledError`, and so does any later one.

        A prompt is left between two of its steps, and on ONNX Runtime's CPU inside one. `reset` makes the cache usable.
        """
        self.cancellation.cancel()

    # What the session and the model ask.

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Within the block, the cache belongs to this thread.

        Raises:
            CacheInUseError: Another thread has it.
        """
        if not self._user.acquire(blocking=False):
            raise CacheInUseError("past_key_values is used by another thread; give every thread a cache of its own.")
        try:
            yield
        finally:
            self._user.release()

    @property
    def geometry(self) -> CacheGeometry:
        """Layout, heads and dtype."""
        return self._pool.geometry

    @property
    def buffers(self) -> CacheBuffers:
        """The buffers; `allocate` has made them."""
        assert self._buffers is not None
        return self._buffers

    @property
    def pads(self) -> list[int]:
        """Columns of left padding of every row of the batch; empty before the first step."""
        return self._pads

    @property
    def lengths(self) -> list[int]:
        """Tokens that every row of the batch holds."""
        return [max(self._columns - pad, 0) for pad in self._pads]

    @property
    def narrowest_window(self) -> int:
        """The shortest window of the layers that evict; 0 if none does."""
        return self._narrowest_window

    def allocate(self, batch: int) -> None:
        """Take buffers for ``batch`` rows, if there are none yet.

        Raises:
            PromptError: The cache holds another number of rows.
        """
        if self._buffers is None:
            self._hold(self._pool.take(batch))
        elif self._buffers.batch != batch:
            if self._columns:
                raise PromptError(
                    f"input_ids has {batch} rows and past_key_values holds {self._buffers.batch}; expand the cache "
                    f"with batch_repeat_interleave or batch_select_indices first."
                )
            self._release()
            self._hold(self._pool.take(batch))

    def begin(self, width: int, kept: int) -> int:
        """Announce ``width`` columns, of which the last ``kept`` may be judged and taken back.

        Returns:
            The column from which every step is to be followed by an exact way back; ``width`` if there is none.
        """
        if self._unfinished:
            raise CacheRollbackError(
                "the cache's last step was interrupted while it evicted; start a new cache, or call reset(), and run "
                "the conversation again."
            )
        window = self.narrowest_window
        if self._guessing:
            self._journal = None
            return max(width - kept, 0) if kept > 1 and self._evicts_within(width, kept) else width
        appending = self._recording and not self._cropped and self._journal is not None
        self._cropped = False
        reach = max(kept, window)
        if self._recording and window:
            if width <= reach:
                if not appending:
                    self._journal = None
                return 0
            self._journal = None
            return width - reach
        self._journal = None
        return 0 if self._columns and 1 < width <= window else width

    def mark(self) -> None:
        """Keep what is evicted from here on, until the next `begin` that starts anew."""
        if self._journal is None and self._evicting:
            # Before the first step the padding is not known, and no row holds anything.
            self._journal = EvictionJournal(self.lengths or [0] * self.batch_size)

    def prepare(self, width: int, pads: Sequence[int]) -> None:
        """Before a step of ``width`` columns: note the padding, and save what the step will evict if it is kept."""
        if not self._columns:
            self._pads = list(pads)
        # What a step has evicted is gone, whether it ends or not; what it appends is written again by the next one.
        self._unfinished = bool(self._evicting) and self.geometry.in_place
        if self._journal is None:
            return
        before = self.lengths
        after = [max(self._columns + width - pad, 0) for pad in self._pads]
        for index, layer in self._evicting:
            self._journal.save(index, layer, self.buffers.layer(index), before, after)

    def advance(self, width: int) -> None:
        """After a step of ``width`` columns."""
        self._columns += width
        self._unfinished = False

    # What transformers asks.

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
        return -1 if self._buffers is None else self._buffers.batch

    @property
    def layers(self) -> list[LayerView]:
        """One view a layer."""
        return [LayerView(self, index, layer) for index, layer in enumerate(self.geometry.layout.layers)]

    @property
    def is_compileable(self) -> bool:
        """False: a session runs the graph, nothing is compiled."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether there are buffers."""
        return self._buffers is not None

    def update(self, *_args: Any, **_kwargs: Any) -> Any:
        """Refused: only a session writes the buffers."""
        raise UnsupportedOptionError(
            "past_key_values of an exported model cannot be used by another model; pass None to start a new cache."
        )

    def activate_past_recording(self) -> None:
        """Keep all that is evicted between two `crop` calls, so that `crop` is exact (assisted decoding asks it)."""
        self._recording = True

    @contextlib.contextmanager
    def guessing(self) -> Iterator[None]:
        """Within the block, `crop` takes back what the latest call's judged columns were guessed, exactly.

        All of them but the first, whatever they have pushed out of a window; unlike `activate_past_recording` it keeps
        nothing else, and nothing after the block.
        """
        self._guessing = True
        try:
            yield
        finally:
            self._guessing, self._journal = False, None

    def reset(self) -> None:
        """Forget every token; the buffers stay."""
        self._columns, self._pads, self._lost, self._journal, self._cropped = 0, [], {}, None, False
        self._unfinished = False
        self.cancellation.clear()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Make row ``r`` of the batch what row ``beam_idx[r]`` was; only the rows that hold something are copied."""
        order = beam_idx.tolist()
        moved = [r for r, source in enumerate(order) if r != source]
        if not moved or self._buffers is None:
            return
        sources = torch.tensor([order[r] for r in moved])
        targets, longest = torch.tensor(moved), max(self.lengths)
        for index, layer in enumerate(self.geometry.layout.layers):
            rows = self._rows_in_use(layer, longest)
            for tensor in self._buffers.layer(index):
                tensor[targets, :, :rows] = tensor[sources, :, :rows]
        self._select_state(order)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row of the batch ``repeats`` times, one after the other."""
        self.batch_select_indices(torch.arange(max(self.batch_size, 0)).repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows of the batch that ``indices`` names, in its order; a mask is taken too."""
        if self._buffers is None:
            return
        order = torch.arange(self.batch_size)[indices].tolist()
        old, longest = self._buffers, max(self.lengths, default=0)
        new = CacheBuffers(self.geometry, len(order))
        for index, layer in enumerate(self.geometry.layout.layers):
            rows = self._rows_in_use(layer, longest)
            for target, source in zip(new.layer(index), old.layer(index), strict=True):
                target[:, :, :rows] = source[order, :, :rows]
        self._release()
        self._hold(new)
        self._select_state(order)

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the newest columns, exactly.

        Args:
            tokens_to_remove: Minus the number of columns to remove; a positive number is the length to go back to, as
                earlier releases of transformers say it.

        Raises:
            CacheRollbackError: What the next query sees has left the window.
        """
        target = tokens_to_remove if tokens_to_remove > 0 else self._columns + tokens_to_remove
        if target < 0:
            raise CacheRollbackError(
                f"{-tokens_to_remove} tokens cannot be removed from a cache that holds {self._columns}; remove fewer."
            )
        self._cropped = True
        if target < self._columns:
            self._return_to(target)

    def __deepcopy__(self, memo: dict[int, Any]) -> HybridCache:
        twin = HybridCache(self._pool)
        memo[id(self)] = twin
        if self._buffers is not None:
            twin._hold(CacheBuffers(self.geometry, self._buffers.batch))
            longest = max(self.lengths, default=0)
            for index, layer in enumerate(self.geometry.layout.layers):
                rows = self._rows_in_use(layer, longest)
                for target, source in zip(twin.buffers.layer(index), self._buffers.layer(index), strict=True):
                    target[:, :, :rows] = source[:, :, :rows]
        twin.prefill_chunk_size, twin._unfinished = self.prefill_chunk_size, self._unfinished
        twin._columns, twin._pads, twin._lost = self._columns, list(self._pads), copy.deepcopy(self._lost)
        twin._journal, twin._recording, twin._cropped = copy.deepcopy(self._journal), self._recording, self._cropped
        return twin

    def __repr__(self) -> str:
        return f"HybridCache(batch_size={self.batch_size}, lengths={self.lengths})"

    # The work behind them.

    def _hold(self, buffers: CacheBuffers) -> None:
        self._buffers = buffers
        self._finalizer = weakref.finalize(self, self._pool.give, buffers)
        self._finalizer.atexit = False

    def _release(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._buffers = self._finalizer = None

    @staticmethod
    def _rows_in_use(layer: LayerCache, longest: int) -> int:
        # A shorter row of the batch may have more resident rows than the longest, which has just evicted.
        return min(longest, layer.capacity)

    def _evicts_within(self, width: int, kept: int) -> bool:
        """Whether the last ``kept - 1`` of ``width`` columns may push anything out of a window."""
        if not self._pads:
            return bool(self._evicting)
        newest = [self._columns + width - pad for pad in self._pads]
        return any(
            layer.evicted(max(length, 0)) != layer.evicted(max(length - kept + 1, 0))
            for layer in {layer for _, layer in self._evicting}
            for length in newest
        )

    def _select_state(self, order: Sequence[int]) -> None:
        self._pads = [self._pads[r] for r in order] if self._pads else []
        self._lost = {layer: [lost[r] for r in order] for layer, lost in self._lost.items()}
        self._journal = None

    def _return_to(self, target: int) -> None:
        """Shift every layer's rows, once it is certain that all can be."""
        before, after = self.lengths, [max(target - pad, 0) for pad in self._pads]
        marked = self._journal.marked if self._journal is not None else [None] * len(before)
        held: dict[LayerCache, list[int]] = {}
        for layer in {layer for _, layer in self._evicting}:
            lost = self._lost.get(layer, [0] * len(before))
            held[layer] = [held_from(layer, *row) for row in zip(before, marked, lost, strict=True)]
            for length, oldest in zip(after, held[layer], strict=True):
                if not can_return(layer, length, oldest):
                    raise CacheRollbackError(
                        f"the cache cannot go back from {self._columns} to {target} tokens, because a window of "
                        f"{layer.window} then begins at position {layer.oldest_needed(length)} and nothing before "
                        f"{oldest} is held; run the first {target} tokens again."
                    )
        for index, layer in self._evicting:
            for which, tensor in enumerate(self.buffers.layer(index)):
                for row, (tokens, length) in enumerate(zip(before, after, strict=True)):
                    older = None if self._journal is None else self._journal.rows(index, layer, which, row, tokens)
                    shift_back(tensor[row], layer, tokens, length, older)
        for layer, oldest_held in held.items():
            self._lost[layer] = [min(pair) for pair in zip(oldest_held, after, strict=True)]
        if self._journal is not None and any(n < m for n, m in zip(after, self._journal.marked, strict=True)):
            self._journal = None
        self._columns = target
