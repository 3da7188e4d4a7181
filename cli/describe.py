"""A manifest as text, for people and for programs."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from exaone_export.artifact.manifest import Manifest
from exaone_export.artifact.prefill import PrefillInfo
from exaone_export.errors import ArtifactError, ExaoneExportError
from exaone_export.model.config.reading import read_spec
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import num_parameters
from exaone_export.planning.sizes import format_size
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.engine import DECODE, EngineInfo, Profile
from exaone_export.targets.flavour import FLAVOURS
from exaone_export.targets.recipe import Recipe

from .describe_head import describe_head, describe_outputs
from .tables import facts


def as_json_text(manifest: Manifest) -> str:
    """The manifest as JSON."""
    return manifest.to_json().decode().rstrip("\n")


def as_table(manifest: Manifest) -> str:
    """The manifest as lines of a name and a value, equal layers in one line.

    Raises:
        ArtifactError: A record in it is not one that an export writes.
    """
    try:
        rows = _rows(manifest)
    except (AttributeError, KeyError, TypeError, ValueError) as cause:
        if isinstance(cause, ExaoneExportError):
            raise
        raise ArtifactError("the manifest has an invalid record; export the model again.") from cause
    return facts(rows)


def _rows(manifest: Manifest) -> list[tuple[str, str]]:
    spec, layout = read_spec(manifest.model), CacheLayout.from_dict(manifest.cache)
    recipe = Recipe.from_dict(manifest.recipe)
    computed = f" computed in {recipe.compute_type}" if recipe.precision.weights is not None else ""
    inlined = ", attention inlined" if manifest.recipe.get("inline") else ""
    cache_bytes = layout.num_bytes(spec.num_key_value_heads, spec.head_dim, recipe.cache_item_bytes)
    rows = [
        ("model", f"{spec.model_type}, {spec.num_hidden_layers} layers, {num_parameters(spec):,} parameters"),
        *_head_rows(spec),
        ("source", " ".join(str(manifest.source[key]) for key in ("name", "revision") if manifest.source.get(key))),
        ("target", f"{manifest.target}, {recipe.precision.name}{computed}{inlined}"),
        ("max length", f"{layout.max_length:,} tokens"),
        ("cache", f"{format_size(cache_bytes)} per sequence"),
        *_layer_rows(manifest.layers),
        *_prefill_rows(manifest),
    ]
    if manifest.engine is not None:
        rows += _engine_rows(EngineInfo.from_dict(manifest.engine))
    if manifest.files:
        rows.append(
            ("files", f"{len(manifest.files)}, {format_size(sum(file['size'] for file in manifest.files.values()))}")
        )
    if manifest.parity is not None:
        rows.append(("parity", "passed" if manifest.parity.get("passed") else "failed"))
    return rows


def _head_rows(spec: ModelSpec) -> list[tuple[str, str]]:
    if spec.head.is_causal_lm:
        return []
    return [("head", describe_head(spec.head)), ("outputs", describe_outputs(spec))]


def _prefill_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Of the graph for prompts, as far as it is not the other one again."""
    if manifest.prefill is None:
        return []
    info = PrefillInfo.from_dict(manifest.prefill)
    weights = sorted({kind for layer in info.layers for kind in layer["precision"].values()})
    return [
        ("prompts", f"{info.precision} for steps of {info.threshold:,} tokens or more, {', '.join(weights)} weights")
    ]


def _layer_rows(layers: list[dict[str, Any]]) -> list[tuple[str, str]]:
    rows = []
    for fact, run in groupby(layers, key=_layer_fact):
        indices = [layer["index"] for layer in run]
        name = f"layer {indices[0]}" if len(indices) == 1 else f"layers {indices[0]}-{indices[-1]}"
        rows.append((name, fact))
    return rows


def _layer_fact(layer: dict[str, Any]) -> str:
    window = f"window {layer['window']:,}" if layer["window"] else "global"
    position = "RoPE" if layer["position"] == "rope" else "no position"
    weights = ", ".join(sorted(set(layer["precision"].values())))
    qk_norm = "QK-norm" if layer["qk_norm"] else "no QK-norm"
    norms = f"norms on the {layer['norms']}s"
    fact = f"{window}, {position}, {qk_norm}, {norms}, {layer['rows']:,} cache rows, {weights} weights"
    if (experts := layer.get("experts")) is None:
        return fact
    return f"{fact}, {experts['chosen']} of {experts['experts']} experts in {experts['precision']}"


def _engine_rows(engine: EngineInfo) -> list[tuple[str, str]]:
    made = f"{FLAVOURS[engine.flavour].title} {engine.version}, compute capability {engine.describe_capabilities()}"
    return [
        ("engine", f"{made}{', attention by a plugin' if engine.plugin else ''}"),
        *((profile.name, _profile_fact(profile)) for profile in engine.profiles),
        *(("built from", f"{name}, sha256 {sha256[:16]}") for name, sha256 in engine.onnx.items()),
    ]


def _profile_fact(profile: Profile) -> str:
    step = "one token" if profile.name == DECODE else f"up to {profile.sequence.maximum:,} tokens"
    return f"{step} per step, up to {profile.batch.maximum:,} {'row' if profile.batch.maximum == 1 else 'rows'}"
