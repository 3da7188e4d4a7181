"""``exaone-export sign``."""

from __future__ import annotations

from pathlib import Path

import click

from .output import say
from .paths import PATH
from .trust import read_signing_key


@click.command("sign")
@click.argument("artifact", type=PATH)
@click.option("--key", "key_file", type=PATH, required=True, metavar="FILE", help="The private key.")
def command(artifact: Path, key_file: Path) -> None:
    """Sign ARTIFACT: write exaone_export.json.sig, which says who vouches for every byte of the folder.

    Every file's hash is checked first. The key is Ed25519 in PEM form; openssl genpkey -algorithm ed25519 -out key.pem
    makes one, and openssl pkey -in key.pem -pubout -out key.pub.pem takes out the half that others verify with.
    """
    from exaone_export.artifact.reader import Artifact
    from exaone_export.artifact.signature import fingerprint, write_signature

    key = read_signing_key(key_file)
    opened = Artifact.open(artifact)
    write_signature(opened.folder, opened.manifest.to_json(), key)
    say(f"signed {artifact} by key {fingerprint(key.public_key())}")
