"""Small random models of every head, with the tokenizer of the trained checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exaone_export.model.heads import ARCHITECTURES, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from tests.conftest import HYBRID, TINY

LABELS = {
    SEQUENCE_CLASSIFICATION: ("sum", "copy", "tool call"),
    TOKEN_CLASSIFICATION: ("O", "B-NAME", "I-NAME", "B-CITY"),
}
SHAPE = {
    "vocab_size": 843,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 256,
}
TEXTS = ("What is 38 + 47?", "Who are you?", "A", "Sort: pear, apple, fig, plum, cherry, melon and some more", "Seoul")


def save_head_model(shared: Callable[..., Path], kind: str, **changes: Any) -> Path:
    """A folder in Hugging Face form, made once a run."""
    return shared("heads", (kind, sorted(changes.items())), lambda out: _save(out, kind, changes))


def load_head_model(folder: Path, kind: str) -> Any:
    """Its transformers model."""
    import transformers

    return getattr(transformers, ARCHITECTURES[kind]).from_pretrained(folder).eval()


def _save(out: Path, kind: str, changes: dict[str, Any]) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate(LABELS[kind]))} if kind in LABELS else {}
    config = transformers.Exaone4Config(**(HYBRID | SHAPE | labels | changes))
    model = getattr(transformers, ARCHITECTURES[kind])(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            else:
                weight.normal_(std=1 if "embed" in name or weight.ndim < 2 else weight.shape[-1] ** -0.5)
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, out)
