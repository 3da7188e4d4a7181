"""Small random models of every head, with the tokenizer of the trained checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exaone_export.model.heads import ARCHITECTURES, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from tests.conftest import TINY, random_model

LABELS = {
    SEQUENCE_CLASSIFICATION: ("sum", "copy", "tool call"),
    TOKEN_CLASSIFICATION: ("O", "B-NAME", "I-NAME", "B-CITY"),
}
TEXTS = ("What is 38 + 47?", "Who are you?", "A", "Sort: pear, apple, fig, plum, cherry, melon and some more", "Seoul")


def save_head_model(shared: Callable[..., Path], kind: str) -> Path:
    """A folder in Hugging Face form, made once a run."""
    return shared("heads", kind, lambda out: _save(out, kind))


def load_head_model(folder: Path, kind: str) -> Any:
    """Its transformers model."""
    import transformers

    return getattr(transformers, ARCHITECTURES[kind]).from_pretrained(folder).eval()


def _save(out: Path, kind: str) -> None:
    labels = {"id2label": dict(enumerate(LABELS[kind]))} if kind in LABELS else {}
    layers = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    random_model(head=kind, vocab_size=843, **layers, **labels).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, out)
