"""``exaone-export push``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options as shared
from .output import say
from .paths import PATH, PathArgument

_RESULT = PathArgument(exists=True, dir_okay=False)


@click.command("push")
@click.argument("artifact", type=PATH)
@click.argument("repo")
@shared.option("--private", is_flag=True, help="Make the repository private, if it is made.")
@shared.option("--revision", metavar="NAME", help="Branch to commit to, made if it does not exist (default: main).")
@shared.option("--message", metavar="TEXT", help="Commit message (default: Push an artifact of exaone-export).")
@shared.option(
    "--base-model", metavar="ID", help="The checkpoint's hub id (default: that of the export, if it had one)."
)
@shared.option("--license", metavar="NAME", help="Licence, as the hub names it (default: the base model's).")
@shared.option("--license-name", metavar="NAME", help="Its name, if --license is other.")
@shared.option("--license-link", metavar="URL", help="Where its text is.")
@shared.option("--parity", type=_RESULT, metavar="FILE", help="Result of parity --json, for the card.")
@shared.option("--bench", type=_RESULT, metavar="FILE", help="Result of bench --json, for the card.")
@shared.trusted_key
def command(
    artifact: Path,
    repo: str,
    private: bool,
    revision: str | None,
    message: str | None,
    parity: Path | None,
    bench: Path | None,
    trusted_key: Path | None,
    **fields: Any,
) -> None:
    """Publish ARTIFACT on the Hugging Face hub as REPO (ORG/NAME), with a model card.

    Every file is checked first. All appear in one commit, and a push that was interrupted goes on where it was. Log in
    with: hf auth login

    Example: exaone-export push out ORG/NAME --private
    """
    from exaone_export.exporter.publish.card import CardFields, read_result
    from exaone_export.exporter.publish.push import push

    results: dict[str, Any] = {
        "parity": None if parity is None else read_result(parity, "parity"),
        "bench": None if bench is None else read_result(bench, "bench"),
    }
    options = {} if message is None else {"message": message}
    card = CardFields(**fields, **results)
    address = push(artifact, repo, private=private, revision=revision, fields=card, trusted_key=trusted_key, **options)
    at = repo if revision is None else f"{repo}@{revision}"
    say(f"pushed  {address}\nnext    exaone-export inspect {at}")
