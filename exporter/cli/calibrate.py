"""``exaone-export calibrate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exaone_export.exporter.cli.progress import show_progress

if TYPE_CHECKING:
    from exaone_export.exporter.scales_file import ScalesFile


@click.command("calibrate")
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.jsonl",
    help='Prompts {"text": …} or chats {"messages": […]}, one a line.',
)
@click.option("--samples", type=click.IntRange(min=1), default=128, show_default=True, help="The most lines to read.")
@click.option(
    "--seq-length", type=click.IntRange(min=1), default=512, show_default=True, help="Where each is cut, in tokens."
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Where all of them together are cut.")
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
) -> None:
    """Run prompts through the checkpoint MODEL and write the scales file OUT.

    The file holds how large the inputs of every layer's products become; the precisions int8 and fp8 need it. One
    layer's weights are in memory at a time, in float32.
    """
    from exaone_export.exporter.calibrate import calibrate

    with show_progress() as report:
        scales = calibrate(
            model,
            out,
            data=data,
            samples=samples,
            seq_length=seq_length,
            max_tokens=max_tokens,
            revision=revision,
            overwrite=overwrite,
            progress=report,
        )
    click.echo(_as_json(scales) if as_json else _summary(scales, out))


def _as_json(scales: ScalesFile) -> str:
    ranges = [{part: found.range for part, found in parts.items()} for parts in scales.ranges]
    return json.dumps(scales.to_dict() | {"source": scales.source, "ranges": ranges}, indent=2)


def _summary(scales: ScalesFile, out: Path) -> str:
    data = scales.data
    lines = [f"wrote {out}: {len(scales.ranges)} layers, {data.samples} samples, {data.tokens:,} tokens"]
    for part in scales.ranges[0]:
        ranges = [parts[part].range for parts in scales.ranges]
        lines.append(f"{part:<8} inputs reach {min(ranges):.3g} to {max(ranges):.3g}")
    return "\n".join(lines)
