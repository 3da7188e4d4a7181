"""A signature over an artifact's manifest, which holds the hash of every file: Ed25519 (RFC 8032).

The signature is a file of its own beside the manifest, 64 bytes, over the manifest's exact bytes; OpenSSL makes and
checks the same. A signature names the signer, not the time: an older artifact with the same key is accepted too.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError, KeyFileError, SignatureError
from ..files import strict_json
from ..files.containment import in_hub_cache, status_of
from ..files.durable import replacing
from ..files.folder_locks import without_writers
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = [
    "SIGNATURE_BYTES",
    "as_private_key",
    "check_signature",
    "check_writable",
    "fingerprint",
    "is_signed",
    "read_private_key",
    "read_public_key",
    "write_signature",
]

SIGNATURE_BYTES = 64
_MAX_KEY_BYTES = 64 << 10
_MAKE = "openssl genpkey -algorithm ed25519 -out key.pem"
_EXTRACT = "openssl pkey -in key.pem -pubout -out key.pub.pem"


def as_private_key(key: Ed25519PrivateKey | str | os.PathLike[str] | None) -> Ed25519PrivateKey | None:
    """The key that signs, read from its file where a path is given; None for none.

    Raises:
        KeyFileError: As `read_private_key`, or ``key`` is something else.
    """
    if key is None:
        return None
    if isinstance(key, str | os.PathLike):
        return read_private_key(key)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(
            f"the signing key is of type {type(key).__name__}; pass an Ed25519 private key, or the path of one in PEM "
            f"form."
        )
    return key


def read_private_key(path: str | os.PathLike[str], passphrase: Callable[[], str] | None = None) -> Ed25519PrivateKey:
    """Read the key that signs.

    Args:
        path: A PEM file (PKCS #8).
        passphrase: Gives the passphrase; called if the file is encrypted.

    Raises:
        KeyFileError: The file cannot be read, others may read it, it holds no such key, or is encrypted and the
            passphrase is not its own.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = Path(path).expanduser()
    data = strict_json.read_bytes(path, max_bytes=_MAX_KEY_BYTES, error=KeyFileError)
    if b"PRIVATE KEY-----" in data:
        _check_private(path)
    secret = None
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data:
        if passphrase is None:
            raise KeyFileError(
                f"{path} is encrypted, and its passphrase can only be entered at a terminal; decrypt it with: "
                f"{_DECRYPT}."
            )
        secret = passphrase().encode()
    try:
        key = load_pem_private_key(data, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm) as cause:
        why = "cannot be decrypted with this passphrase" if secret is not None else "is not a private key in PEM form"
        raise KeyFileError(f"{path} {why}; make a key with: {_MAKE}.") from cause
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds a private key that is not Ed25519; make one with: {_MAKE}.")
    return key


def _check_private(path: Path) -> None:
    """Refuse a key of this user's that others may use, as ssh does; another owner's is not this user's to change."""
    try:
        status = path.stat()
    except OSError as cause:
        raise KeyFileError(f"{path} cannot be read ({cause.strerror}); check the path.") from cause
    if status.st_uid == os.geteuid() and (mode := stat.S_IMODE(status.st_mode)) & 0o077:
        raise KeyFileError(
            f"{path} is a private key that other users may read or write (its mode is {mode:04o}); run: chmod 600 "
            f"{shlex.quote(str(path))}, and make a new key if somebody may have read it."
        )


_DECRYPT = "openssl pkey -in key.pem -out plain.pem"


def read_public_key(path: str | Path) -> Ed25519PublicKey:
    """Read the key that a signature is checked with.

    Args:
        path: A PEM file (SubjectPublicKeyInfo).

    Raises:
        KeyFileError: The file cannot be read, or holds no such key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    path = Path(path).expanduser()
    data = strict_json.read_bytes(path, max_bytes=_MAX_KEY_BYTES, error=KeyFileError)
    if b"PRIVATE KEY-----" in data:
        raise KeyFileError(
            f"{path} holds a private key, which only the signer needs; pass the public key, made with: {_EXTRACT}."
        )
    try:
        key = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as cause:
        raise KeyFileError(
            f"{path} is not a public key in PEM form; take it from the private one: {_EXTRACT}."
        ) from cause
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{path} holds a public key that is not Ed25519; take it from one that is: {_EXTRACT}.")
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """The first 16 hexadecimal digits of the sha256 of the key's 32 bytes: a name to compare, not a proof."""
    import hashlib

    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def check_writable(folder: Path) -> None:
    """Raise ArtifactError for a folder of the Hugging Face cache, which must hold what the hub holds."""
    if in_hub_cache(folder):
        raise ArtifactError(
            f"{folder} lies in the cache of the Hugging Face hub, which is not written to; download a copy: "
            f"hf download ORG/NAME --local-dir OUT."
        )


def is_signed(folder: Path) -> bool:
    """Whether a signature lies beside the manifest; it is not checked."""
    return os.path.lexists(folder / SIGNATURE_NAME)


def check_signature(folder: Path, manifest: bytes, key: Any) -> None:
    """Raise unless the folder's signature over these bytes is this key's.

    Args:
        folder: The artifact.
        manifest: The manifest's bytes, as they lie in the file.
        key: Of `read_public_key`.

    Raises:
        SignatureError: There is no signature, it is not a regular file of 64 bytes, or it was made with another key
            or over another manifest.
    """
    from cryptography.exceptions import InvalidSignature

    path = folder / SIGNATURE_NAME
    try:
        status = status_of(path)
    except OSError as cause:
        raise SignatureError(
            f"{folder} has no signature ({SIGNATURE_NAME}), and one by key {fingerprint(key)} is required; get the "
            f"signed artifact, or run where the private key is: exaone-export sign ARTIFACT --key FILE."
        ) from cause
    if not stat.S_ISREG(status.st_mode) or status.st_size != SIGNATURE_BYTES:
        raise SignatureError(f"{path} is not a signature, which is a file of {SIGNATURE_BYTES} bytes; {_AGAIN}.")
    signature = strict_json.read_bytes(path, max_bytes=SIGNATURE_BYTES, error=SignatureError)
    try:
        key.verify(signature, manifest)
    except InvalidSignature as cause:
        raise SignatureError(
            f"{path} is not a signature of this {MANIFEST_NAME} by key {fingerprint(key)}: another key made it, or one "
            f"of the two files was changed; {_AGAIN}."
        ) from cause


_AGAIN = "get the artifact again from its signer"


def write_signature(folder: Path, manifest: bytes, key: Any) -> None:
    """Write a signature over these bytes into the folder; an existing one stays until the new one is whole.

    Raises:
        ArtifactError: The file cannot be written, or the manifest has changed.
    """
    path = folder / SIGNATURE_NAME
    check_writable(folder)
    try:
        with without_writers(folder), replacing(path) as file:
            file.write(key.sign(manifest))
            found = strict_json.read_bytes(folder / MANIFEST_NAME, max_bytes=MAX_MANIFEST_BYTES, error=ArtifactError)
            if found != manifest:
                raise ArtifactError(f"{folder / MANIFEST_NAME} changed while it was signed; run the command again.")
    except OSError as cause:
        raise ArtifactError(f"{path} cannot be written ({cause.strerror}); make the folder writable.") from cause
