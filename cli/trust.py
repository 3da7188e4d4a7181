"""Options and questions that commands share: whom an artifact must be signed by, and with which key one is signed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .paths import PATH

trusted_key_option = click.option(
    "--verify",
    "trusted_key",
    type=PATH,
    metavar="KEY",
    help="Open ARTIFACT only if this public key has signed it.",
)

sign_option = click.option("--sign", "key_file", type=PATH, metavar="KEY", help="Sign OUT with this private key.")


def read_signing_key(path: Path | None) -> Any:
    """The private key in a file, before the work that it is to sign; an encrypted one's passphrase is asked for."""
    if path is None:
        return None
    from exaone_export.artifact.signature import read_private_key

    def ask() -> str:
        answer: str = click.prompt(f"passphrase of {path}", hide_input=True, err=True)
        return answer

    return read_private_key(path, ask if sys.stdin.isatty() else None)
