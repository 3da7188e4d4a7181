"""A signature holds for one key and one manifest, and is asked for before anything else is read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exaone_export.artifact import checks as artifact_checks
from exaone_export.artifact import known_hashes, signature
from exaone_export.artifact import reader as artifact_module
from exaone_export.artifact.manifest import SIGNATURE_NAME
from exaone_export.artifact.reader import MANIFEST_NAME, MODEL_NAME, Artifact
from exaone_export.artifact.signature import fingerprint, is_signed, read_private_key, read_public_key, write_signature
from exaone_export.artifact.writer import ArtifactWriter
from exaone_export.errors import ArtifactError, KeyFileError, SignatureError
from tests.core.artifacts import FILES, MANIFEST, content, fill, leftovers, write
from tests.manifests import edit_manifest, put

PEM = serialization.Encoding.PEM


def write_keys(folder: Path, name: str, passphrase: str | None = None) -> tuple[Path, Path]:
    """A private and a public key file."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    private.touch(0o600)
    private.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption))
    public.write_bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path, "mine")


@pytest.fixture
def out(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    """A signed artifact."""
    write(tmp_path / "out")
    opened = Artifact.open(tmp_path / "out")
    write_signature(opened.folder, opened.manifest.to_json(), read_private_key(keys[0]))
    return tmp_path / "out"


def refused(folder: Path, key: Path, message: str, error: type[Exception] = SignatureError) -> None:
    with pytest.raises(error) as caught:
        Artifact.open(folder, trusted_key=key)
    text = str(caught.value)
    assert message in text
    assert text.endswith(".")
    assert "\n" not in text


def test_weights_of_a_required_signature_are_hashed_at_every_start(
    out: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    real = artifact_checks.hash_of
    monkeypatch.setattr(artifact_checks, "hash_of", lambda path, check: hashed.append(path.name) or real(path, check))
    monkeypatch.setattr(known_hashes, "_STEP", -(10**12))  # as if every file had lain for long
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for key, times in ((keys[1], 2), (None, 0)):  # the hash is known after the first start without a key
        Artifact.open(out, trusted_key=key, weights_later=True).check_weights()
        with Artifact.open(out, weights_later=True).checking_weights():
            pass
        hashed.clear()
        for _ in range(2):
            with Artifact.open(out, trusted_key=key, weights_later=True).checking_weights():
                pass
        assert hashed.count("model.onnx.data") == times


def test_a_signed_artifact_opens(out: Path, keys: tuple[Path, Path]) -> None:
    assert Artifact.open(out, trusted_key=keys[1]).manifest == Artifact.open(out).manifest
    assert (out / SIGNATURE_NAME).stat().st_size == 64
    assert is_signed(out)
    assert sorted(content(out)) == sorted([*FILES, MANIFEST_NAME, SIGNATURE_NAME])
    assert len(fingerprint(read_public_key(keys[1]))) == 16


def test_openssl_checks_and_makes_the_same(out: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    check = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys[1], "-rawin", "-in", out / MANIFEST_NAME]
    done = subprocess.run([*check, "-sigfile", out / SIGNATURE_NAME], check=True, capture_output=True, text=True)
    assert "Signature Verified Successfully" in done.stdout
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "key.pem"], check=True)
    public = ["openssl", "pkey", "-in", tmp_path / "key.pem", "-pubout", "-out", tmp_path / "key.pub.pem"]
    subprocess.run(public, check=True)
    make = ["openssl", "pkeyutl", "-sign", "-inkey", tmp_path / "key.pem", "-rawin", "-in", out / MANIFEST_NAME]
    subprocess.run([*make, "-out", out / SIGNATURE_NAME], check=True)
    Artifact.open(out, trusted_key=tmp_path / "key.pub.pem")


def test_another_key(out: Path, tmp_path: Path) -> None:
    refused(out, write_keys(tmp_path, "theirs")[1], "is not a signature of this exaone_export.json by key")


def test_no_signature(out: Path, keys: tuple[Path, Path]) -> None:
    (out / SIGNATURE_NAME).unlink()
    refused(out, keys[1], f"{out} has no signature (exaone_export.json.sig), and one by key ")
    Artifact.open(out)


@pytest.mark.parametrize("size", [0, 63, 65, 1 << 40])
def test_a_signature_of_another_length(out: Path, keys: tuple[Path, Path], size: int) -> None:
    os.truncate(out / SIGNATURE_NAME, size)
    refused(out, keys[1], "is not a signature, which is a file of 64 bytes; get the artifact again")


