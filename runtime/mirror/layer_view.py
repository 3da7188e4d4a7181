"""`LayerView`: one layer of a hybrid cache, for code that reads ``past_key_values.layers``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from exaone_export.targets.cache_layout import LayerCache

from ..core.row_caches import RowCaches
from ..sessions.torch_memory import as_tensor


@dataclass(frozen=True)
class LayerView:
    """One layer of a `HybridCache`, with the attributes that transformers and its users read.

    Attributes:
        rows: The caches of all layers.
        index: Of the layer.
        layout: Its capacity and window.
        columns: Gives the columns that the batch has seen, left padding included.
    """

    rows: RowCaches
    index: int
    layout: LayerCache
    columns: Callable[[], int]

    is_compileable = False
    is_croppable = True
    supports_early_init = False

    @property
    def is_sliding(self) -> bool:
        """Whether the layer has a window."""
        return bool(self.layout.window)

    @property
    def is_initialized(self) -> bool:
        """Whether there are buffers."""
        return self.rows.is_allocated

    @property
    def batch_size(self) -> int:
        """Rows of the batch."""
        return len(self.rows.lengths) if self.rows.is_allocated else -1

    @property
    def keys(self) -> torch.Tensor | None:
        """A copy of the resident rows, ``[B, H, L, D]``; L is that of the longest row of the batch."""
        return self._resident(0)

    @property
    def values(self) -> torch.Tensor | None:
        """A copy of the resident rows, ``[B, H, L, D]``; L is that of the longest row of the batch."""
        return self._resident(1)

    def get_seq_length(self) -> int:
        """Columns seen, left padding included."""
        return self.columns()

    def get_max_length(self) -> int:
        """Rows of the buffer."""
        return self.layout.capacity

    def _resident(self, which: int) -> torch.Tensor | None:
        if not self.rows.is_allocated:
            return None
        # A copy, because the buffers outlive the cache and are used again.
        rows = max(map(self.layout.resident_rows, self.rows.lengths), default=0)
        resident = self.rows.buffers.layer(self.index)[which][:, :, :rows]
        geometry = self.rows.geometry
        return as_tensor(geometry.memory.copy(resident), geometry.dtype)
