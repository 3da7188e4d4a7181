"""``exaone-export verify``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from . import options as shared
from .output import say
from .paths import ARTIFACT, PATH


@click.command("verify")
@click.argument("artifact", type=ARTIFACT)
@shared.option(
    "--key", "trusted_key", type=PATH, metavar="FILE", help="Ed25519 public key that must have signed the artifact."
)
@shared.json_option()
def command(artifact: str, trusted_key: Path | None, as_json: bool) -> None:
    """Check every file of ARTIFACT against the manifest and, with --key, the manifest against its signature.

    Without a key, damage is found, but not a file that was replaced together with its hash.

    Example: exaone-export verify out --key key.pub.pem
    """
    from exaone_export.artifact.reader import Artifact
    from exaone_export.artifact.signature import fingerprint, is_signed, read_public_key

    opened = Artifact.open(artifact, trusted_key=trusted_key)
    signer = None if trusted_key is None else fingerprint(read_public_key(trusted_key))
    if as_json:
        found = {"files": len(opened.manifest.files), "signed": is_signed(opened.folder), "verified_by": signer}
        say(json.dumps(found, indent=2))
        return
    files = f"{len(opened.manifest.files)} files match their hashes"
    if signer is not None:
        signed = f"signed by key {signer}"
    elif is_signed(opened.folder):
        signed = "signed, signature not checked: pass --key FILE"
    else:
        signed = "not signed"
    say(f"{artifact}: {files}; {signed}")
