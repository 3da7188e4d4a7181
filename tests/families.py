"""Small random models of the families beside EXAONE 4, as transformers saves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.conftest import LLAMA3

needs_exaone3 = pytest.mark.skipif(
    not hasattr(transformers, "ExaoneConfig"), reason="transformers saves EXAONE 3 from 5.24 on"
)

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rope_parameters": LLAMA3,
    "tie_word_embeddings": False,
}


def family_model(
    shared: Callable[..., Path], family: str, *, head: str = "ForCausalLM", seed: int = 0, **changes: Any
) -> Path:
    """A folder of ``exaone`` or ``exaone4_5`` under the names of the published files, made once a run."""
    from benchmarks.families.models import save

    sizes = SMALL | changes
    if family == "exaone4_5":
        types = ["sliding_attention", "sliding_attention", "full_attention"]
        sizes = {"layer_types": types, "sliding_window": 8, "sliding_window_pattern": None} | sizes
    key = (family, head, seed, sorted(sizes.items()))
    return shared("families", key, lambda out: save(family, out, seed, head, **sizes))
