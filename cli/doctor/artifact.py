"""Whether an artifact opens and runs here."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from exaone_export.artifact.genai_config import GENAI_NAME
from exaone_export.artifact.reader import Artifact
from exaone_export.artifact.sidecars import missing_tokenizer
from exaone_export.artifact.signature import fingerprint, is_signed, read_public_key
from exaone_export.artifact.vocabulary import describe_beyond
from exaone_export.errors import ExaoneExportError
from exaone_export.extras import EXPORT
from exaone_export.planning.sizes import format_size
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.flavour import FLAVOURS
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import get_target

from ..describe_head import describe_head
from .findings import Finding, split_fix
from .machine import Machine
from .packages import Package, find_package
from .targets import check_graph, check_target, why_no_transformers

__all__ = ["FILES", "check_artifact"]

FILES = "files"


def check_artifact(
    folder: str | Path, machine: Machine, packages: list[Package], trusted_key: Path | None = None
) -> Iterator[Finding]:
    """Findings of files, signature, tokenizer, target and memory; of files alone where those are refused."""
    try:
        artifact = Artifact.open(folder, trusted_key=trusted_key)
        recipe = Recipe.from_dict(artifact.manifest.recipe)
    except ExaoneExportError as error:
        yield Finding(FILES, False, *split_fix(str(error)))
        return
    manifest = artifact.manifest
    size = sum(record["size"] for record in manifest.files.values())
    yield Finding(FILES, True, f"{len(manifest.files)} files, {format_size(size)}, match their hashes")
    yield _signature(artifact, trusted_key)
    if not artifact.spec.head.is_causal_lm:
        yield Finding("head", None, f"{describe_head(artifact.spec.head)}, run by exaone-export predict")
    if (missing := missing_tokenizer(artifact.folder)) is not None:
        yield Finding("tokenizer", None, *split_fix(missing))
    if (beyond := describe_beyond(artifact.folder, artifact.spec.vocab_size)) is not None:
        fix = "leave them out of prompts, or resize the model's embeddings, train it and export it again"
        yield Finding("tokenizer", None, f"{beyond}; a prompt with one of them is refused", fix)
    yield _target(artifact, machine, packages)
    yield _memory(artifact, recipe, machine)
    yield Finding("opens with", None, "; ".join(_runtimes(artifact)))


def _signature(artifact: Artifact, trusted_key: Path | None) -> Finding:
    if trusted_key is not None:
        return Finding("signature", True, f"signed by key {fingerprint(read_public_key(trusted_key))}")
    if is_signed(artifact.folder):
        check = shlex.join(["exaone-export", "doctor", str(artifact.folder), "--verify", "KEY"])
        return Finding("signature", None, "signed, signature not checked", check)
    return Finding("signature", None, "not signed")


def _target(artifact: Artifact, machine: Machine, packages: list[Package]) -> Finding:
    name = f"target {artifact.manifest.target}"
    # On a machine without TensorRT, its graphs run on the CPU as every other graph does.
    found = (check_target if artifact.engine is not None else check_graph)(artifact.manifest.target, machine, packages)
    if found.ok and not (artifact.spec.head.is_causal_lm and artifact.device == "cpu"):
        found = _with_transformers(found, packages)
    if not found.ok or artifact.engine is None:
        return Finding(name, found.ok, found.detail, found.fix)
    flavour = FLAVOURS[artifact.engine.flavour]
    try:
        artifact.engine.check_fits(
            flavour=flavour.name,
            version=str(find_package(packages, flavour.package, flavour.extra).found),
            compute_capability=machine.gpus[0].compute_capability,
            has_plugin=True,  # The module that registers it is named when the engine is run.
        )
    except ExaoneExportError as error:
        return Finding(name, False, *split_fix(str(error)))
    return Finding(name, True, found.detail)


def _with_transformers(found: Finding, packages: list[Package]) -> Finding:
    """A target's finding, of what runs in transformers' interface alone."""
    if (missing := why_no_transformers()) is not None:
        return replace(found, ok=False, detail=missing[0], fix=missing[1])
    for package in packages:
        if package.extra == EXPORT and package.is_broken:
            broken = package.to_finding()
            return replace(found, ok=False, detail=f"{broken.name} is {broken.detail}", fix=broken.fix)
    return found


def _runtimes(artifact: Artifact) -> Iterator[str]:
    """What opens the artifact, here or elsewhere, and by which of its files."""
    yield "exaone-export"
    if artifact.engine is not None:
        yield f"{FLAVOURS[artifact.engine.flavour].title} {artifact.engine.version} by its own API"
        return
    target = get_target(artifact.manifest.target)
    if (artifact.folder / GENAI_NAME).is_file():
        yield f"onnxruntime-genai 0.18 or later, by {GENAI_NAME}"
    if target.makes_engine:
        yield f"TensorRT's parser, by {artifact.model_path.name}"
    elif target.opens_elsewhere:
        yield f"ONNX Runtime in any language, by {artifact.model_path.name}"
    else:
        takes = (
            "any runtime of opset 24" if artifact.manifest.recipe.get("inline") else "runtimes that expand functions"
        )
        yield f"{takes}, by {artifact.model_path.name}"


def _memory(artifact: Artifact, recipe: Recipe, machine: Machine) -> Finding:
    """The weights and one row's cache, the least that a session holds."""
    manifest, spec = artifact.manifest, artifact.spec
    weights = sum(record["size"] for name, record in manifest.files.items() if name.startswith("model."))
    layout = CacheLayout.from_dict(manifest.cache)
    cache = layout.num_bytes(spec.num_key_value_heads, spec.head_dim, recipe.cache_item_bytes)
    gpu = machine.gpus[0].memory if machine.gpus else None
    there = gpu if artifact.device == "cuda" else machine.available
    needed = f"{format_size(weights)} of weights and {format_size(cache)} of cache for one row"
    fix = f"free memory, or run: exaone-export export MODEL OUT --precision int4 --max-length {layout.max_length // 2}"
    if artifact.prefill is not None:
        needed += f", the {artifact.prefill.precision} graph for prompts included"
        fix = "free memory, or run without the graph for prompts: pass --no-prefill-graph"
    if there is None:
        return Finding("memory", None, needed)
    if weights + cache <= there:
        return Finding("memory", True, f"{needed}, {format_size(there)} available")
    return Finding(
        "memory",
        False,
        f"needs {needed}, {format_size(there)} available",
        fix,
    )
