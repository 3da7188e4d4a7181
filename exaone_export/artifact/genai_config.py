"""``genai_config.json``, which onnxruntime-genai opens an artifact by: made from the manifest, and checked against it.

The keys are those of https://onnxruntime.ai/docs/genai/reference/config; some of them name files, libraries and
providers that a program then loads, so that nothing but what is written here passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..files import strict_json
from ..model.heads import NEXT_LOGITS
from ..model.spec import ModelSpec
from ..targets.cache_layout import PAST, PRESENT, CacheLayout
from ..targets.target import Target
from .sidecars import max_bytes_of

__all__ = ["GENAI_NAME", "check_genai_config", "genai_config", "read_genai_inputs"]

GENAI_NAME = "genai_config.json"

# By our name of a sampling option, its default where generation_config.json gives none, as in transformers.
_SAMPLING: dict[str, bool | float] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
}


def genai_config(
    spec: ModelSpec, layout: CacheLayout, target: Target, files: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> dict[str, Any] | None:
    """What onnxruntime-genai is to know of an artifact.

    Args:
        spec: The architecture.
        layout: The caches.
        target: Where the graph runs.
        files: What ``config.json`` and ``generation_config.json`` hold, see `read_genai_inputs`.

    Returns:
        The content of the file; None for a target or a head that onnxruntime-genai does not run.
    """
    if not (target.opens_elsewhere and spec.head.is_causal_lm):
        return None
    generation = files[1]
    provider: list[dict[str, Any]] = []
    if target.provider is not None and target.provider.device == "cuda":
        # A captured step would be given a mask of the maximum length, which is not the longest row's.
        provider = [{"cuda": {"enable_cuda_graph": "0"}}]
    decoder: dict[str, Any] = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": provider},
        "filename": "model.onnx",
        "head_size": spec.head_dim,
        "hidden_size": spec.hidden_size,
        "num_attention_heads": spec.num_attention_heads,
        "num_hidden_layers": spec.num_hidden_layers,
        "num_key_value_heads": spec.num_key_value_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "position_ids": "position_ids",
            "past_key_names": f"{PAST}%d.key",
            "past_value_names": f"{PAST}%d.value",
        },
        "outputs": {
            "logits": NEXT_LOGITS,
            "present_key_names": f"{PRESENT}%d.key",
            "present_value_names": f"{PRESENT}%d.value",
        },
    }
    evicting = {index: layer for index, layer in enumerate(layout.layers) if layer.evicts(layout.max_length)}
    kinds = {(layer.window, layer.capacity) for layer in evicting.values()}
    if len(kinds) > 1:  # It has one window for all layers.
        return None
    if kinds:
        window, capacity = kinds.pop()
        decoder["sliding_window"] = {
            "window_size": window,
            "cache_slack": capacity - window,
            "slide_key_value_cache": False,
            "slide_inputs": False,
            "layers": list(evicting),
        }
    ids = {name: _token_ids(files, name, spec.vocab_size) for name in ("bos_token_id", "pad_token_id", "eos_token_id")}
    ends = ids.pop("eos_token_id")
    ids["pad_token_id"] = ids["pad_token_id"] or ends
    return {
        "model": {
            "type": "decoder",
            **{name: found[0] if found else 0 for name, found in ids.items()},
            "eos_token_id": ends,
            "vocab_size": spec.vocab_size,
            "context_length": layout.max_length,
            "decoder": decoder,
        },
        "search": {
            **{name: _number(generation.get(name), default) for name, default in _SAMPLING.items()},
            "max_length": layout.max_length,
            "past_present_share_buffer": True,
        },
    }


def read_genai_inputs(folder: Path, error: type[Exception] = ArtifactError) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``config.json`` and ``generation_config.json`` of a folder hold; empty where there is none.

    Raises:
        ExaoneExportError: Of the type ``error``: one is not strict JSON.
    """
    read = [
        strict_json.read_object(folder / name, max_bytes=max_bytes_of(name), error=error)  # type: ignore[arg-type]
        if (folder / name).is_file()
        else {}
        for name in ("config.json", "generation_config.json")
    ]
    return read[0], read[1]


def check_genai_config(folder: Path, spec: ModelSpec, layout: CacheLayout, target: Target) -> None:
    """Raise unless ``genai_config.json`` says nothing but what an export writes; an artifact may have none.

    Raises:
        ArtifactError: It names another file, library, provider or number than the manifest's.
    """
    path = folder / GENAI_NAME
    if not path.is_file():
        return
    found = strict_json.read_object(path, max_bytes=max_bytes_of(GENAI_NAME), error=ArtifactError)
    expected = genai_config(spec, layout, target, read_genai_inputs(folder))
    flaw = "is there, and onnxruntime-genai does not run such an artifact" if expected is None else None
    flaw = flaw or _difference(found, expected, "")
    if flaw is not None:
        raise ArtifactError(f"{path} {flaw}; export the model again.")


def _difference(found: Any, expected: Any, at: str) -> str | None:
    """What ``found`` says that ``expected`` does not; it may say less."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key, value in found.items():
            name = f"{at}.{key}".lstrip(".")
            if key not in expected:
                return f"has the key {name[:80]!r}, which no export writes"
            if (flaw := _difference(value, expected[key], name)) is not None:
                return flaw
        return None
    if at.removeprefix("search.") in _SAMPLING and type(found) in (bool, int, float):  # the reader's choice
        return None
    if type(found) is not type(expected) or found != expected:
        return f"has {found!r:.60} as {at[:80]}, and the artifact has {expected!r:.60}"
    return None


def _token_ids(files: Sequence[Mapping[str, Any]], name: str, vocab_size: int) -> list[int]:
    """Numbers of tokens of the vocabulary, of ``generation_config.json`` first, as transformers reads them."""
    for file in reversed(files):
        found = file.get(name)
        given = found if isinstance(found, list) else [found]
        if ids := [each for each in given if type(each) is int and 0 <= each < vocab_size]:
            return ids
    return []


def _number(found: Any, default: bool | float) -> bool | float:
    """A value of ``generation_config.json``, or the default where it is not of the default's kind."""
    if isinstance(default, bool):
        return found if isinstance(found, bool) else default
    if isinstance(found, bool) or not isinstance(found, int | float) or found < 0:
        return default
    return type(default)(found)
