"""``exaone-export package``."""

from __future__ import annotations

import shlex
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
@shared.trusted_key
def command(artifact: str, out: Path, form: str, name: str, threads: int | None, trusted_key: Path | None) -> None:
    """Write ARTIFACT as a model repository of a server into the folder OUT, with a copy of the artifact.

    Example: exaone-export package out repository --format triton
    """
    from exaone_export.exporter.package.triton import package_for_triton

    folder = package_for_triton(artifact, out, name=name, threads=threads, trusted_key=trusted_key)
    say(f"wrote  {folder}\nnext   {shlex.join(['tritonserver', '--model-repository', str(folder)])}")
