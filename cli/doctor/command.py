"""``exaone-export doctor``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .. import options as shared
from ..output import say
from ..paths import ARTIFACT


@click.command("doctor")
@click.argument("artifact", required=False, type=ARTIFACT)
@shared.trusted_key
@shared.json_option("findings")
def command(artifact: str | None, trusted_key: Path | None, as_json: bool) -> None:
    """Check which targets run on this machine; with ARTIFACT, whether it opens and runs here.

    The first line is the verdict. What does not work is listed with the command that fixes it. The exit status is 1 if
    a required package is missing or too old, or if ARTIFACT does not open or run here.

    Example: exaone-export doctor out
    """
    from .run import examine

    if artifact is None and trusted_key is not None:
        raise click.UsageError("--verify is for an artifact; give ARTIFACT too")
    report = examine(artifact, trusted_key)
    say(json.dumps(report.to_dict(), indent=2) if as_json else report.to_text())
    if report.failed:
        raise click.exceptions.Exit(1)
