"""A parity check in Polygraphy's form: files that its tools read, and the verdict of its comparator.

Results have the graph's own names and shapes, so Polygraphy can also set them against a run of its own on the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from exaone_export.artifact.reader import MODEL_NAME, Artifact
from exaone_export.extras import needs_extra
from exaone_export.model.heads import NEXT_LOGITS
from exaone_export.targets.cache_layout import PAST, CacheLayout

from .compare import Collected, Limits, spread
from .first_step import first_step
from .json_values import json_values

if TYPE_CHECKING:
    from polygraphy.comparator import IterationResult, RunResults

ACCURACY_FILE = "accuracy.json"
INPUTS_FILE = "inputs.json"
TOKENS = "tokens"
# Empty caches are among the inputs, and JSON does not compress them.
MOST_CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class Mismatch:
    """One result that departs by more than its limit.

    Attributes:
        prompt: Index of the prompt.
        result: A name of the head's outputs, such as ``logits``, or ``tokens`` or ``layers.{i}.output``.
        largest: Largest difference from the baseline; None where the shapes differ.
        limit: What it may be; None where the shapes differ.
    """

    prompt: int
    result: str
    largest: float | None
    limit: float | None


@dataclass(frozen=True)
class Verdict:
    """The verdict of Polygraphy's comparator on one side.

    Attributes:
        baseline: Name of the side that it is compared with.
        side: Its name.
        prompts: Prompts compared.
        mismatches: Every result that departs.
    """

    baseline: str
    side: str
    prompts: int
    mismatches: list[Mismatch]

    @property
    def passed(self) -> bool:
        """Whether nothing departs."""
        return not self.mismatches

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has neither NaN nor infinity: both become None."""
        return json_values({"passed": self.passed, **asdict(self)})


def require_polygraphy() -> None:
    """Raise if Polygraphy is not installed, before any work is done.

    Raises:
        MissingExtraError: It is not installed.
    """
    with needs_extra("a comparison by Polygraphy", "polygraphy", extra="polygraphy"):
        import polygraphy.comparator  # noqa: F401


def hand_over(
    collected: dict[str, Collected], limits: dict[str, Limits], folder: Path, *, is_causal_lm: bool = True
) -> list[Verdict]:
    """Save what every side gave, and let Polygraphy compare each side with the first.

    A result passes where its largest difference is within the limit that `exaone_export.runtime.parity.compare` has for
    outputs, as a share of the standard deviation of the baseline's result; tokens pass where they are the same, or need
    not be.
    The divergence of the distributions is not Polygraphy's to judge.

    Args:
        collected: What `exaone_export.runtime.parity.compare.collect` gave; the first side is the baseline.
        limits: Of every other side.
        folder: Made where it is missing. Gets ``{side}.json``, a ``RunResults`` with one iteration a prompt, and
            ``accuracy.json``, an ``AccuracyResults``.
        is_causal_lm: Whether the last token's logits are also a result of their own, ``next_logits``. Polygraphy hands
            a graph no input that has a default, and without ``logits_to_keep`` it gives those alone.

    Returns:
        One verdict for every other side.

    Raises:
        MissingExtraError: Polygraphy is not installed.
    """
    require_polygraphy()
    from polygraphy.comparator import Comparator
    from polygraphy.logger import G_LOGGER

    folder.mkdir(parents=True, exist_ok=True)
    # Its log would repeat the verdicts on stdout; it also divides by token 0.
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(invalid="ignore"):
        runs = [_run_results(name, side, is_causal_lm) for name, side in collected.items()]
        for name, run in zip(collected, runs, strict=True):
            run.save(str(folder / f"{name}.json"))
        accuracy = Comparator.compare_accuracy(
            runs, comparisons=[(0, i) for i in range(1, len(runs))], compare_func=_WithinLimits(limits)
        )
        accuracy.save(str(folder / ACCURACY_FILE))
    (result,) = accuracy
    return [Verdict(baseline, side, len(prompts), _mismatches(prompts)) for (baseline, side), prompts in result.items()]


