"""What a deployment takes in memory and on disk: weights, cache, activations, and the peaks of the three processes.

Bytes of weights and of the cache are exact: they follow from the architecture. Peaks are models of processes, in
`exaone_export.planning.process_memory`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..model.tensors import num_parameters
from . import process_memory
from .deployment import Deployment
from .stored_tensors import GROUPS, data_file_bytes

__all__ = ["CacheBytes", "MemoryPlan"]


@dataclass(frozen=True)
class CacheBytes:
    """Bytes of all rows' keys and values, by the kind of the layers.

    Attributes:
        local_layers: How many layers have a window.
        global_layers: How many see every token.
        local: Bytes of the local layers.
        global_: Bytes of the global layers.
        all_global: Bytes that it would be if every layer's cache held every token.
    """

    local_layers: int
    global_layers: int
    local: int
    global_: int
    all_global: int

    @classmethod
    def of(cls, deployment: Deployment) -> CacheBytes:
        """The caches of a deployment, as the runtime allocates them."""
        spec, layout = deployment.spec, deployment.layout
        row = 2 * deployment.batch * spec.num_key_value_heads * spec.head_dim * deployment.cache_item_bytes
        # A session whose graph does not write in place lets two sets take turns.
        row *= 1 if deployment.target.in_place else 2
        local = [cache.rows for cache in layout.layers if cache.window]
        rest = [cache.rows for cache in layout.layers if not cache.window]
        every = layout.max_length * len(layout.layers)
        return cls(len(local), len(rest), row * sum(local), row * sum(rest), row * every)

    @property
    def total(self) -> int:
        """Bytes that the runtime allocates."""
        return self.local + self.global_

    def to_dict(self) -> dict[str, int]:
        """For JSON."""
        return {
            "local_layers": self.local_layers,
            "global_layers": self.global_layers,
            "local": self.local,
            "global": self.global_,
            "total": self.total,
            "all_global": self.all_global,
        }


@dataclass(frozen=True)
class MemoryPlan:
    """All sizes of a deployment, in bytes.

    Attributes:
        deployment: What is planned.
        weights: What the graph stores, by `exaone_export.planning.stored_tensors.GROUPS`.
        weights_held: Bytes of them that are in memory when the model runs.
        cache: Keys and values.
        activations: What one step holds beside the weights and the cache, at most.
        workspace: What the process that runs the model, or the GPU, holds beside these.
        disk: The artifact's graph and data, without tokenizer files.
        engine_disk: The engine's artifact likewise; None where the target has no engine.
        export_peak: Resident memory of the export, at most.
        build_peak: Of the engine's build; None where the target has no engine.
        run_peak: Of running with a full cache: the process's memory, or what the GPU holds where a GPU runs it.
    """

    deployment: Deployment
    weights: Mapping[str, int]
    weights_held: int
    cache: CacheBytes
    activations: int
    workspace: int
    disk: int
    engine_disk: int | None
    export_peak: int
    build_peak: int | None
    run_peak: int

    @classmethod
    def of(cls, deployment: Deployment) -> MemoryPlan:
        """Plan a deployment.

        Raises:
            ConfigError: The model has no such length, or the target no such chunk.
        """
        weights: Counter[str] = Counter(dict.fromkeys(GROUPS, 0))
        for tensor in deployment.tensors:
            weights[tensor.group] += tensor.num_bytes
        cache = CacheBytes.of(deployment)
        activations, workspace = process_memory.activations(deployment), process_memory.workspace(deployment)
        return cls(
            deployment,
            dict(weights),
            process_memory.weights_held(deployment),
            cache,
            activations,
            workspace,
            data_file_bytes(iter(deployment.tensors)) + process_memory.graph_bytes(deployment),
            process_memory.engine_bytes(deployment) if deployment.makes_engine else None,
            process_memory.export_peak(deployment),
            process_memory.build_peak(deployment, cache.total) if deployment.makes_engine else None,
            process_memory.run_peak(deployment, cache.total),
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(self.weights.values())

    def without_prefill(self) -> MemoryPlan | None:
        """The plan of running without the graph for prompts; None where there is none."""
        if self.deployment.prefill is None:
            return None
        return MemoryPlan.of(replace(self.deployment, prefill=None))

    def to_dict(self) -> dict[str, Any]:
        """For JSON; all sizes are bytes."""
        deployment, without = self.deployment, self.without_prefill()
        more = {}
        if deployment.prefill is not None and without is not None:
            more = {
                "prefill": {
                    "precision": deployment.prefill.precision.name,
                    "weights_held_without": without.weights_held,
                    "peak_run_without": without.run_peak,
                }
            }
        return {
            "model": {
                "model_type": deployment.spec.model_type,
                "layers": deployment.spec.num_hidden_layers,
                "parameters": num_parameters(deployment.spec),
                "head": deployment.spec.head.kind,
                "labels": len(deployment.spec.head.labels),
            },
            "setting": {
                "target": deployment.target.name,
                "precision": deployment.recipe.precision.name,
                "compute_type": deployment.recipe.compute_type,
                "cache_type": deployment.cache_type,
                "max_length": deployment.max_length,
                "batch": deployment.batch,
                "step_tokens": deployment.step_tokens,
            },
            "weights": {**self.weights, "total": self.weight_bytes},
            "weights_held": self.weights_held,
            "cache": self.cache.to_dict(),
            "activations": self.activations,
            "workspace": self.workspace,
            "disk": {"artifact": self.disk, "engine": self.engine_disk},
            "peak": {"export": self.export_peak, "build": self.build_peak, "run": self.run_peak},
            "runs_on": "gpu" if deployment.on_gpu else "cpu",
            **more,
        }
