"""`LayerView`: one layer of a hybrid cache, as those see it who walk ``past_key_values.layers``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from exaone_export.targets.cache_layout import LayerCache

if TYPE_CHECKING:
    from .cache import HybridCache


@dataclass(frozen=True)
class LayerView:
    """One layer of a `HybridCache`, with the attributes that transformers and its users read."""

    cache: HybridCache
    index: int
    layout: LayerCache

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
        return self.cache.is_initialized

    @property
    def batch_size(self) -> int:
        """Rows of the batch."""
        return self.cache.batch_size

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
        return self.cache.get_seq_length()

    def get_max_length(self) -> int:
        """Rows of the buffer."""
        return self.layout.capacity

    def _resident(self, which: int) -> torch.Tensor | None:
        if not self.cache.is_initialized:
            return None
        # A copy, because the buffers outlive the cache and are used again.
        rows = max(map(self.layout.resident_rows, self.cache.lengths), default=0)
        return self.cache.buffers.layer(self.index)[which][:, :, :rows].clone()
