"""What each target asks of the graph and of the cache: data that the pipelines read, not branches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import TargetError
from .flavour import FLAVOURS, Flavour
from .precision import FLOATS, PRECISIONS, canonical
from .provider import CPU_PROVIDER, CUDA_PROVIDER, Provider


@dataclass(frozen=True)
class Target:
    """One place where a graph runs.

    Attributes:
        name: The name on the command line and in the manifest.
        attention: What ``exaone::HybridAttention`` becomes: ``"body"`` (it stays, with its ONNX function), ``"node"``
            (it stays alone, for a plugin), ``"gqa"``, ``"gqa-fused"`` or ``"scatter"``.
        precisions: The precisions that the target runs, the default first.
        in_place: Whether past and present share one buffer; otherwise the session alternates between two.
        cache_slack: The most rows that a local layer's cache holds beyond its window.
        cache_headroom: Tokens of the longest step, where the runtime evicts after it; 0 where the graph evicts.
        ragged_steps: Whether the rows of a step may bring different numbers of tokens.
        kernels: Whether ONNX Runtime's quantized operators run the products; otherwise explicit quantization does.
        caches: Number formats that keys and values may be stored in, beside the compute type.
        provider: The execution provider of ONNX Runtime that runs the graph; where an engine is made of it, the one
            that checks its numbers without a GPU.
        flavour: What builds and runs an engine of the graph; None where ONNX Runtime runs the graph itself.
    """

    name: str
    attention: str
    precisions: tuple[str, ...]
    in_place: bool
    cache_slack: int
    cache_headroom: int = 0
    ragged_steps: bool = True
    kernels: bool = False
    caches: tuple[str, ...] = ()
    provider: Provider = CPU_PROVIDER
    flavour: Flavour | None = None

    @property
    def device(self) -> str:
        """Where what is finished runs, with its weights and its cache: ``"cpu"`` or ``"cuda"``."""
        return "cuda" if self.makes_engine else self.provider.device

    @property
    def makes_engine(self) -> bool:
        """Whether `exaone-export build` turns the artifact into an engine."""
        return self.flavour is not None

    @property
    def needs_plugin(self) -> bool:
        """Whether the graph holds nodes that only a plugin runs."""
        return self.attention == "node"

    @property
    def appends(self) -> bool:
        """Whether a step only appends to the cache, and looks at as many rows as the mask is long.

        The runtime then evicts behind the step, and every row of a buffer must be finite.
        """
        return self.attention == "scatter"

    @property
    def experts(self) -> Literal["all", "chosen", "kernel"]:
        """How sparse layers are computed: by ONNX Runtime's operator, all experts at once, or the chosen where it pays.

        Neither a captured CUDA graph nor TensorRT has branches that depend on values.
        """
        forms: dict[str, Literal["chosen", "kernel"]] = {"body": "chosen", "gqa": "kernel"}
        return forms.get(self.attention, "all")

    @property
    def opens_elsewhere(self) -> bool:
        """Whether onnxruntime-genai runs the graphs of its causal language models."""
        return self.attention.startswith("gqa")

    def engine_flavour(self) -> Flavour:
        """The flavour that builds and runs engines of this target.

        Raises:
            TargetError: No engine is made of it.
        """
        if self.flavour is None:
            others = sorted(target.name for target in TARGETS.values() if target.makes_engine)
            raise TargetError(
                f"an artifact of target {self.name} does not become an engine; run: "
                f"exaone-export export MODEL ARTIFACT --target {' or '.join(others)}."
            )
        return self.flavour

    def check_precision(self, precision: str) -> str:
        """The precision's canonical name; raises `TargetError` where this target does not run it."""
        precision = canonical(precision)
        if precision not in self.precisions:
            raise TargetError(
                f"target {self.name} does not run precision {precision!r}; choose --precision from: "
                f"{', '.join(self.precisions)}."
            )
        return precision

    def check_sparse(self, precision: str) -> None:
        """Raise `TargetError` where the target does not run sparse layers in a precision.

        Quantized experts are an operator of ONNX Runtime's processor alone: on CUDA it wants its weights in an order of
        its own, and TensorRT has no form whose numbers are checked here.
        """
        if precision in FLOATS or self.experts == "kernel":
            return
        floats = [name for name in self.precisions if name in FLOATS]
        kernels = [t.name for t in TARGETS.values() if t.experts == "kernel" and precision in t.precisions]
        other = f", or pass --target {' or '.join(kernels)}" if kernels else ""
        raise TargetError(
            f"target {self.name} does not run precision {precision!r} of a model with sparse layers; choose "
            f"--precision from: {', '.join(floats)}{other}."
        )

    def check_compute_type(self, precision: str, compute_type: str | None) -> str:
        """The type of all but the layers' products: the requested one, or the first that the target computes in.

        Raises:
            TargetError: The target does not compute in it, or the precision has no such choice.
        """
        compute_type = None if compute_type is None else canonical(compute_type)
        if precision in FLOATS:
            if compute_type not in (None, precision):
                quantized = [name for name in self.precisions if name not in FLOATS]
                choice = f", or choose --precision from: {', '.join(quantized)}" if quantized else ""
                raise TargetError(
                    f"precision {precision} is not computed in {compute_type!r}; leave --compute-type out{choice}."
                )
            return precision
        floats = [name for name in self.precisions if name in FLOATS]
        if compute_type is None:
            return floats[0]
        if compute_type not in floats:
            raise TargetError(
                f"target {self.name} does not compute in {compute_type!r}; choose --compute-type from: "
                f"{', '.join(floats)}."
            )
        return compute_type

    def check_cache_precision(self, cache_precision: str | None) -> None:
        """Raise `TargetError` where the target does not hold its cache in the requested format."""
        if cache_precision is None or cache_precision in self.caches:
            return
        others = [target.name for target in TARGETS.values() if cache_precision in target.caches]
        choice = f", or choose from: {', '.join(self.caches)}" if self.caches else ""
        choice += f", or pass --target {' or '.join(others)}" if others else ""
        raise TargetError(
            f"target {self.name} does not hold its cache in {cache_precision!r}; leave --cache-precision out{choice}."
        )

    def check_prefill_precision(self, precision: str, prefill: str | None) -> None:
        """Raise `TargetError` where this target has no second graph for prompts beside weights of ``precision``."""
        if prefill is None:
            return
        if not (self.kernels and self.device == "cpu"):
            others = [name for name, other in TARGETS.items() if other.kernels and other.device == "cpu"]
            raise TargetError(
                f"target {self.name} has no graph of its own for prompts; leave --prefill-precision out, or pass "
                f"--target {' or '.join(others)}."
            )
        if prefill not in PREFILL_PRECISIONS:
            raise TargetError(
                f"prompts do not run in {prefill!r:.40} beside another precision; choose --prefill-precision from: "
                f"{', '.join(PREFILL_PRECISIONS)}."
            )
        beside = [name for name in self.precisions if _has_vocabulary_in_blocks(name)]
        if precision not in beside:
            raise TargetError(
                f"precision {precision} gains nothing by a graph for prompts in {prefill}; leave --prefill-precision "
                f"out, or choose --precision from: {', '.join(beside)}."
            )

    def check_inline(self) -> None:
        """Raise `TargetError` where the graph carries no function whose body could take the place of its calls."""
        if self.attention != "body":
            others = [target.name for target in TARGETS.values() if target.attention == "body"]
            raise TargetError(
                f"a graph of target {self.name} carries no function to inline; leave --inline out, or pass "
                f"--target {' or '.join(others)}."
            )


