"""Pushing to a hub, and opening what lies there, in processes that know a server of the test as the hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.exporter.publish.hub_server import HubServer

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer()
    yield server
    server.close()


@pytest.fixture
def run(hub: HubServer, tmp_path: Path) -> Run:
    def call(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": "hf_test",
            "HF_HUB_DISABLE_XET": "1",
        }
        command = [sys.executable, "-m", "exaone_export", *map(str, arguments)]
        return subprocess.run(command, env=env | more, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return call


@pytest.fixture
def artifact(export_artifact: Callable[..., Path], save_model: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(export_artifact(save_model(), "ort-cpu"), tmp_path / "art"))


def put(hub: HubServer, artifact: Path) -> None:
    hub.exists, hub.files = True, {path.name: path.read_bytes() for path in artifact.iterdir()}


def test_a_push_is_one_commit_and_is_not_repeated(hub: HubServer, run: Run, artifact: Path) -> None:
    ended = run("push", artifact, "org/model", "--private", "--base-model", "LGAI-EXAONE/EXAONE-4.0-1.2B")
    assert ended.returncode == 0, ended.stderr
    assert hub.private and hub.commits == 1
    assert {path.name: path.read_bytes() for path in artifact.iterdir()} == {
        name: data for name, data in hub.files.items() if name != "README.md"
    }
    card = hub.files["README.md"].decode()
    for field in ("license: other", "license_name: exaone", "base_model: LGAI-EXAONE/EXAONE-4.0-1.2B"):
        assert field in card
    uploaded = list(hub.uploads)
    assert len(uploaded) == 2
    assert run("push", artifact, "org/model").returncode == 0
    assert hub.uploads == uploaded
    assert run("verify", "org/model").returncode == 0


def test_a_broken_upload_leaves_no_commit_and_goes_on(hub: HubServer, run: Run, artifact: Path) -> None:
    hub.failing_uploads = 1
    broken = run("push", artifact, "org/model")
    assert broken.returncode == 1
    assert hub.commits == 0 and not hub.files
    assert "defect" not in broken.stderr
    before = len(hub.uploads)
    assert run("push", artifact, "org/model").returncode == 0
    assert len(hub.uploads) == 2 and before <= 1


def test_a_damaged_artifact_is_not_pushed(hub: HubServer, run: Run, artifact: Path) -> None:
    data = artifact / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\1")
    assert "sha256 differs" in run("push", artifact, "org/model").stderr
    assert not hub.exists and not hub.uploads


def test_a_repository_of_something_else_is_left_alone(hub: HubServer, run: Run, artifact: Path) -> None:
    hub.exists, hub.files = True, {"model.safetensors": b"weights", "config.json": b"{}"}
    assert "is not an artifact's; choose another name" in run("push", artifact, "org/model").stderr
    assert hub.commits == 0 and not hub.uploads


def test_stale_files_go_and_the_card_of_another_stays(hub: HubServer, run: Run, artifact: Path) -> None:
    put(hub, artifact)
    hub.files |= {"README.md": b"# Mine", "exaone_export.json.sig": b"x" * 64}
    assert run("push", artifact, "org/model").returncode == 0
    assert hub.files["README.md"] == b"# Mine"
    assert "exaone_export.json.sig" not in hub.files


@pytest.mark.parametrize(("status", "said"), [(401, "hf auth login"), (403, "may not write")])
def test_refusals_are_one_sentence(hub: HubServer, run: Run, artifact: Path, status: int, said: str) -> None:
    hub.status = status
    ended = run("push", artifact, "org/model")
    assert ended.returncode == 1
    assert said in ended.stderr and "defect" not in ended.stderr


def test_an_artifact_opens_by_its_name_and_offline(hub: HubServer, run: Run, artifact: Path) -> None:
    put(hub, artifact)
    hub.files |= {"README.md": b"# Card", "extra.bin": b"0" * 100}
    shown = run("inspect", "org/model", "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["target"] == "ort-cpu"
    assert not {"README.md", "extra.bin"} & set(hub.fetched)
    assert hub.fetched[0] == "exaone_export.json"
    fetched = list(hub.fetched)
    assert run("verify", "org/model@main").returncode == 0
    assert hub.fetched == fetched
    assert run("verify", "org/model", HF_HUB_OFFLINE="1").returncode == 0
    hub.close()
    assert run("verify", "org/model").returncode == 0


@pytest.mark.hostile
def test_a_changed_file_is_refused(hub: HubServer, run: Run, artifact: Path) -> None:
    put(hub, artifact)
    data = hub.files["model.onnx.data"]
    hub.files["model.onnx.data"] = data[:-1] + bytes([data[-1] ^ 1])
    assert "sha256 differs); run: hf cache rm model/org/model" in run("verify", "org/model").stderr


@pytest.mark.hostile
def test_a_size_other_than_listed_is_refused_before_the_download(hub: HubServer, run: Run, artifact: Path) -> None:
    put(hub, artifact)
    hub.sizes["model.onnx.data"] = 1 << 50
    assert "its manifest lists" in run("verify", "org/model").stderr
    assert "model.onnx.data" not in hub.fetched
    hub.sizes["exaone_export.json"] = 1 << 40
    hub.fetched.clear()
    assert "more than" in run("verify", "org/model").stderr
    assert not hub.fetched


@pytest.mark.hostile
def test_names_in_a_listing_reach_no_other_folder(hub: HubServer, run: Run, artifact: Path, tmp_path: Path) -> None:
    put(hub, artifact)
    hub.files["../../../../evil"] = b"evil"
    assert run("verify", "org/model").returncode == 0
    assert not list(tmp_path.rglob("evil"))


def test_names_that_the_hub_does_not_have(hub: HubServer, run: Run) -> None:
    assert "the hub shows no such model" in run("verify", "org/model").stderr
    hub.exists, hub.files = True, {"config.json": b"{}"}
    assert "on the hub it is not an artifact" in run("verify", "org/model").stderr
    offline = run("verify", "org/other", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in offline.stderr and "defect" not in offline.stderr


def test_a_local_folder_of_that_name_wins(hub: HubServer, run: Run, artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, tmp_path / "org" / "model")
    assert run("verify", "org/model").returncode == 0
    assert not hub.fetched


@pytest.mark.hostile
def test_links_are_followed_into_the_blobs_of_their_repository_alone(artifact: Path, tmp_path: Path) -> None:
    from exaone_export.artifact.reader import Artifact
    from exaone_export.errors import ArtifactError

    repository = tmp_path / "cache" / "models--org--model"
    snapshot, blobs, store = repository / "snapshots" / ("a" * 40), repository / "blobs", tmp_path / "cache" / "blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    for path in artifact.iterdir():
        shutil.copy(path, blobs / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert Artifact.open(snapshot).folder == snapshot
    # What repositories share: a link in the blobs leads to the store of the cache.
    name = "ab" + "0" * 62
    (store / "ab").mkdir(parents=True)
    (blobs / "model.onnx.data").rename(store / "ab" / name)
    (blobs / "model.onnx.data").symlink_to(f"../../blobs/ab/{name}")
    with pytest.raises(ArtifactError, match="is a link"):
        Artifact.open(snapshot)
    (store / ".huggingface-shared-blobs").write_text("1\n")
    opened = Artifact.open(snapshot)
    with pytest.raises(ArtifactError, match="hf download"):
        opened.check_recordable()
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(artifact / "config.json")
    with pytest.raises(ArtifactError, match="is a link"):
        Artifact.open(snapshot)
