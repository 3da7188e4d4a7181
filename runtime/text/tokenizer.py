"""The tokenizer of a folder, on the tokenizers library alone: text to token ids and back.

Its names are those of transformers' tokenizers, so that what takes a tokenizer in this room takes either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tokenizers
from tokenizers import AddedToken

from exaone_export.errors import ArtifactError, PromptError
from exaone_export.files.unicode_text import check_unicode

from .tokenizer_files import NAME, TokenizerFiles, read_tokenizer_files, readable_tokenizer, tokenizer_errors
from .tokenizer_limits import MAX_TEXT_BYTES

__all__ = ["AnyTokenizer", "Tokenizer", "check_vocabulary", "encoding", "to_ids"]

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class AnyTokenizer(Protocol):
    """What this room needs of a tokenizer: a `Tokenizer`, or one of transformers."""

    chat_template: Any
    """The template, several by name, or None."""

    @property
    def special_tokens_map(self) -> Mapping[str, str]:
        """Special tokens by name: ``eos_token`` and so on."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        """Tokens beside the model's vocabulary, by id, with what is special about them."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""

    def decode(self, token_ids: Any) -> str:
        """The text of token ids."""

    def convert_ids_to_tokens(self, ids: int) -> str | None:
        """A token as the vocabulary writes it."""


class Tokenizer:
    """A tokenizer as ``tokenizer.json`` describes it, whatever class ``tokenizer_config.json`` names.

    Attributes:
        folder: Where it was opened.
        chat_template: The template's text, several by name, or None.
        special_tokens_map: The special tokens by name, such as ``eos_token``.
        added_tokens_decoder: Tokens beside the model's vocabulary, by id, with what is special about them.
        decoder: The decoder of ``tokenizer.json``, or None.
        notices: What transformers would do otherwise, a sentence each; show them to the user.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        self.folder, self.growth, self.notices = files.folder, files.growth, files.notices
        self.chat_template, self.decoder = files.chat_template, files.decoder
        self._backend = tokenizers.Tokenizer.from_buffer(files.data)
        named, extra = _special_tokens(files.options, self._backend.padding)
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = bool(files.options.get("split_special_tokens", False))
        self._add_tokens(files.options.get("added_tokens_decoder", {}), named, extra)
        self.special_tokens_map: dict[str, str] = {name: str(token) for name, token in named.items()}
        self.added_tokens_decoder: dict[int, AddedToken] = self._backend.get_added_tokens_decoder()

    @classmethod
    def open(cls, folder: str | Path) -> Tokenizer:
        """The tokenizer of an artifact or a checkpoint; nothing is downloaded and no code is run.

        Raises:
            ArtifactError: The folder holds no ``tokenizer.json``, or a file that cannot be read, or one that names code
                or a file elsewhere.
        """
        folder = Path(folder)
        with readable_tokenizer(folder):
            return cls(read_tokenizer_files(folder))

    def __len__(self) -> int:
        """Of the vocabulary, with added tokens."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def special_token_ids(self) -> dict[str, int]:
        """Ids of the special tokens by name, such as ``eos_token``."""
        found = {name: self._backend.token_to_id(text) for name, text in self.special_tokens_map.items()}
        return {name: index for name, index in found.items() if index is not None}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: Tokens that it spells, special ones included, become these tokens.
            add_special_tokens: Whether the file's post-processor adds its tokens, if it has any.

        Raises:
            PromptError: The text is not Unicode, or too long.
            ArtifactError: ``tokenizer.json`` does not work with the text.
        """
        with encoding(self.folder, self.growth, text):
            ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
            return ids

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD, ids beyond the vocabulary nothing.

        Args:
            token_ids: A list or an array, or one.
            skip_special_tokens: Leave special tokens out.

        Raises:
            ArtifactError: ``tokenizer.json`` does not work with the tokens.
        """
        with tokenizer_errors(ArtifactError, f"{self.folder / NAME} does not work with the answer"):
            text: str = self._backend.decode(to_ids(token_ids), skip_special_tokens=skip_special_tokens)
            return text

    def convert_ids_to_tokens(self, ids: int) -> str | None:
        """A token as the vocabulary writes it, or None."""
        token: str | None = self._backend.id_to_token(ids)
        return token

    def convert_tokens_to_ids(self, tokens: str) -> int | None:
        """The id of a token as the vocabulary writes it, or None."""
        index: int | None = self._backend.token_to_id(tokens)
        return index

    def to_json(self) -> str:
        """As ``tokenizer.json`` would describe it, with the tokens that were added to it."""
        data: str = self._backend.to_str()
        return data

    def _add_tokens(self, added: Mapping[int, AddedToken], named: Mapping[str, Any], extra: Sequence[Any]) -> None:
        """Add what the config names and the file has not, with the ids that transformers gives them."""
        tokens: list[Any] = [added[index] for index in sorted(added)]
        known = {str(token) for token in (*self._backend.get_added_tokens_decoder().values(), *tokens)}
        for token in (*named.values(), *extra):
            if str(token) not in known and token not in tokens:
                tokens.append(token)
        names = set(map(str, named.values()))
        for place, token in enumerate(tokens):
            if isinstance(token, str):
                tokens[place] = AddedToken(token, special=True)
            elif str(token) in names:
                token.special = True
        self._backend.add_tokens(tokens)


