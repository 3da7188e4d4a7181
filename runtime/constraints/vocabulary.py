"""A model's vocabulary as llguidance knows it.

Legend: V vocabulary of the logits.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from exaone_export.errors import ArtifactError
from exaone_export.extras import needs_serve

from ..text.chat import left_out_of_answers
from ..text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

__all__ = ["read_vocabulary"]


def read_vocabulary(tokenizer: Tokenizer, vocab_size: int, stop_ids: Collection[int]) -> LLTokenizer:
    """What a grammar needs to know of a model's tokens; about a second for 102,400, so make it once an artifact.

    Tokens are the text that an answer has of them: tags of the chat format are text, and other special tokens, which
    an answer's text leaves out, belong to no grammar.

    Args:
        tokenizer: The artifact's.
        vocab_size: V, which may be larger or smaller than the tokenizer's.
        stop_ids: Tokens that end an answer, and are allowed where the grammar may end.

    Raises:
        ArtifactError: llguidance does not know this kind of tokenizer.
        MissingExtraError: llguidance is not installed.
    """
    with needs_serve("constrained output"):
        import llguidance
    found = _Tokens(tokenizer, vocab_size, stop_ids)
    return llguidance.LLTokenizer(
        llguidance.TokenizerWrapper(found), n_vocab=len(found.tokens), eos_token=sorted(found.stop_ids)
    )


class _Tokens:
    """What `llguidance.TokenizerWrapper` asks a tokenizer for."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_ids: Collection[int]) -> None:
        import llguidance

        self._tokenizer, self._size = tokenizer, vocab_size
        try:
            # It takes whatever is written as a tag for a special token, so only its bytes are used.
            known = llguidance.LLTokenizer(tokenizer.to_json(), n_vocab=max(vocab_size, len(tokenizer)), eos_token=0)
        except ValueError as error:
            raise ArtifactError(
                f"{tokenizer.folder} has a tokenizer that constrained output does not support ({error}); generate "
                f"without a constraint."
            ) from error
        self.tokens = [known.decode_bytes([index]) for index in range(vocab_size)]
        self.special_token_ids = [index for index in left_out_of_answers(tokenizer) if index < vocab_size]
        self.stop_ids = {index for index in stop_ids if index < vocab_size}
        if not self.stop_ids:  # llguidance wants one, so it gets one that no logits have
            self.stop_ids = {vocab_size}
            self.special_token_ids.append(vocab_size)
            self.tokens.append(b"[end]")
        self.eos_token_id = min(self.stop_ids)

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)