def test_a_signature_that_is_no_file(out: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    (out / SIGNATURE_NAME).rename(tmp_path / "elsewhere")
    (out / SIGNATURE_NAME).symlink_to(tmp_path / "elsewhere")
    refused(out, keys[1], "is not a signature")
    (out / SIGNATURE_NAME).unlink()
    os.mkfifo(out / SIGNATURE_NAME)
    refused(out, keys[1], "is not a signature")


def test_every_bit_of_the_signature_counts(out: Path, keys: tuple[Path, Path]) -> None:
    original = (out / SIGNATURE_NAME).read_bytes()
    for bit in range(0, 512, 7):
        changed = bytearray(original)
        changed[bit // 8] ^= 1 << bit % 8
        (out / SIGNATURE_NAME).write_bytes(changed)
        refused(out, keys[1], "signature of this")


def test_a_manifest_that_was_changed_and_sealed_again(out: Path, keys: tuple[Path, Path]) -> None:
    put(out, MODEL_NAME, b"another graph")
    Artifact.open(out)
    refused(out, keys[1], "one of the two files was changed")


def test_a_file_that_was_changed(out: Path, keys: tuple[Path, Path]) -> None:
    (out / "config.json").write_bytes(b"[]")
    refused(out, keys[1], "sha256 differs", ArtifactError)


def test_nothing_else_is_read_before_the_signature_holds(
    out: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_manifest(out, lambda manifest: manifest.update(target="onnx"))
    monkeypatch.setattr(artifact_module.Manifest, "from_json", lambda _: pytest.fail("parsed"))
    monkeypatch.setattr(artifact_checks, "hash_of", lambda *_: pytest.fail("hashed"))
    refused(out, keys[1], "signature of this")


def test_hashes_are_not_left_out(out: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="a signature covers hashes, which verify=False does not compute"):
        Artifact.open(out, verify=False, trusted_key=keys[1])


def test_the_signature_appears_with_the_artifact_and_leaves_with_it(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    with ArtifactWriter(tmp_path / "out") as staging:
        fill(staging.path)
        staging.commit(MANIFEST, read_private_key(keys[0]))
    Artifact.open(tmp_path / "out", trusted_key=keys[1])
    write(tmp_path / "out", overwrite=True)
    assert not is_signed(tmp_path / "out")
    assert leftovers(tmp_path) == []


def test_a_record_does_not_break_a_signature(out: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(ArtifactError, match=r"is signed, and a record in its manifest would break the signature; rem"):
        Artifact.open(out).record_parity({"passed": True})
    Artifact.open(out, trusted_key=keys[1])


def test_a_signature_is_replaced_whole(
    out: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = read_private_key(write_keys(tmp_path, "theirs")[0])
    manifest = (out / MANIFEST_NAME).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(signature.os, "fsync", full)
        with pytest.raises(ArtifactError, match="cannot be written \\(No space left on device\\); make the folder"):
            write_signature(out, manifest, other)
    with pytest.raises(ArtifactError, match="changed while it was signed"):
        write_signature(out, manifest + b" ", other)
    assert leftovers(out) == []
    Artifact.open(out, trusted_key=keys[1])


def test_an_encrypted_key(tmp_path: Path) -> None:
    private, _ = write_keys(tmp_path, "locked", "open sesame")
    assert read_private_key(private, lambda: "open sesame")
    with pytest.raises(KeyFileError, match="cannot be decrypted with this passphrase"):
        read_private_key(private, lambda: "open")
    with pytest.raises(KeyFileError, match="is encrypted, and its passphrase can only be entered"):
        read_private_key(private)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
@pytest.mark.parametrize("passphrase", [None, "open sesame"])
def test_a_private_key_that_others_may_use_is_refused(tmp_path: Path, mode: int, passphrase: str | None) -> None:
    folder = tmp_path / "my keys"
    folder.mkdir()
    private, public = write_keys(folder, "open", passphrase)
    private.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"other users may .* \(its mode is {mode:04o}\)") as caught:
        read_private_key(private, lambda: "open sesame")
    command = str(caught.value).split("run: ")[1].split(", and make")[0]
    assert subprocess.run(command, shell=True).returncode == 0
    assert read_private_key(private, lambda: "open sesame")
    public.chmod(0o644)
    assert read_public_key(public)


def test_a_private_key_of_another_owner_is_left_to_its_owner(keys: tuple[Path, Path]) -> None:
    """A key that a machine's owner hands out by a group, as secrets are mounted into containers."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    keys[0].chmod(0o440)
    os.chown(keys[0], 12345, os.getegid())
    assert read_private_key(keys[0])


def test_files_that_are_no_keys(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    other = rsa.generate_private_key(65537, 1024)
    form = serialization.PrivateFormat.PKCS8
    (tmp_path / "rsa.pem").touch(0o600)
    (tmp_path / "rsa.pem").write_bytes(other.private_bytes(PEM, form, serialization.NoEncryption()))
    public = other.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "rsa.pub.pem").write_bytes(public)
    (tmp_path / "none.pem").write_bytes(b"hello")
    os.mkfifo(tmp_path / "fifo.pem")
    for read, name, message in [
        (read_private_key, "rsa.pem", "holds a private key that is not Ed25519"),
        (read_private_key, "none.pem", "is not a private key in PEM form"),
        (read_private_key, "mine.pub.pem", "is not a private key in PEM form"),
        (read_private_key, "gone.pem", "does not exist"),
        (read_private_key, "fifo.pem", "is not a regular file"),
        (read_public_key, "rsa.pub.pem", "holds a public key that is not Ed25519"),
        (read_public_key, "none.pem", "is not a public key in PEM form"),
        (read_public_key, "mine.pem", "holds a private key, which only the signer needs"),
        (read_public_key, "fifo.pem", "is not a regular file"),
    ]:
        with pytest.raises(KeyFileError, match=message) as caught:
            read(tmp_path / name)  # type: ignore[operator]
        assert str(caught.value).endswith(".")