def _check_text(value: Any, growth: int) -> None:
    if isinstance(value, str):
        check_unicode(value, "the prompt", PromptError)
        if (size := len(value.encode())) * growth > MAX_TEXT_BYTES:
            raise PromptError(
                f"the prompt has {size} bytes in UTF-8, and at most {MAX_TEXT_BYTES // growth} are encoded; shorten it."
            )
    elif isinstance(value, list | tuple):
        for item in value:
            _check_text(item, growth)


def encoding(folder: str | Path, growth: int, *texts: Any) -> AbstractContextManager[None]:
    """Check texts, or lists of them, and give a context in which a tokenizer's failure is an ArtifactError.

    Raises:
        PromptError: A text is not Unicode, or too long.
    """
    for text in texts:
        _check_text(text, growth)
    return tokenizer_errors(ArtifactError, f"{Path(folder) / NAME} does not work with the prompt")


def to_ids(tokens: Any) -> list[int]:
    """A flat list of token ids, of one, of a list, or of an array or tensor of any shape."""
    if hasattr(tokens, "tolist"):
        tokens = tokens.tolist()
    if not isinstance(tokens, Iterable):
        return [int(tokens)]
    return [index for each in tokens for index in (to_ids(each) if isinstance(each, Iterable) else (int(each),))]


def check_vocabulary(tokenizer: AnyTokenizer, input_ids: Any, vocab_size: int) -> None:
    """Refuse a prompt with a token that the model has not, whether or not the tokenizer has it.

    Args:
        tokenizer: Encoded the prompt.
        input_ids: Token ids, a list, an array or a tensor on the CPU, of any shape.
        vocab_size: The model's.

    Raises:
        PromptError: There is such a token.
    """
    ids = np.asarray(input_ids)
    if (beyond := ids[ids >= vocab_size]).size:
        token = int(beyond[0])
        text = tokenizer.convert_ids_to_tokens(token) if token < 1 << 31 else None
        if text is None:
            raise PromptError(
                f"the prompt holds token {token}, and the vocabulary is 0 to {vocab_size - 1}; use the artifact's own "
                f"tokenizer."
            )
        raise PromptError(
            f"the prompt holds {text!r}, token {token} of the tokenizer, and the "
            f"model has embeddings for 0 to {vocab_size - 1}: the token was added to tokenizer.json and not to the "
            f"model; leave it out of the prompt, or resize the model's embeddings (resize_token_embeddings) and train "
            f"and export it again."
        )


def _special_tokens(options: Mapping[str, Any], padding: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[Any]]:
    """Special tokens by name, in transformers' order, and those without a name."""
    given = dict(options)
    if padding is not None:
        given.setdefault("pad_token", padding["pad_token"])
    extra = given.get("extra_special_tokens", given.get("additional_special_tokens", []))
    if not isinstance(extra, list | dict):
        raise TypeError("extra_special_tokens are neither a list nor an object")
    named = {name: given[name] for name in _NAMED if name in given}
    others = extra if isinstance(extra, dict) else {}
    for name, token in (named | others).items():
        if not isinstance(token, str | AddedToken):
            raise TypeError(f"{name} is not a text")
    for name, token in (*others.items(), *given.items()):
        if name not in named and (name in others or (name.endswith("_token") and isinstance(token, str | AddedToken))):
            named[name] = token
    return named, extra if isinstance(extra, list) else []
