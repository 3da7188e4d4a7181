"""What a folder says of its tokenizer: ``tokenizer.json`` decides, and the files beside it name the special tokens.

transformers' ``AutoTokenizer`` takes the class that ``tokenizer_config.json`` or ``config.json`` names. Some, such as
``GPT2Tokenizer``, which EXAONE's own checkpoints name, replace the file's normalizer and pre-tokenizer by theirs: the
model is given other tokens than it was trained on. Here the file is used as it is, no name of another file is followed,
and ``config.json`` is not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from exaone_export.artifact import sidecars
from exaone_export.errors import ArtifactError, ExaoneExportError
from exaone_export.files import strict_json
from exaone_export.files.unicode_text import decode_utf8
from exaone_export.terminal_text import brief

from .tokenizer_limits import MAX_TEXT_BYTES, TooLargeError, growth_of

__all__ = ["NAME", "TokenizerFiles", "read_tokenizer_files", "readable_tokenizer", "tokenizer_errors"]

NAME = "tokenizer.json"

# The keys of tokenizer_config.json that are used; others, some of which transformers takes for paths, are not.
_SPECIAL_TOKEN = re.compile(r"[a-z_]+_token|(additional|extra)_special_tokens")
_SETTINGS = (
    "clean_up_tokenization_spaces",
    "model_input_names",
    "model_max_length",
    "split_special_tokens",
    "truncation_side",
)
_ADDED_TOKEN_FIELDS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")


@dataclass(frozen=True)
class TokenizerFiles:
    """The checked content of a tokenizer's files.

    Attributes:
        folder: Where they are.
        data: Of ``tokenizer.json``.
        growth: The most bytes that it makes of one; see `tokenizer_limits.growth_of`.
        decoder: Its decoder, or None.
        options: Of the files beside it: special tokens by name, ``added_tokens_decoder``, and settings, named as
            transformers' tokenizers take them.
        chat_template: The template, several by name, or None.
        notices: What transformers would do otherwise, a sentence each.
    """

    folder: Path
    data: bytes
    growth: int
    decoder: Mapping[str, Any] | None
    options: Mapping[str, Any]
    chat_template: str | dict[str, str] | None
    notices: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Of ``tokenizer.json``."""
        return self.folder / NAME


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read the tokenizer's files of an artifact or a checkpoint; nothing is downloaded.

    Call it, and what is made of the result, inside `readable_tokenizer`.

    Raises:
        ArtifactError: The folder holds no ``tokenizer.json``, or a file that cannot be read, or one that names code
            or a file elsewhere.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder; give the folder that an export has written.")
    if (missing := sidecars.missing_tokenizer(folder)) is not None:
        raise ArtifactError(f"{missing}.")
    data = strict_json.read_bytes(folder / NAME, max_bytes=sidecars.max_bytes_of(NAME), error=ArtifactError)
    content = json.loads(data)  # Of a key given twice, the tokenizers library takes the last as well.
    try:
        growth = growth_of(content)
    except TooLargeError as error:
        raise ArtifactError(f"{folder / NAME} has {error}; use the {NAME} of the published checkpoint.") from error
    most = MAX_TEXT_BYTES // growth
    config = _read(folder / "tokenizer_config.json", most)
    return TokenizerFiles(
        folder=folder,
        data=data,
        growth=growth,
        decoder=content.get("decoder"),
        options=_read_options(config, folder, most),
        chat_template=_read_template(config, folder),
        notices=tuple(f"{folder / 'tokenizer_config.json'} {notice}." for notice in _notices(config, content)),
    )


@contextmanager
def readable_tokenizer(folder: Path) -> Iterator[None]:
    """Turn what the libraries raise on damaged files into an ArtifactError that names the folder."""
    try:
        yield
    except ArtifactError:
        raise
    except BaseException as error:
        # The libraries raise any kind of exception on a damaged file, and a panic of tokenizers is not an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ArtifactError(
            f"{folder} holds no tokenizer that can be read ({_reason(error)}); copy tokenizer.json and "
            f"tokenizer_config.json of the checkpoint into it, or export the model again."
        ) from error


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
        raise error(f"{sentence} ({_reason(cause)}); use the {NAME} of the published checkpoint.") from cause


def _read_options(config: dict[str, Any], folder: Path, most: int) -> dict[str, Any]:
    options = _special_tokens(config) | {key: config[key] for key in _SETTINGS if config.get(key) is not None}
    if "added_tokens_decoder" in config:
        added = config["added_tokens_decoder"]
        options["added_tokens_decoder"] = {int(index): _added_token(token) for index, token in added.items()}
    else:  # written by older versions of transformers
        options |= _special_tokens(_read(folder / "special_tokens_map.json", most))
    return options


def _read_template(config: dict[str, Any], folder: Path) -> str | dict[str, str] | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        data = strict_json.read_bytes(path, max_bytes=sidecars.max_bytes_of(path.name), error=ArtifactError)
        return decode_utf8(data, str(path), ArtifactError)
    found = config.get("chat_template")
    if isinstance(found, list):
        found = {each["name"]: each["template"] for each in found}
    texts = [*found, *found.values()] if isinstance(found, dict) else [found or ""]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("chat_template is neither a text nor a list of names and texts")
    return found or None


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


def _notices(config: dict[str, Any], content: dict[str, Any]) -> Iterator[str]:
    """Where transformers is known to leave ``tokenizer.json``, which decides here; each as the end of a sentence."""
    name = config.get("tokenizer_class")
    as_written = _REBUILT.get(name.removesuffix("Fast")) if isinstance(name, str) else None
    if as_written is not None and not as_written(content):
        yield f"names {name}, with which transformers may give other tokens than {NAME}, whose tokens are used here"
    model = content.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if config.get("clean_up_tokenization_spaces") and kind != "BPE":  # transformers ignores it with BPE as well
        yield f"sets clean_up_tokenization_spaces, which is ignored: text is decoded as {NAME} says"


def _as_gpt2(content: Mapping[str, Any]) -> bool:
    step = content.get("pre_tokenizer") or {}
    prefix = step.get("add_prefix_space", True)
    return content.get("normalizer") is None and step.get("type") == "ByteLevel" and not prefix


def _as_llama(content: Mapping[str, Any]) -> bool:
    return '"ByteLevel"' in json.dumps([content.get("pre_tokenizer"), content.get("decoder")])


_REBUILT: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "GPT2Tokenizer": _as_gpt2,
    "LlamaTokenizer": _as_llama,
    "Qwen2Tokenizer": lambda content: False,  # its expression is that of a version of transformers
}
"""Classes whose normalizer and pre-tokenizer transformers writes itself, and whether those of a file are the same."""


# What tokenizers puts before an error of a file that is given as bytes.
_FROM_BUFFER = "Cannot instantiate Tokenizer from buffer: "


def _reason(error: BaseException) -> str:
    return brief(str(error).removeprefix(_FROM_BUFFER)) or type(error).__name__
