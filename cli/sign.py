"""``exaone-export sign``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options as shared
from .output import say
from .paths import PATH


@click.command("sign")
@click.argument("artifact", type=PATH)
@shared.option("--key", "key_file", type=PATH, required=True, metavar="FILE", help="Ed25519 private key in PEM form.")
def command(artifact: Path, key_file: Path) -> None:
    """Sign ARTIFACT with an Ed25519 key: check every file's hash, then write exaone_export.json.sig.

    Make a key pair with: openssl genpkey -algorithm ed25519 -out key.pem, then openssl pkey -in key.pem -pubout -out
    key.pub.pem. Keep key.pem; others verify with key.pub.pem.

    Example: exaone-export sign out --key key.pem
    """
    from exaone_export.artifact.manifest import SIGNATURE_NAME
    from exaone_export.artifact.reader import Artifact
    from exaone_export.artifact.signature import fingerprint, write_signature

    from .written import Stopwatch, command_line, written

    watch, key = Stopwatch(), shared.read_signing_key(key_file)
    opened = Artifact.open(artifact)
    write_signature(opened.folder, opened.manifest.to_json(), key)
    signature = opened.folder / SIGNATURE_NAME
    then = command_line("verify", artifact, "--key", "key.pub.pem")
    signed = f"{artifact} with key {fingerprint(key.public_key())}"
    say(written(signature, watch.seconds, then, ("signed", signed)))
