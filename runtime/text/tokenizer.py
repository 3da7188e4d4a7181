"""The tokenizer of a folder: ``tokenizer.json`` decides, and ``tokenizer_config.json`` names the special tokens.

transformers' ``AutoTokenizer`` takes the class that ``tokenizer_config.json`` or ``config.json`` names. Some, such as
``GPT2Tokenizer``, which EXAONE's own checkpoints name, replace the file's normalizer and pre-tokenizer by theirs: the
model is given other tokens than it was trained on. Here the file is used as it is, no name of another file is followed,
and ``config.json`` is not read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken

from exaone_export.artifact import sidecars
from exaone_export.errors import ArtifactError, ExaoneExportError, PromptError
from exaone_export.files import strict_json
from exaone_export.files.unicode_text import check_unicode, decode_utf8

from .tokenizer_limits import MAX_TEXT_BYTES, TooLargeError, growth_of

__all__ = ["TokenizersBackend", "check_vocabulary", "load_tokenizer", "tokenizer_errors"]

_NAME = "tokenizer.json"

# The keys of tokenizer_config.json that are used; others, some of which transformers takes for paths, are not.
_SPECIAL_TOKEN = re.compile(r"[a-z_]+_token|(additional|extra)_special_tokens")
_SETTINGS = (
    "chat_template",
    "clean_up_tokenization_spaces",
    "model_input_names",
    "model_max_length",
    "split_special_tokens",
    "truncation_side",
)
_ADDED_TOKEN_FIELDS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")


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
        with tokenizer_errors(ArtifactError, f"{self._file} does not work with the answer"):
            return super().decode(token_ids, *args, **options)

    @contextmanager
    def _encoding(self, *texts: Any) -> Iterator[None]:
        _check_texts(texts, self.growth)
        with tokenizer_errors(ArtifactError, f"{self._file} does not work with the prompt"):
            yield

    @property
    def _file(self) -> str:
        return f"{self.name_or_path}{os.sep}{_NAME}"


@contextmanager
def tokenizer_errors(error: type[ExaoneExportError], sentence: str) -> Iterator[None]:
    """Turn what the tokenizers library raises into an error of a type.

    A panic of it, which a regular expression can cause, is not an ``Exception``; its other errors are of no type.

    Args:
        error: What is raised.
        sentence: How its message begins.
    """
    try:
        yield
    except BaseException as cause:
        if type(cause) is not Exception and type(cause).__name__ != "PanicException":
            raise
        raise error(f"{sentence} ({_one_line(cause)}); use the {_NAME} of the published checkpoint.") from cause


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of an artifact or a checkpoint, padding on the left; nothing is downloaded and no code is run.

    Its tokens are those of ``tokenizer.json``, whatever class ``tokenizer_config.json`` names.

    Raises:
        ArtifactError: The folder holds no ``tokenizer.json``, or a file that cannot be read, or one that names code
            or a file elsewhere.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder; give the folder that an export has written.")
    if (missing := sidecars.missing_tokenizer(folder)) is not None:
        raise ArtifactError(f"{missing}.")
    try:
        growth = _read_growth(folder)
        options = _read_options(folder, MAX_TEXT_BYTES // growth)
        tokenizer = TokenizersBackend(tokenizer_file=str(folder / _NAME), padding_side="left", **options)
    except ArtifactError:
        raise
    except BaseException as error:
        # The libraries raise any kind of exception on a damaged file, and a panic of tokenizers is not an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ArtifactError(
            f"{folder} holds no tokenizer that can be read ({_one_line(error)}); copy tokenizer.json and "
            f"tokenizer_config.json of the checkpoint into it, or export the model again."
        ) from error
    tokenizer.name_or_path, tokenizer.growth = str(folder), growth
    return tokenizer


def check_vocabulary(tokenizer: Any, input_ids: torch.Tensor, vocab_size: int) -> None:
    """Refuse a prompt with a token that the tokenizer has and the model has not.

    Args:
        tokenizer: As `load_tokenizer` gives it.
        input_ids: int64, of any shape.
        vocab_size: The model's.

    Raises:
        PromptError: There is such a token.
    """
    beyond = input_ids[input_ids >= vocab_size]
    if beyond.numel():
        token = int(beyond[0])
        raise PromptError(
            f"the prompt holds {tokenizer.convert_ids_to_tokens(token)!r}, token {token} of the tokenizer, and the "
            f"model has embeddings for 0 to {vocab_size - 1}: the token was added to tokenizer.json and not to the "
            f"model; leave it out of the prompt, or resize the model's embeddings (resize_token_embeddings) and train "
            f"and export it again."
        )


def _read_growth(folder: Path) -> int:
    limit = sidecars.max_bytes_of(_NAME)
    data = strict_json.read_bytes(folder / _NAME, max_bytes=limit, error=ArtifactError)
    try:
        return growth_of(json.loads(data))  # Of a key given twice, the tokenizers library takes the last as well.
    except TooLargeError as error:
        raise ArtifactError(f"{folder / _NAME} has {error}; use the {_NAME} of the published checkpoint.") from error


def _read_options(folder: Path, most: int) -> dict[str, Any]:
    """Keyword arguments of the tokenizer: what is known of the files beside ``tokenizer.json``, of ``most`` bytes."""
    config = _read(folder / "tokenizer_config.json", most)
    options = _special_tokens(config) | {key: config[key] for key in _SETTINGS if config.get(key) is not None}
    if "added_tokens_decoder" in config:
        added = config["added_tokens_decoder"]
        options["added_tokens_decoder"] = {int(index): _added_token(token) for index, token in added.items()}
    else:  # written by older versions of transformers
        options |= _special_tokens(_read(folder / "special_tokens_map.json", most))
    template = folder / "chat_template.jinja"
    if template.is_file():
        limit = sidecars.max_bytes_of(template.name)
        data = strict_json.read_bytes(template, max_bytes=limit, error=ArtifactError)
        options["chat_template"] = decode_utf8(data, str(template), ArtifactError)
    return options


def _read(path: Path, most: int) -> dict[str, Any]:
    if not path.exists():
        return {}
    sidecars.check_content(path, ArtifactError)
    return strict_json.read_object(path, max_bytes=min(sidecars.max_bytes_of(path.name), most), error=ArtifactError)


def _special_tokens(config: dict[str, Any]) -> dict[str, Any]:
    """Those of a config; a flag such as ``add_bos_token`` is left to ``tokenizer.json``, as transformers leaves it."""
    found = {key: _token(value) for key, value in config.items() if _SPECIAL_TOKEN.fullmatch(key)}
    return {key: value for key, value in found.items() if isinstance(value, str | AddedToken | list | dict) and value}


def _token(value: Any) -> Any:
    if isinstance(value, list):
        return [_token(item) for item in value]
    if isinstance(value, dict) and "content" in value:
        return _added_token(value | {"special": True})
    return value


def _added_token(fields: dict[str, Any]) -> AddedToken:
    return AddedToken(**{name: fields[name] for name in _ADDED_TOKEN_FIELDS if name in fields})


def _check_texts(value: Any, growth: int) -> None:
    if isinstance(value, str):
        check_unicode(value, "the prompt", PromptError)
        if (size := len(value.encode())) * growth > MAX_TEXT_BYTES:
            raise PromptError(
                f"the prompt has {size} bytes in UTF-8, and at most {MAX_TEXT_BYTES // growth} are encoded; shorten it."
            )
    elif isinstance(value, list | tuple):
        for item in value:
            _check_texts(item, growth)


def _one_line(error: BaseException) -> str:
    shown = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    return (shown[:200] or type(error).__name__).rstrip(". ")
