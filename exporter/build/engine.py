"""Artifact to engine, in five steps: plan, parse, check, build, write."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from exaone_export.artifact.manifest import Manifest
from exaone_export.artifact.reader import ENGINE_NAME
from exaone_export.artifact.signature import as_private_key
from exaone_export.artifact.writer import ArtifactWriter
from exaone_export.errors import ArtifactError, TargetError
from exaone_export.progress import Notice, Progress, silent

from ..plan.preflight import build_shortfall, refuse
from .destination import check_apart, check_destination
from .gpu import current_gpu
from .layer_report import LAYERS_NAME, layers_of_engine, layers_of_network, write_report
from .messages import make_logger
from .monitor import make_monitor, run_monitored
from .network.ignored_inputs import check_no_input_ignored
from .network.native_layers import check_native_layers, check_plugin_layers
from .network.node_words import describe_node, layers_of_nodes
from .network.parsing import ParsedNetwork, parse
from .options import BuildOptions
from .plan import BuildPlan, capability, plan_build
from .profiles import add_profile
from .timing_cache import timing_cache


def parse_and_check(plan: BuildPlan, warn: Notice | None = None) -> ParsedNetwork:
    """Parse the artifact's graph, and check the network against the model.

    Args:
        plan: What is built.
        warn: Told every warning of the parser.

    Raises:
        TargetError: TensorRT cannot parse the graph.
        GraphContradictionError: The network is not the model.
    """
    path = plan.source.graph_path
    try:
        graph = ir.load(path).graph
    except Exception as cause:  # the ONNX parser's errors, of many types
        raise ArtifactError(f"{path} cannot be read as ONNX; export the model again.") from cause
    layers = layers_of_nodes(graph)
    logger = make_logger(plan.trt)
    try:
        parsed = parse(plan.trt, plan.flavour, path, layers, logger)
    finally:
        _pass_on(logger, layers, warn)
    (check_plugin_layers if plan.info.plugin else check_native_layers)(parsed.wiring, plan.source.spec)
    check_no_input_ignored(graph, parsed.parser, parsed.wiring)
    return parsed


def build_engine(
    artifact: str | Path,
    out: str | Path,
    options: BuildOptions | None = None,
    *,
    overwrite: bool = False,
    plan_check: bool = True,
    progress: Progress | None = None,
    warn: Notice | None = None,
    signing_key: Any = None,
    **fields: Any,
) -> Manifest:
    """Build the engine of an artifact, into an artifact of its own.

    Args:
        artifact: A folder that an export to a TensorRT target has written.
        out: The artifact folder to make; it appears whole or not at all.
        options: The options of the build.
        overwrite: Whether an artifact at ``out`` may be replaced.
        plan_check: Whether a build that this machine's disk or memory is too small for is refused before it begins.
        progress: Told how far the work is.
        warn: Told every warning of TensorRT.
        signing_key: As `exaone_export.exporter.export.export` takes it, to sign the engine's artifact.
        fields: Fields of `BuildOptions`, such as ``max_batch``, which replace those of ``options``.

    Returns:
        The manifest that was written.

    Raises:
        CapacityError: The disk or the memory is too small.
        ExaoneExportError: The artifact, an option, the graph or the destination is refused, or TensorRT cannot build.
        KeyboardInterrupt: The build was interrupted; nothing is left of it.
    """
    report = progress or silent
    check_destination(artifact, out, overwrite=overwrite)
    signing_key = as_private_key(signing_key)
    report("open", 0, 1)
    plan = plan_build(artifact, options, **fields)
    check_apart(plan.source.folder, out)  # once more, because one of the hub lies in a folder too
    if plan_check:
        refuse(build_shortfall(plan.deployment, out))
    with ArtifactWriter(out, overwrite=overwrite) as staging:
        report("parse", 0, 1)
        # The artifact is read here and not later, because it may be replaced while the engine is built.
        with plan.source.unchanged():
            for name in plan.source.manifest.files.keys() - plan.info.onnx.keys():
                shutil.copyfile(plan.source.folder / name, staging.path / name)
            parsed = parse_and_check(plan, warn)
        engine = _build(plan, parsed, report, warn)
        report("write", 0, 1)
        _write(plan, parsed, engine, staging.path, warn)
        del engine, parsed  # Both hold the weights.
        report("commit", 0, 1)
        return staging.commit(plan.manifest, signing_key)


def _build(plan: BuildPlan, parsed: ParsedNetwork, report: Progress, warn: Notice | None) -> Any:
    """Build the serialized engine, a buffer."""
    trt, config = plan.trt, parsed.builder.create_builder_config()
    # The layer report and profilers show a layer's name, type and shapes only if the engine holds them.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if plan.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace)
    taken = []
    if plan.flavour.portable and plan.info.compute_capabilities is not None:
        config.num_compute_capabilities = len(plan.info.compute_capabilities)
        for index, name in enumerate(plan.info.compute_capabilities):
            taken.append(config.set_compute_capability(capability(trt, plan.flavour, name), index))
    taken += [add_profile(parsed.builder, config, parsed.network, profile) for profile in plan.info.profiles]
    if not all(taken):
        raise _refusal(plan, parsed.logger)
    monitor = make_monitor(trt, lambda phase, done, total: report(f"build: {phase.lower()}", done, total))
    config.progress_monitor = monitor
    try:
        with timing_cache(config, plan.timing_cache):
            engine = run_monitored(lambda: parsed.builder.build_serialized_network(parsed.network, config), monitor)
    finally:
        _pass_on(parsed.logger, {}, warn)
    if engine is None:
        raise _refusal(plan, parsed.logger)
    return engine


def _refusal(plan: BuildPlan, logger: Any) -> TargetError:
    return TargetError(
        f"{plan.flavour.title} {plan.info.version} could not build the engine: {logger.errors() or 'no reason given'}; "
        f"change the option that this names, or the target."
    )


def _write(plan: BuildPlan, parsed: ParsedNetwork, engine: Any, folder: Path, warn: Notice | None) -> None:
    with (folder / ENGINE_NAME).open("wb") as file:
        file.write(memoryview(engine))
    source, layers = "network", layers_of_network(parsed.network)
    if current_gpu() is not None:
        of_engine = layers_of_engine(plan.trt, parsed.logger, engine)
        if of_engine is not None:
            source, layers = "engine", of_engine
        elif warn is not None:
            warn(f"the engine cannot be loaded here, so {LAYERS_NAME} lists the network: {parsed.logger.errors()}")
    with (folder / LAYERS_NAME).open("w", encoding="utf-8") as text:
        write_report(text, source, layers)


def _pass_on(logger: Any, layers: Mapping[str, int], warn: Notice | None) -> None:
    """Pass warnings on; errors stay in the logger, for the exception."""
    for message in logger.take_warnings():
        if warn is not None:
            where = f"{describe_node(message.node, message.operator, layers)}: " if message.node else ""
            warn(f"{where}{message.text}")
