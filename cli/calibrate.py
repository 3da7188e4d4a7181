"""``exaone-export calibrate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exaone_export.targets.target import CACHE_PRECISIONS

from . import options as shared
from .numbers import Count
from .output import say, tell
from .paths import MODEL, PATH
from .progress import PERCENT, show_progress
from .tables import Column, facts, grid

if TYPE_CHECKING:
    from exaone_export.exporter.calibrate.options import Options
    from exaone_export.exporter.calibrate.scales.file import ScalesFile


@click.command("calibrate")
@click.argument("model", type=MODEL)
@click.argument("out", type=PATH)
@shared.option(
    "--data",
    type=PATH,
    required=True,
    metavar="FILE.jsonl",
    help='Calibration data, one JSON object per line: {"text": …} or {"messages": […]}.',
)
@shared.option("--samples", type=Count(min=1), default=128, help="Maximum lines to read.")
@shared.option("--seq-length", type=Count(min=1), default=512, help="Maximum tokens per line; longer lines are cut.")
@shared.option("--max-tokens", type=Count(min=1), help="Maximum tokens of all lines together (default: no limit).")
@shared.option(
    "--precision",
    metavar="NAME",
    help="Precision to calibrate for: int8, fp8, int4 or int8-weights (default: the input ranges of int8 and fp8).",
)
@shared.option(
    "--method",
    default="max",
    metavar="NAME",
    help="How to choose an input's range: max, percentile, entropy or mse.",
)
@shared.option(
    "--weights",
    metavar="NAME",
    help="How to round the weights of int4 and int8-weights: nearest, gptq or awq (default: gptq for int4, else "
    "nearest).",
)
@shared.option(
    "--signed-scales",
    is_flag=True,
    help="Allow negative int4 scales, which round better; for ONNX Runtime only.",
)
@shared.option(
    "--smooth",
    default="none",
    metavar="NAME",
    help="Where to smooth the inputs of int8: none, fold (into the weight or norm before) or explicit (everywhere).",
)
@shared.option(
    "--cache",
    metavar="NAME",
    help=f"Also find scales for a KV cache in: {', '.join(CACHE_PRECISIONS)} (default: none).",
)
@shared.option(
    "--keep-layers",
    metavar="SIZE",
    help="Keep the most sensitive layers in a higher precision, for at most SIZE more: 10% of the layers' weights, or "
    "200MiB (default: none).",
)
@shared.option(
    "--sensitivity",
    metavar="NAME",
    help="How to find these layers: error of a layer's output, or kl of the model's (default: error).",
)
@shared.head
@shared.revision
@shared.overwrite
@shared.json_option()
def command(model: str, out: Path, overwrite: bool, as_json: bool, **given: Any) -> None:
    """Run calibration data through the checkpoint MODEL and write the scales file OUT.

    The file holds the input ranges that int8 and fp8 need, or the rounded weights of int4 and int8-weights. One layer's
    weights are in memory at a time, in float32. If a calibration is interrupted, run the same command again to resume
    it.

    Example: exaone-export calibrate MODEL scales.safetensors --data prompts.jsonl --precision int4
    """
    from exaone_export.exporter.calibrate.options import Options, check_destination

    chosen = Options(**{name: given.pop(name) for name in Options.__dataclass_fields__})
    check_destination(out, overwrite=overwrite)

    from exaone_export.exporter.calibrate.run import calibrate

    from .written import Stopwatch, written

    watch = Stopwatch()
    with show_progress({"calibrate": PERCENT}) as report:
        scales = calibrate(model, out, options=chosen, overwrite=overwrite, progress=report, notice=tell, **given)
    if as_json:
        say(_as_json(scales))
    else:
        say(f"{_summary(scales)}\n\n{written(out, watch.seconds, _next(model, out, chosen))}")


def _next(model: str, out: Path, options: Options) -> str:
    """The export that takes the file: products by ranges are for engines, and a cache in int8 for the processor."""
    from .written import command_line

    words = ["export", model, "OUT", "--calibration", str(out)]
    if options.cache is not None:
        words += ["--cache-precision", options.cache]
    elif not options.rounds_weights_alone:
        words += ["--target", "tensorrt"]
    if options.precision is not None or options.cache is None:
        words += ["--precision", options.precision or "int8"]
    return command_line(*words)


def _as_json(scales: ScalesFile) -> str:
    import msgspec

    found = scales.to_dict() | {
        "source": scales.source,
        "precision": scales.precision,
        "weights": scales.weights,
        "smoothed": scales.smoothed,
        "cache_format": scales.cache_format,
        "kept": scales.kept,
        "sensitivity": scales.sensitivity,
        "slices": scales.slices,
        "ranges": [{part: found.range for part, found in parts.items()} for parts in scales.ranges],
    }
    return json.dumps(msgspec.to_builtins(found, str_keys=True), indent=2)


def _summary(scales: ScalesFile) -> str:
    data = scales.data
    rows = [("data", f"{data.samples:,} samples, {data.tokens:,} tokens")]
    for part in scales.ranges[0]:
        ranges = [parts[part].range for parts in scales.ranges]
        rows.append((f"{part} inputs", f"largest magnitude {min(ranges):.3g} to {max(ranges):.3g}, by layer"))
    if scales.weights is not None:
        signed = ", with signed scales" if scales.weights.signed else ""
        rows.append(("weights", f"rounded to {scales.precision} by {scales.weights.method}{signed}"))
    if scales.sensitivity is not None:
        kept = ", ".join(map(str, scales.kept)) or "none"
        rows.append(("layers", f"kept in {next(iter(scales.kept.values()), 'a higher precision')}: {kept}"))
    summary = facts(rows)
    return f"{summary}\n\n{_slices(scales)}" if len(scales.slices) > 1 else summary


def _slices(scales: ScalesFile) -> str:
    """The share of the ranges that each slice reaches, in its worst layer: below 100%, others set the range."""
    names = ("samples", "tokens", *scales.ranges[0])
    rows = [("slice", *names)]
    for label, found in scales.slices.items():
        shares = [
            max(reach / parts[part].range for reach, parts in zip(layers, scales.ranges, strict=True))
            for part, layers in found.reach.items()
        ]
        rows.append((label, f"{found.samples:,}", f"{found.tokens:,}", *(f"{share:.0%}" for share in shares)))
    return grid([Column("", left=True), *(Column("") for _ in names)], rows)
