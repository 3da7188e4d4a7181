"""The small files beside the weights: config, tokenizer, chat template.

transformers reads them by their names, and some values make a program run code, fetch code, or read a file elsewhere.
Here they are checked to be plain data before any of them is used.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import ExaoneExportError
from ..files import strict_json
from ..model.config.reading import MAX_CONFIG_BYTES
from .manifest import MANIFEST_NAME

__all__ = ["MAX_SIDECAR_BYTES", "check_content", "max_bytes_of", "missing_tokenizer", "names_read"]

MAX_SIDECAR_BYTES = 48 << 20
"""Of a tokenizer, the largest of them; the 33 MB of a vocabulary of 262,144 fit."""

_MAX_TEXT_BYTES = 4 << 20
_TOKENIZERS = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")

# What transformers and onnxruntime-genai read beside a model without being told to.
_READ = re.compile(
    r"config\.json|(generation|genai)_config\.json|(adapter|processor|preprocessor)_config\.json|.*\.safetensors(\.index\.json)?"
    r"|tokenizer.*|tekken\.json|tiktoken\.model|special_tokens_map\.json|added_tokens\.json|vocab\..*|merges\.txt"
    r"|chat_template.*|additional_chat_templates|.*\.jinja|.*\.(bin|pt|pth|pkl|ckpt|h5|gguf|msgpack)"
)

# Classes that the tokenizers library runs from tokenizer.json alone; others call programs and dictionaries by path.
_TOKENIZER_CLASSES = frozenset(
    {
        "GPT2Tokenizer",
        "GPT2TokenizerFast",
        "LlamaTokenizer",
        "LlamaTokenizerFast",
        "PreTrainedTokenizer",
        "PreTrainedTokenizerFast",
        "Qwen2Tokenizer",
        "Qwen2TokenizerFast",
        "TokenizersBackend",
    }
)
# Keys that may have text. Some hold paths of their author's machine, which transformers does not read.
_TOKENIZER_KEYS = frozenset(
    {
        "added_tokens_decoder",
        "additional_special_tokens",
        "backend",
        "chat_template",
        "device_map",
        "dtype",
        "errors",
        "extra_special_tokens",
        "model_input_names",
        "model_specific_special_tokens",
        "name_or_path",
        "padding_side",
        "padding_strategy",
        "processor_class",
        "response_schema",
        "revision",
        "special_tokens_map_file",
        "tokenizer_class",
        "tokenizer_config_file",
        "tokenizer_type",
        "tool_parser_type",
        "torch_dtype",
        "transformers_version",
        "truncation_side",
        "truncation_strategy",
        "unsloth_version",
    }
)
_ATTENTIONS = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
_MOST_ROWS = 64


def names_read(folder: Path) -> Iterator[str]:
    """Names of the entries of a folder that transformers reads beside a model by itself."""
    return (entry.name for entry in sorted(folder.iterdir()) if _READ.fullmatch(entry.name))


def missing_tokenizer(folder: Path) -> str | None:
    """A sentence, without its full stop, on a folder that has no ``tokenizer.json``; None where it has one."""
    if (folder / "tokenizer.json").is_file():
        return None
    what = f"{folder} has no tokenizer.json, without which no text can be tokenized"
    if (folder / MANIFEST_NAME).exists():
        return f"{what}; put one into the checkpoint, and export that again"
    made = f"from transformers import AutoTokenizer as A; A.from_pretrained({str(folder)!r})"
    command = shlex.quote(f"{made}.save_pretrained({str(folder)!r})")
    return f"{what}; copy that of the published checkpoint into it, or run: python -c {command}"


def max_bytes_of(name: str) -> int:
    """The most bytes that a file of this name may have."""
    if name in _TOKENIZERS:
        return MAX_SIDECAR_BYTES
    return MAX_CONFIG_BYTES if name == "config.json" else _MAX_TEXT_BYTES


def check_content(path: Path, error: type[ExaoneExportError], *, original: bool = False) -> None:
    """Raise unless the file is plain data; only files that a program reads by their name are checked.

    Args:
        path: A regular file; one of another name is left alone.
        error: What is raised.
        original: Whether it is of an EXAONE 3 checkpoint, all of which name the code that they were published with in
            ``config.json``. Nothing reads it there, and it is not handed on.

    Raises:
        ExaoneExportError: Of the type ``error``: it is too large, not strict JSON, or asks for code, for a file
            elsewhere, or for more rows than memory holds.
    """
    if (check := _CHECKS.get(path.name)) is not None:
        content = strict_json.read_object(path, max_bytes=max_bytes_of(path.name), error=error)
        if original and path.name == "config.json":
            content.pop("auto_map", None)
        if (flaw := check(content)) is not None:
            raise error(f"{path} {flaw}.")


def _flaw_of_config(config: dict[str, Any]) -> str | None:
    if "auto_map" in config:
        return "names Python code in auto_map, which is never run; remove the key, or use a checkpoint without it"
    for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
        if config.get(key) not in _ATTENTIONS:  # Other names are repositories of kernels, which would be fetched.
            return f"asks for {_show(config[key])} as its {key}, which is code from elsewhere; remove the key"
    if config.get("use_kernels"):
        return "asks for use_kernels, which is code from elsewhere; remove the key"
    return _flaw_of_tokenizer_class(config)


def _flaw_of_tokenizer_class(config: dict[str, Any]) -> str | None:
    found = config.get("tokenizer_class")
    if found is None or (isinstance(found, str) and found in _TOKENIZER_CLASSES):
        return None
    return (
        f"asks for the tokenizer class {_show(found)}, and only those that read tokenizer.json alone are used; "
        f"write PreTrainedTokenizerFast there"
    )


def _flaw_of_tokenizer_config(config: dict[str, Any]) -> str | None:
    return _flaw_of_tokenizer_keys(config) or _flaw_of_tokenizer_class(config)


def _flaw_of_tokenizer_keys(config: dict[str, Any]) -> str | None:
    """Each key is handed by transformers to the tokenizer's class, and some classes open what a text names."""
    if "auto_map" in config:
        return "names Python code in auto_map, which is never run; remove the key, or use a checkpoint without it"
    for key, value in config.items():
        if re.fullmatch(r".*_files?", key) and value is not None and key not in _TOKENIZER_KEYS:
            return f"names a file in {key:.40}, and only those beside it are read; remove the key"
        if not _may_have_text(key) and _holds_text(value):
            return f"has text in the key {key[:40]!r}, which is not known here and could name a file; remove the key"
    return None


