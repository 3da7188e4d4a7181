"""Signing on the command line, and what may be opened then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from exaone_export.artifact.manifest import SIGNATURE_NAME
from exaone_export.artifact.reader import MODEL_NAME, Artifact
from exaone_export.errors import SignatureError
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from tests.cli.test_cli import run
from tests.conftest import TINY
from tests.core.artifact.test_signature import write_keys
from tests.manifests import edit_manifest


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_keys(tmp_path_factory.mktemp("keys"), "mine")


@pytest.fixture(scope="module")
def signed(
    export_artifact: Callable[..., Path], keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    artifact = export_artifact(TINY, "tensorrt-rtx", max_length=512, precision="float32")
    folder = shutil.copytree(artifact, tmp_path_factory.mktemp("signed") / "artifact")
    result = run("sign", folder, "--key", keys[0])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"signed  {folder} with key ")
    return folder


def test_verify_says_what_was_checked(signed: Path, keys: tuple[Path, Path]) -> None:
    name = run("sign", signed, "--key", keys[0]).stdout.splitlines()[0].split()[-1]
    files = f"{len(Artifact.open(signed).manifest.files)} files match their hashes"
    result = run("verify", signed, "--key", keys[1])
    assert (result.exit_code, result.stdout) == (0, f"{signed}: {files}; signed by key {name}\n")
    count = len(Artifact.open(signed).manifest.files)
    for words, by in (["--key", keys[1]], name), ([], None):
        found = json.loads(run("verify", signed, "--json", *words).stdout)
        assert found == {"files": count, "signed": True, "verified_by": by}
    result = run("verify", signed)
    assert result.stdout == f"{signed}: {files}; signed, signature not checked: pass --key FILE\n"


@pytest.mark.parametrize(
    "command",
    ["generate", "parity", "eval", "bench", "inspect", "build", "package", "push", "verify", "doctor"],
)
def test_every_command_wants_the_signature_that_is_asked_for(
    command: str, signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    forged = shutil.copytree(signed, tmp_path / "forged")
    edit_manifest(forged, lambda manifest: manifest["source"].update(name="somebody else's"))
    more: dict[str, tuple[object, ...]] = {
        "generate": ("-p", "hi"),
        "parity": (TINY,),
        "eval": (TINY, "--data", __file__),
        "build": (tmp_path / "engine",),
        "package": (tmp_path / "engine",),
        "push": ("org/name",),
    }
    option = "--key" if command == "verify" else "--verify"
    result = run(command, forged, *more.get(command, ()), option, keys[1])  # type: ignore[arg-type]
    assert result.exit_code == 1
    message = "one of the two files was changed"
    assert message in (result.stdout if command == "doctor" else result.stderr.splitlines()[-1])
    assert not (tmp_path / "engine").exists()


def test_a_signed_artifact_is_run(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    with ExaoneForCausalLM.from_pretrained(signed, threads=1, trusted_key=keys[1]) as model:
        assert model.max_length == 512
    with pytest.raises(SignatureError, match="another key made it"):
        ExaoneForCausalLM.from_pretrained(signed, trusted_key=write_keys(tmp_path, "theirs")[1])


def test_an_engine_is_signed_as_it_is_built(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr("exaone_export.exporter.build.engine._build", lambda *_: b"an engine")
    result = run("build", signed, tmp_path / "engine", "--verify", keys[1], "--sign", keys[0], "--prefill-chunk", "16")
    assert result.exit_code == 0, result.output
    assert Artifact.open(tmp_path / "engine", trusted_key=keys[1]).engine is not None


def test_an_export_is_signed(keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("export", TINY, tmp_path / "out", "--max-length", "64", "--sign", keys[0])
    assert result.exit_code == 0, result.output
    assert Artifact.open(tmp_path / "out", trusted_key=keys[1]).manifest.target == "ort-cpu"
    monkeypatch.setattr("exaone_export.exporter.export.export", lambda *_, **__: pytest.fail("work was done"))
    result = run("export", TINY, tmp_path / "other", "--sign", keys[1])
    assert result.exit_code == 2
    assert "is not a private key in PEM form; make a key with: openssl genpkey" in result.stderr


def test_a_record_is_refused_before_the_comparison(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exaone_export.runtime.parity.compare.collect", lambda *_, **__: pytest.fail("work was done"))
    result = run("parity", signed, TINY, "--record")
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: {signed} is signed, and a record in its manifest would break the signature; remove {SIGNATURE_NAME}, "
        "record, and sign again.\n"
    )


def test_damage_is_not_signed(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(signed, tmp_path / "damaged")
    (folder / SIGNATURE_NAME).unlink()
    data = bytearray((folder / MODEL_NAME).read_bytes())
    data[100] ^= 1
    (folder / MODEL_NAME).write_bytes(data)
    result = run("sign", folder, "--key", keys[0])
    assert result.exit_code == 1
    assert "sha256 differs" in result.stderr
    assert not (folder / SIGNATURE_NAME).exists()


def test_an_encrypted_key_without_a_terminal(signed: Path, tmp_path: Path) -> None:
    private, _ = write_keys(tmp_path, "locked", "open sesame")
    result = run("sign", signed, "--key", private)
    assert result.exit_code == 2
    assert "is encrypted, and its passphrase can only be entered" in result.stderr
