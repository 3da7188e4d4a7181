"""``exaone-export verify``."""

from __future__ import annotations

from pathlib import Path

import click

from .output import say
from .paths import PATH


@click.command("verify")
@click.argument("artifact", type=PATH)
@click.option(
    "--key",
    "trusted_key",
    type=PATH,
    metavar="FILE",
    help="The public key of the one who must have signed it.",
)
def command(artifact: Path, trusted_key: Path | None) -> None:
    """Check every file of ARTIFACT against its manifest, and with --key the manifest against its signature.

    Without a key, the check finds damage and what no export writes, not somebody who writes hashes that hold.
    """
    from exaone_export.artifact.reader import Artifact
    from exaone_export.artifact.signature import fingerprint, is_signed, read_public_key

    opened = Artifact.open(artifact, trusted_key=trusted_key)
    files = f"{len(opened.manifest.files)} files have their hashes"
    if trusted_key is not None:
        signed = f"signed by key {fingerprint(read_public_key(trusted_key))}"
    elif is_signed(opened.folder):
        signed = "signed, by whom was not checked: pass --key FILE"
    else:
        signed = "not signed"
    say(f"{artifact}: {files}; {signed}")
