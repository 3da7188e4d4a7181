"""``exaone-export calibrate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exaone_export.targets.target import CACHE_PRECISIONS

from .numbers import Count
from .output import say, tell
from .paths import MODEL, PATH
from .progress import show_progress

if TYPE_CHECKING:
    from exaone_export.exporter.calibrate.scales.file import ScalesFile


@click.command("calibrate")
@click.argument("model", type=MODEL)
@click.argument("out", type=PATH)
@click.option(
    "--data",
    type=PATH,
    required=True,
    metavar="FILE.jsonl",
    help='Prompts {"text": …} or chats {"messages": […]}, one a line.',
)
@click.option("--samples", type=Count(min=1), default=128, show_default=True, help="The most lines to read.")
@click.option("--seq-length", type=Count(min=1), default=512, show_default=True, help="Where each is cut, in tokens.")
@click.option("--max-tokens", type=Count(min=1), help="Where all of them together are cut.")
@click.option(
    "--precision",
    metavar="NAME",
    help="What the file is for: int8, fp8, int4 or int8-weights. Without it: the ranges of int8 and fp8 inputs.",
)
@click.option(
    "--method",
    default="max",
    show_default=True,
    metavar="NAME",
    help="How an input's range is chosen: max, percentile, entropy or mse.",
)
@click.option(
    "--weights",
    metavar="NAME",
    help="How the weights of int4 and int8-weights are rounded: nearest, gptq (int4's default) or awq.",
)
@click.option(
    "--signed-scales",
    is_flag=True,
    help="Let scales of int4 be negative, which rounds better; ONNX Runtime takes them and TensorRT does not.",
)
@click.option(
    "--smooth",
    default="none",
    show_default=True,
    metavar="NAME",
    help="Where int8's inputs are smoothed: none, fold (by the weight in front) or explicit (everywhere).",
)
@click.option("--cache", metavar="NAME", help=f"Find scales for a cache in: {', '.join(CACHE_PRECISIONS)}.")
@click.option(
    "--keep-layers",
    metavar="SIZE",
    help="What the worst layers may cost in a higher precision: 10% of the layers' weights, 200MB.",
)
@click.option(
    "--sensitivity",
    metavar="NAME",
    help="How the worst layers are found: error (of a layer's output, the default) or kl (of the model's).",
)
@click.option("--revision", help="Branch, tag or commit, where MODEL is a hub id.")
@click.option("--overwrite", is_flag=True, help="Replace a file that stands at OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    model: str,
    out: Path,
    data: Path,
    samples: int,
    seq_length: int,
    max_tokens: int | None,
    revision: str | None,
    overwrite: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Run prompts through the checkpoint MODEL and write the scales file OUT.

    The file holds how large the inputs of every layer's products become, which the precisions int8 and fp8 need, and
    with --precision int4 the weights themselves, rounded so that the outputs change least. One layer's weights are in
    memory at a time, in float32. A run that was killed goes on where it was when the same command is given again.
    """
    from exaone_export.exporter.calibrate.run import Options, calibrate

    options = Options(**chosen)
    with show_progress() as report:
        scales = calibrate(
            model,
            out,
            data=data,
            options=options,
            samples=samples,
            seq_length=seq_length,
            max_tokens=max_tokens,
            revision=revision,
            overwrite=overwrite,
            progress=report,
            notice=tell,
        )
    say(_as_json(scales) if as_json else _summary(scales, out))


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


def _summary(scales: ScalesFile, out: Path) -> str:
    data = scales.data
    lines = [f"wrote {out}: {len(scales.ranges)} layers, {data.samples} samples, {data.tokens:,} tokens"]
    for part in scales.ranges[0]:
        ranges = [parts[part].range for parts in scales.ranges]
        lines.append(f"{part:<8} inputs reach {min(ranges):.3g} to {max(ranges):.3g}")
    if scales.weights is not None:
        points = ", with signed scales" if scales.weights.signed else ""
        lines.append(f"weights  rounded to {scales.precision} by {scales.weights.method}{points}")
    if scales.sensitivity is not None:
        kept = ", ".join(map(str, scales.kept)) or "none"
        lines.append(f"layers   kept in {next(iter(scales.kept.values()), 'a higher precision')}: {kept}")
    if len(scales.slices) > 1:
        lines.append(_slices(scales))
    return "\n".join(lines)


def _slices(scales: ScalesFile) -> str:
    """The share of the ranges that each slice reaches, in its worst layer: below 100%, others set the range."""
    width = max(map(len, ("slice", *scales.slices)))
    rows = [f"{'slice':<{width}}  samples  tokens  " + "  ".join(f"{part:>8}" for part in scales.ranges[0])]
    for label, found in scales.slices.items():
        shares = [
            max(reach / parts[part].range for reach, parts in zip(layers, scales.ranges, strict=True))
            for part, layers in found.reach.items()
        ]
        cells = "  ".join(f"{share:>8.0%}" for share in shares)
        rows.append(f"{label:<{width}}  {found.samples:>7,}  {found.tokens:>6,}  {cells}")
    return "\n".join(rows)
