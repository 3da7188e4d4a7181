"""``exaone-export package``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options as shared
from .output import say
from .paths import ARTIFACT, PATH

FORMATS = ("triton",)


@click.command("package")
@click.argument("artifact", type=ARTIFACT)
@click.argument("out", type=PATH)
@shared.option("--format", "form", type=click.Choice(FORMATS), default="triton", help="What is written.")
@shared.option("--name", metavar="NAME", default="exaone", help="The model's name on the server.")
@shared.threads
def command(artifact: str, out: Path, form: str, name: str, threads: int | None) -> None:
    """Write ARTIFACT as a model repository of a server into the folder OUT, with a copy of the artifact.

    Example: exaone-export package out repository --format triton
    """
    from exaone_export.exporter.package.triton import package_for_triton

    folder = package_for_triton(artifact, out, name=name, threads=threads)
    say(f"wrote  {folder}\nnext   tritonserver --model-repository {folder}")
