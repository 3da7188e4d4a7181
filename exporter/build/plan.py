"""The plan of a build: all that is decided and checked before TensorRT parses the graph."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import exaone_export
from exaone_export.artifact.manifest import Manifest
from exaone_export.artifact.reader import MODEL_NAME, Artifact
from exaone_export.errors import TargetError
from exaone_export.planning.deployment import Deployment
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.engine import EngineInfo
from exaone_export.targets.flavour import Flavour
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import get_target

from .gpu import Gpu, current_gpu
from .options import BuildOptions
from .plugins import check_plugin_option, load_plugin
from .profiles import plan_profiles


@dataclass(frozen=True)
class BuildPlan:
    """All that a build decides before it parses the graph.

    Attributes:
        source: The artifact that the engine is built from.
        flavour: The library that builds it.
        trt: The library's module.
        info: The manifest's record of the engine.
        workspace: Bytes of GPU memory that a kernel may use as scratch space; None for TensorRT's own limit.
        timing_cache: The file of the builder's timings.
    """

    source: Artifact
    flavour: Flavour
    trt: Any
    info: EngineInfo
    workspace: int | None
    timing_cache: Path | None

    @property
    def deployment(self) -> Deployment:
        """The deployment that memory and disk are planned for."""
        manifest, profile = self.source.manifest, self.info.profiles[0]
        layout = CacheLayout.from_dict(manifest.cache)
        return Deployment(
            self.source.spec,
            get_target(manifest.target),
            Recipe.from_dict(manifest.recipe),
            layout.max_length,
            prefill_chunk=layout.longest_step,
            batch=profile.batch.maximum,
        )

    @property
    def manifest(self) -> Manifest:
        """The manifest of the engine's artifact, which lists no files yet."""
        manifest = self.source.manifest
        return msgspec.structs.replace(
            manifest,
            exaone_export_version=exaone_export.__version__,
            tool_versions=manifest.tool_versions | {self.flavour.package: self.info.version},
            files={},
            parity=None,
            engine=self.info.to_dict(),
        )


def plan_build(artifact: str | Path, options: BuildOptions | None = None, **fields: Any) -> BuildPlan:
    """Open the artifact and decide what is built.

    Args:
        artifact: A folder that an export to a TensorRT target has written.
        options: The options of the build.
        fields: Fields of `BuildOptions`, which replace those of ``options``.

    Raises:
        ExaoneExportError: The artifact or an option cannot be used, or the library is not installed.
    """
    options = dataclasses.replace(options or BuildOptions(), **fields)
    source = Artifact.open(artifact, trusted_key=options.trusted_key)
    target = get_target(source.manifest.target)
    flavour = target.engine_flavour()
    if source.engine is not None:
        raise TargetError(f"{source.folder} is already an engine; give the artifact that it was built from.")
    if options.timing_cache is not None and not flavour.timing_cache:
        raise TargetError(f"{flavour.title} has no timing cache; leave --timing-cache out.")
    check_plugin_option(target, flavour, options.plugin)
    layout = CacheLayout.from_dict(source.manifest.cache)
    profiles = plan_profiles(layout, options.max_batch, options.prefill_chunk, options.exact_decode)
    trt = flavour.load()
    if options.plugin is not None:
        load_plugin(trt, flavour, options.plugin)
    gpu = current_gpu()
    info = EngineInfo(
        flavour=flavour.name,
        version=trt.__version__,
        compute_capabilities=_choose_capabilities(trt, flavour, options.compute_capabilities, gpu),
        driver=None if gpu is None else gpu.driver,
        profiles=profiles,
        options={"exact_decode": options.exact_decode, "workspace_gib": options.workspace},
        plugin=options.plugin is not None,
        onnx={name: record["sha256"] for name, record in source.manifest.files.items() if name.startswith(MODEL_NAME)},
    )
    return BuildPlan(
        source,
        flavour,
        trt,
        info,
        None if options.workspace is None else int(options.workspace * 2**30),
        None if options.timing_cache is None else Path(options.timing_cache).expanduser(),
    )


def _choose_capabilities(trt: Any, flavour: Flavour, asked: Collection[str], gpu: Gpu | None) -> tuple[str, ...] | None:
    """Compute capabilities that the engine will run on; None for all that a portable engine serves."""
    if flavour.portable:
        for name in asked:
            capability(trt, flavour, name)
        if gpu is not None and not asked:
            flavour.check_gpu(
                gpu.compute_capability, ", or name the GPU that will run the engine, such as --compute-capability 8.9"
            )
        return tuple(sorted(set(asked), key=lambda name: tuple(map(int, name.split("."))))) or None
    if asked:
        raise TargetError(f"{flavour.title} builds for the GPU that it runs on; leave --compute-capability out.")
    if gpu is None:
        raise TargetError(
            f"{flavour.title} builds on the GPU that runs the engine, and this machine has none; build on that "
            f"machine, or run: exaone-export export MODEL ARTIFACT --target tensorrt-rtx."
        )
    return (gpu.compute_capability,)


def capability(trt: Any, flavour: Flavour, name: str) -> Any:
    """The value of ``trt.ComputeCapability`` for a name such as ``"8.9"``.

    Raises:
        TargetError: There is none.
    """
    known = {
        f"{member[2:-1]}.{member[-1]}": member for member in trt.ComputeCapability.__members__ if member[:2] == "SM"
    }
    if name not in known:
        if re.fullmatch(r"\d+\.\d", name):
            flavour.check_gpu(name)
        raise TargetError(
            f"{flavour.title} {trt.__version__} cannot build for compute capability {name!r}; choose "
            f"--compute-capability from: {', '.join(known)}, or leave it out."
        )
    return trt.ComputeCapability.__members__[known[name]]