def _has_vocabulary_in_blocks(name: str) -> bool:
    precision = PRECISIONS[name]
    return precision.weights is not None and precision.activations is None


PREFILL_PRECISIONS = tuple(
    precision.name for precision in PRECISIONS.values() if precision.weights == precision.activations == "int8"
)
"""Precisions of a second graph, for prompts: those whose products are fast for many tokens."""

_QUANTIZED = tuple(name for name in PRECISIONS if name not in FLOATS)
_TENSORRT = ("float16", "bfloat16", "float32", *_QUANTIZED)

TARGETS = {
    target.name: target
    for target in (
        Target("onnx", "body", ("float32", "float16", "bfloat16"), in_place=False, cache_slack=0),
        # The slack trades memory for time: a window is moved once in slack + 1 tokens.
        Target(
            "ort-cpu",
            "gqa",
            ("float32", "int8", "int4", "int8-weights"),
            in_place=True,
            cache_slack=127,
            kernels=True,
            caches=("int8",),
        ),
        # The CUDA kernel wants a local layer's capacity to be its window, and has no ragged rows up to 1.31.
        Target(
            "ort-cuda",
            "gqa-fused",
            ("float16", "bfloat16", "int4", "int8-weights"),
            in_place=True,
            cache_slack=0,
            ragged_steps=False,
            kernels=True,
            provider=CUDA_PROVIDER,
        ),
        Target(
            "tensorrt",
            "scatter",
            _TENSORRT,
            in_place=True,
            cache_slack=127,
            cache_headroom=512,
            flavour=FLAVOURS["tensorrt"],
        ),
        Target(
            "tensorrt-rtx",
            "scatter",
            _TENSORRT,
            in_place=True,
            cache_slack=127,
            cache_headroom=512,
            flavour=FLAVOURS["tensorrt_rtx"],
        ),
        Target(
            "tensorrt-plugin",
            "node",
            ("float16", "bfloat16", *_QUANTIZED),
            in_place=True,
            cache_slack=0,
            flavour=FLAVOURS["tensorrt"],
        ),
    )
}

CACHE_PRECISIONS = tuple(sorted({cache for target in TARGETS.values() for cache in target.caches}))
"""Number formats that some target stores keys and values in, beside the compute type."""


def get_target(name: str) -> Target:
    """Return the target called ``name``.

    Raises:
        TargetError: There is none.
    """
    try:
        return TARGETS[name]
    except KeyError:
        raise TargetError(f"target {name!r} is unknown; choose --target from: {', '.join(TARGETS)}.") from None
