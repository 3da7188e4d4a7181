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

from exaone_export import load_tokenizer
from exaone_export.runtime.mirror.text import tokenizer as mirror_tokenizer
from tests.conftest import TINY
from tests.exporter.publish.forked import Forked
from tests.exporter.publish.hub_server import HubServer
from tests.manifests import put as put_file

Run = Callable[..., "subprocess.CompletedProcess[str]"]


ENVIRONMENT = {"HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"}


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    server = HubServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="module")
def forked(server: HubServer, home: Path) -> Iterator[Forked]:
    env = os.environ | ENVIRONMENT | {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(home)}
    forked = Forked(env)
    yield forked
    forked.close()


@pytest.fixture
def hub(server: HubServer, home: Path) -> HubServer:
    server.reset()
    shutil.rmtree(home)
    home.mkdir()
    return server


@pytest.fixture
def run(hub: HubServer, home: Path, forked: Forked, tmp_path: Path) -> Run:
    """A command; in a process of its own where it has an environment of its own."""

    def call(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        if not more:
            return forked.run([*map(str, arguments)], tmp_path)
        env = os.environ | ENVIRONMENT | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home)}
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


def test_an_upload_that_is_cut_off_is_one_sentence_and_goes_on(hub: HubServer, run: Run, artifact: Path) -> None:
    hub.cut_uploads = 1
    cut = run("push", artifact, "org/model")
    assert cut.returncode == 1 and hub.commits == 0 and not hub.files
    assert "run the command again" in cut.stderr and "defect" not in cut.stderr
    assert run("push", artifact, "org/model").returncode == 0
    assert hub.files["model.onnx.data"] == (artifact / "model.onnx.data").read_bytes()


def test_a_download_that_is_cut_off_is_one_sentence_and_goes_on(hub: HubServer, run: Run, artifact: Path) -> None:
    put(hub, artifact)
    hub.cut_downloads = 1
    cut = run("verify", "org/model")
    assert cut.returncode == 1 and "defect" not in cut.stderr
    assert "it cannot be downloaded" in cut.stderr
    hub.status = None
    fetched = list(hub.fetched)
    assert run("verify", "org/model").returncode == 0
    again = hub.fetched[len(fetched) :]
    assert "model.onnx.data" in again and "exaone_export.json" not in again


@pytest.mark.hostile
@pytest.mark.parametrize("name", ["../../../../evil", "/{home}/evil", "..", "a/../../evil", ""])
@pytest.mark.parametrize("where", ["etags", "hashes"])
def test_hashes_that_are_no_names_reach_no_file(
    where: str, name: str, hub: HubServer, run: Run, artifact: Path, home: Path
) -> None:
    put(hub, artifact)
    getattr(hub, where)["config.json"] = name.format(home=home)
    before = {path for path in home.parent.rglob("*") if home not in path.parents}
    said = run("verify", "org/model").stderr
    assert "as the hash of a file, which would lead out of the cache; check HF_ENDPOINT" in said
    assert {path for path in home.parent.rglob("*") if home not in path.parents} == before
    assert not list(home.rglob("evil*"))


def test_a_tokenizer_opens_by_its_name_without_the_model(
    hub: HubServer, run: Run, artifact: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        put_file(artifact, name, (TINY / name).read_bytes())
    put(hub, artifact)
    program = "from exaone_export.artifact.location import locate; print(locate('org/model@main', with_model=False))"
    located = run("-c", program).stdout.strip()
    assert "tokenizer.json" in hub.fetched and not {"model.onnx", "model.onnx.data"} & set(hub.fetched)
    asked: list[object] = []
    monkeypatch.setattr(mirror_tokenizer, "locate", lambda *name, **how: asked.append((name, how)) or Path(located))
    assert load_tokenizer("org/model@main")("Hello")["input_ids"] == load_tokenizer(TINY)("Hello")["input_ids"]
    assert asked == [(("org/model@main",), {"with_model": False})]
    shutil.rmtree(home / "hub")
    hub.files["tokenizer.json"] = hub.files["tokenizer.json"].replace(b"Isolated", b"isolated")
    assert "its sha256 differs); run: hf cache rm model/org/model" in run("-c", program).stderr


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
    assert run("verify", "org/model", HF_ENDPOINT="http://127.0.0.1:9").returncode == 0


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
