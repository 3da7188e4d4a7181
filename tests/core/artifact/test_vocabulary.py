"""Tokens that a tokenizer has and its model has not, read without a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exaone_export.artifact.vocabulary import describe_beyond
from tests.conftest import TINY


def test_of_the_tiny_checkpoint() -> None:
    assert describe_beyond(TINY, 843) is None
    assert describe_beyond(TINY, 842) is not None


def test_tokens_of_the_model_and_added_ones(tmp_path: Path) -> None:
    content = {
        "model": {"vocab": {"a": 0, "b": 3}},
        "added_tokens": [{"id": 5, "content": "c"}, {"id": 2, "content": "d"}],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert describe_beyond(tmp_path, 6) is None
    assert (
        describe_beyond(tmp_path, 3)
        == "tokenizer.json has 2 more tokens than the model's 3 embeddings: 'b' (3), 'c' (5)"
    )
    found = describe_beyond(tmp_path, 0)
    assert found is not None and found.endswith("'a' (0), 'd' (2), 'b' (3), …")


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"model": 3, "added_tokens": [1, {"id": "x"}]}'])
def test_what_is_no_tokenizer_has_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    assert describe_beyond(tmp_path, 0) is None
