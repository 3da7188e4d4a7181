"""Whether an artifact opens and runs here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from exaone_export.artifact.reader import Artifact
from exaone_export.artifact.sidecars import missing_tokenizer
from exaone_export.artifact.signature import fingerprint, is_signed, read_public_key
from exaone_export.artifact.vocabulary import describe_beyond
from exaone_export.errors import ExaoneExportError
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.flavour import FLAVOURS
from exaone_export.targets.precision import Recipe

from .findings import Finding, without_mend
from .machine import Machine
from .packages import Package, find_package
from .targets import check_graph, check_target

__all__ = ["check_artifact"]


def check_artifact(
    folder: Path, machine: Machine, packages: list[Package], trusted_key: Path | None = None
) -> Iterator[Finding]:
    """Findings of files, signature, tokenizer, target and memory; of files alone where those are refused."""
    try:
        artifact = Artifact.open(folder, trusted_key=trusted_key)
        recipe = Recipe.from_dict(artifact.manifest.recipe)
    except ExaoneExportError as error:
        yield Finding("files", False, *without_mend(str(error)))
        return
    manifest = artifact.manifest
    size = sum(record["size"] for record in manifest.files.values())
    yield Finding("files", True, f"{len(manifest.files)} files, {size / 2**30:.2f} GiB, have their hashes")
    yield _signature(artifact, trusted_key)
    if (missing := missing_tokenizer(artifact.folder)) is not None:
        yield Finding("tokenizer", None, *without_mend(missing))
    if (beyond := describe_beyond(artifact.folder, artifact.spec.vocab_size)) is not None:
        mend = "leave them out of prompts, or resize the model's embeddings, train and export it again"
        yield Finding("tokenizer", None, f"{beyond}; a prompt with one of them is refused", mend)
    yield _target(artifact, machine, packages)
    yield _memory(artifact, recipe, machine)


def _signature(artifact: Artifact, trusted_key: Path | None) -> Finding:
    if trusted_key is not None:
        return Finding("signature", True, f"by key {fingerprint(read_public_key(trusted_key))}")
    if is_signed(artifact.folder):
        return Finding("signature", None, "there is one, and by whom it is was not checked", "pass --verify KEY")
    return Finding("signature", None, "none")


def _target(artifact: Artifact, machine: Machine, packages: list[Package]) -> Finding:
    name = f"target {artifact.manifest.target}"
    # On a machine without TensorRT, its graphs run on the CPU as every other graph does.
    found = (check_target if artifact.engine is not None else check_graph)(artifact.manifest.target, machine, packages)
    if not found.ok or artifact.engine is None:
        return Finding(name, found.ok, found.detail, found.mend)
    flavour = FLAVOURS[artifact.engine.flavour]
    try:
        artifact.engine.check_fits(
            flavour=flavour.name,
            version=str(find_package(packages, flavour.package, flavour.extra).found),
            compute_capability=machine.gpus[0].compute_capability,
            has_plugin=True,  # Registered by a module that nobody has named here.
        )
    except ExaoneExportError as error:
        return Finding(name, False, *without_mend(str(error)))
    return Finding(name, True, found.detail)


def _memory(artifact: Artifact, recipe: Recipe, machine: Machine) -> Finding:
    """The weights and one row's cache, the least that a session holds."""
    manifest, spec = artifact.manifest, artifact.spec
    weights = sum(record["size"] for name, record in manifest.files.items() if name.startswith("model."))
    layout = CacheLayout.from_dict(manifest.cache)
    cache = layout.num_bytes(spec.num_key_value_heads, spec.head_dim, recipe.cache_item_bytes)
    gpu = machine.gpus[0].memory if machine.gpus else None
    there = gpu if artifact.device == "cuda" else machine.available
    needed = f"{weights / 2**30:.2f} GiB of weights and {cache / 2**30:.2f} GiB of cache for one row"
    if there is None:
        return Finding("memory", None, needed)
    if weights + cache <= there:
        return Finding("memory", True, f"{needed}, of {there / 2**30:.1f} GiB")
    return Finding(
        "memory",
        False,
        f"{needed}, and {there / 2**30:.1f} GiB are available",
        "exaone-export export MODEL OUT with a smaller --max-length or --precision int4, or free memory",
    )
