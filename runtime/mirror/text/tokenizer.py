"""transformers' tokenizer on a folder's files: what `exaone_export.load_tokenizer` gives.

Its tokens are those of `exaone_export.runtime.text.tokenizer.Tokenizer`, and transformers' own code takes it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import transformers

from exaone_export.artifact.location import locate
from exaone_export.errors import ArtifactError

from ...text.tokenizer import encoding
from ...text.tokenizer_files import NAME, read_tokenizer_files, readable_tokenizer, tokenizer_errors

__all__ = ["TokenizersBackend", "load_tokenizer"]


class TokenizersBackend(transformers.TokenizersBackend):
    """transformers' tokenizer, with typed errors for texts that it refuses and for failures.

    Its name is transformers', because ``save_pretrained`` writes it down and ``AutoTokenizer`` looks for it.

    ``__call__``, ``encode`` and ``tokenize`` raise PromptError for a text that is not Unicode or that is too long, and
    ArtifactError where ``tokenizer.json`` does not work with a text; so does ``decode`` with tokens.
    """

    growth = 1
    """The most bytes that ``tokenizer.json`` makes of one; see `tokenizer_limits.growth_of`."""

    def __call__(self, text: Any = None, text_pair: Any = None, *args: Any, **options: Any) -> Any:
        """As transformers' own."""
        with self._encoding(text, text_pair):
            return super().__call__(text, text_pair, *args, **options)

    def encode(self, text: Any, text_pair: Any = None, *args: Any, **options: Any) -> Any:
        """As transformers' own."""
        with self._encoding(text, text_pair):
            return super().encode(text, text_pair, *args, **options)

    def tokenize(self, text: Any, pair: Any = None, *args: Any, **options: Any) -> Any:
        """As transformers' own."""
        with self._encoding(text, pair):
            return super().tokenize(text, pair, *args, **options)

    def decode(self, token_ids: Any, *args: Any, **options: Any) -> Any:
        """As transformers' own."""
        with tokenizer_errors(ArtifactError, f"{Path(self.name_or_path) / NAME} does not work with the answer"):
            return super().decode(token_ids, *args, **options)

    def _encoding(self, *texts: Any) -> AbstractContextManager[None]:
        return encoding(self.name_or_path, self.growth, *texts)


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of an artifact or a checkpoint, padding on the left; no code is run.

    Its tokens are those of ``tokenizer.json``, whatever class ``tokenizer_config.json`` names.

    Args:
        folder: The folder or, as text, the name of an artifact on the hub, ``ORG/NAME`` or ``ORG/NAME@REVISION``, of
            which all but the model is downloaded.

    Raises:
        ArtifactError: The folder holds no ``tokenizer.json``, or a file that cannot be read, or one that names code
            or a file elsewhere; or the hub does not have the artifact.
    """
    if isinstance(folder, str) and not Path(folder).is_dir():
        folder = locate(folder, with_model=False)
    folder = Path(folder)
    with readable_tokenizer(folder):
        files = read_tokenizer_files(folder)
        options = dict(files.options)
        if files.chat_template is not None:
            options["chat_template"] = files.chat_template
        tokenizer = TokenizersBackend(tokenizer_file=str(files.path), padding_side="left", **options)
    tokenizer.name_or_path, tokenizer.growth = str(folder), files.growth
    return tokenizer
