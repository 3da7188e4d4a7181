"""``exaone-export doctor``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..output import say
from ..paths import PATH
from ..trust import trusted_key_option


@click.command("doctor")
@click.argument("artifact", required=False, type=PATH)
@trusted_key_option
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(artifact: Path | None, trusted_key: Path | None, as_json: bool) -> None:
    """Say what is installed and which targets run here; of ARTIFACT, whether it opens and runs here.

    What does not work comes with the command that mends it. The exit status is 1 where a package that everything needs
    is missing or too old, or where ARTIFACT does not open or run here.
    """
    from .run import examine

    if artifact is None and trusted_key is not None:
        raise click.UsageError("--verify is for an artifact: give ARTIFACT too.")
    report = examine(artifact, trusted_key)
    say(json.dumps(report.to_dict(), indent=2) if as_json else report.to_text())
    if report.failed:
        raise click.exceptions.Exit(1)