def save_inputs(prompts: Sequence[torch.Tensor], artifact: Artifact, folder: Path) -> None:
    """Save the prompts as inputs of an artifact's graph, one step each, in the order of `hand_over`'s iterations.

    ``polygraphy run GRAPH --load-inputs inputs.json --load-outputs SIDE.json`` runs the graph on them without this
    package. Nothing is saved for an engine, where a prompt is longer than a step of the graph may be, and where the
    empty caches would take more than a GiB.

    Args:
        prompts: ``[S]`` int64 each.
        artifact: What was compared.
        folder: Gets ``inputs.json``.

    Raises:
        MissingExtraError: Polygraphy is not installed.
    """
    require_polygraphy()
    import onnx
    from polygraphy.json import save_json
    from polygraphy.logger import G_LOGGER

    layout = CacheLayout.from_dict(artifact.manifest.cache)
    longest_step = layout.longest_step
    too_long = longest_step is not None and max(map(len, prompts)) > longest_step
    if artifact.model_path.name != MODEL_NAME or too_long:
        return
    caches = {}
    with artifact.unchanged():
        inputs = onnx.load(artifact.model_path, load_external_data=False).graph.input
    for value in inputs:
        if value.name.startswith(PAST):
            kind = value.type.tensor_type
            caches[value.name] = _zeros(
                (1, *(size.dim_value or layout.max_length for size in kind.shape.dim[1:])), kind.elem_type
            )
    if len(prompts) * sum(cache.nbytes for cache in caches.values()) > MOST_CACHE_BYTES:
        return
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        steps = [{**first_step(prompt[None].numpy()), **caches} for prompt in prompts]
        save_json(steps, str(folder / INPUTS_FILE))


class _WithinLimits:
    """Polygraphy's comparison by largest difference, with limits that follow the baseline's results."""

    def __init__(self, limits: dict[str, Limits]) -> None:
        self._limits = limits

    def __call__(self, wanted: IterationResult, found: IterationResult) -> Any:
        from polygraphy.comparator import CompareFunc

        limits = self._limits[found.runner_name]
        results = {name: torch.from_numpy(result) for name, result in wanted.items() if name != TOKENS}
        allowed = {name: limits.logits * spread(result) for name, result in results.items()}
        if limits.tokens:
            allowed[TOKENS] = 0.0
        compare = CompareFunc.simple(
            check_error_stat="max",
            atol=allowed,
            rtol=0.0,
            find_output_func=lambda name, _index, _result: [name] if name in allowed else [],
        )
        return compare(wanted, found)


def _run_results(name: str, side: Collected, is_causal_lm: bool) -> RunResults:
    from polygraphy.comparator import RunResults

    iterations = []
    for i, outputs in enumerate(side.outputs):
        results = {name: output[None].numpy() for name, output in outputs.items()}
        if is_causal_lm:
            results[NEXT_LOGITS] = results["logits"][:, -1:]
        if side.tokens[i]:
            results[TOKENS] = np.array([side.tokens[i]], np.int64)
        layers = side.layers[i] if side.layers else []
        results |= {f"layers.{k}.output": layer[None].numpy() for k, layer in enumerate(layers)}
        iterations.append(results)
    run = RunResults()
    run.add(iterations, runner_name=name)
    return run


def _mismatches(prompts: Sequence[dict[str, Any]]) -> list[Mismatch]:
    found = []
    for i, results in enumerate(prompts):
        for name, result in results.items():
            if result is False:  # the shapes differ, so nothing was measured
                found.append(Mismatch(i, name, None, None))
            elif not result:
                found.append(Mismatch(i, name, result.max_absdiff, result.thresholds.atol))
    return found


def _zeros(shape: tuple[int, ...], elem_type: int) -> Any:
    import onnx

    if elem_type == onnx.TensorProto.BFLOAT16:  # NumPy has none, and would save it as bytes without a type
        return torch.zeros(shape, dtype=torch.bfloat16)
    return np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(elem_type))
