"""A checkpoint as transformers itself reads it, as a side of a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import Exaone4ForCausalLM

from exaone_export.runtime.parity.compare import Side
from exaone_export.runtime.parity.sides import TorchSide


@contextmanager
def transformers_side(folder: Path) -> Iterator[Side]:
    model = Exaone4ForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    yield TorchSide(model, model.model.layers)