def _may_have_text(key: str) -> bool:
    """Whether a key of ``tokenizer_config.json`` or ``special_tokens_map.json`` may have text: none that is a path."""
    return key in _TOKENIZER_KEYS or re.fullmatch(r"[a-z_]+_token", key) is not None


def _holds_text(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value)
    return any(map(_holds_text, value)) if isinstance(value, list) else isinstance(value, str)


def _flaw_of_added_tokens(config: dict[str, Any]) -> str | None:
    wrong = next((value for value in config.values() if type(value) is not int), None)
    return None if wrong is None else f"has {_show(wrong)} where the number of a token must be; correct it"


def _flaw_of_generation_config(config: dict[str, Any]) -> str | None:
    for key in ("num_beams", "num_return_sequences"):
        count = config.get(key)
        if count is not None and not (type(count) is int and 1 <= count <= _MOST_ROWS):
            return f"has {_show(count)} as {key}, and 1 to {_MOST_ROWS} may be a default; correct it"
    if config.get("custom_generate") is not None or "auto_map" in config:
        return "names code of its own, which is never run; remove custom_generate and auto_map"
    return None


def _flaw_of_template(config: dict[str, Any]) -> str | None:
    other = next((key for key in config if key != "chat_template"), None)
    return None if other is None else f"has the key {other[:40]!r}, and chat_template alone is read; remove the key"


def _show(value: Any) -> str:
    return f"{value!r:.60}"


_CHECKS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "config.json": _flaw_of_config,
    "generation_config.json": _flaw_of_generation_config,
    "tokenizer_config.json": _flaw_of_tokenizer_config,
    "special_tokens_map.json": _flaw_of_tokenizer_keys,
    "added_tokens.json": _flaw_of_added_tokens,
    "chat_template.json": _flaw_of_template,
}
