"""The deployment to plan for, from a model's ``config.json`` and the options of an export; no weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from exaone_export.errors import CheckpointError, ConfigError, UnsupportedOptionError
from exaone_export.files import strict_json
from exaone_export.hub.names import is_hub_id
from exaone_export.model.config.head import choose_head
from exaone_export.model.config.normalized import overruled
from exaone_export.model.config.reading import MAX_CONFIG_BYTES, read_spec
from exaone_export.model.published import CHECKPOINT_TYPES, PUBLISHED
from exaone_export.model.spec import ModelSpec
from exaone_export.model.stored_names import describe_parts_left_out
from exaone_export.planning.deployment import Deployment
from exaone_export.planning.fitting import Fit, fit
from exaone_export.planning.sizes import find_gpu, gpu_memory, parse_size
from exaone_export.progress import Notice

from ..checkpoint.hub import check_no_revision, download
from ..checkpoint.weight_files import no_checkpoint
from .options import ExportOptions
from .recipe import choose_prefill, choose_recipe, choose_target

__all__ = ["read_deployment", "what_fits"]


def read_deployment(
    model: str | Path,
    options: ExportOptions | None = None,
    *,
    batch: int = 1,
    notice: Notice | None = None,
    **fields: Any,
) -> Deployment:
    """Decide what an export with these options would be, without its scales file.

    Args:
        model: A folder with a ``config.json``, a hub id, or a published size: a name of `PUBLISHED`.
        options: The options of the export; a calibration is not read.
        batch: Rows that run at once.
        notice: Told what of the model would not be exported, and what its config contradicts.
        fields: Fields of `ExportOptions`, which replace those of ``options``.

    Raises:
        ExaoneExportError: The model does not exist, or an option is invalid.
    """
    options = replace(options or ExportOptions(), **fields)
    target = choose_target(model, options)
    spec, quantization = _read_model(model, options, notice or _silent)
    recipe = replace(choose_recipe(spec, quantization, target, options), cache=options.cache_precision)
    if batch < 1:
        raise ConfigError(f"batch is {batch}; it must be at least 1: pass --batch 1 or more.")
    length = spec.max_position_embeddings if options.max_length is None else options.max_length
    prefill = choose_prefill(spec, quantization, target, recipe, options)
    deployment = Deployment(spec, target, recipe, length, options.prefill_chunk, batch, prefill)
    _ = deployment.layout  # refuses a length or a chunk that the model or the target does not take
    return deployment


def what_fits(deployment: Deployment, *, gpu: str | None = None, memory: str | None = None) -> dict[str, Fit]:
    """The context and batch of a deployment that fit a given memory, by the memory's name.

    Args:
        deployment: What is to run.
        gpu: A GPU's name, or its size.
        memory: The size of the machine's memory.

    Raises:
        ConfigError: A size cannot be read, or is of a memory that the target does not run in.
        TargetError: The GPU does not run the target's engines.
    """
    if gpu is not None and not deployment.on_gpu:
        raise ConfigError(f"target {deployment.target.name} runs on the CPU: pass --memory instead of --gpu.")
    if memory is not None and deployment.on_gpu:
        raise ConfigError(f"target {deployment.target.name} runs on a GPU: pass --gpu instead of --memory.")
    fits = {}
    if gpu is not None:
        if deployment.makes_engine and (known := find_gpu(gpu)) is not None:
            deployment.target.engine_flavour().check_gpu(known.compute_capability)
        fits[f"GPU {gpu}"] = fit(deployment, gpu_memory(gpu))
    if memory is not None:
        fits["memory"] = fit(deployment, parse_size(memory))
    return fits


def _read_model(model: str | Path, options: ExportOptions, notice: Notice) -> tuple[ModelSpec, Any]:
    """The architecture, and how the checkpoint is quantized if it is."""
    folder = Path(model).expanduser()
    if model != "" and folder.is_dir():
        check_no_revision(folder, options.revision)
        path = folder / "config.json"
        if not path.exists():
            raise CheckpointError(no_checkpoint(folder))
    elif str(model).lower() in PUBLISHED:
        if options.revision is not None:
            raise UnsupportedOptionError(
                f"{model} is a published size, which has no revision {options.revision!r}; leave --revision out, or "
                f"give a hub id."
            )
        published = PUBLISHED[str(model).lower()].to_config() | {"architectures": None}
        if (parts := describe_parts_left_out(CHECKPOINT_TYPES[str(model).lower()])) is not None:
            notice(f"{model}: {parts}.")
        return read_spec(choose_head(published, options.head, hidden_states=options.hidden_states)), None
    elif is_hub_id(str(model)):
        path = download(str(model), options.revision, ["config.json"]) / "config.json"
    else:
        raise CheckpointError(
            f"{model} is neither a folder with a config.json, a hub id such as LGAI-EXAONE/EXAONE-4.0-1.2B, nor one of "
            f"{', '.join(PUBLISHED)}; check the path."
        )
    config = strict_json.read_object(path, max_bytes=MAX_CONFIG_BYTES, error=ConfigError)
    parts = describe_parts_left_out(str(config.get("model_type")))
    config = choose_head(config, options.head, hidden_states=options.hidden_states)
    spec = read_spec(config)
    for sentence in (*overruled(config), *([] if parts is None else [parts])):
        notice(f"config.json: {sentence}.")
    if config.get("quantization_config") is not None and any(path.parent.glob("*.safetensors")):
        from ..checkpoint.checkpoint import Checkpoint

        # The tensors say which projections are quantized.
        checkpoint = Checkpoint.open(path.parent, head=options.head, hidden_states=options.hidden_states)
        return checkpoint.spec, checkpoint.quantization
    return spec, _quantization(config)


def _silent(_sentence: str) -> None:
    """Tell nobody."""


def _quantization(config: Mapping[str, Any]) -> Any:
    if config.get("quantization_config") is None:
        return None
    from ..checkpoint.prequantized.config import read_form

    form = read_form(config)
    assert form is not None
    return form.quantization
