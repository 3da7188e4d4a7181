"""Checkpoints of somebody who means harm: every command that opens one refuses it in one sentence."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from exaone_export.artifact.manifest import MANIFEST_NAME
from exaone_export.artifact.sidecars import MAX_SIDECAR_BYTES
from exaone_export.exporter.checkpoint.checkpoint import INDEX_NAME, WEIGHTS_NAME, Checkpoint
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.runtime.text import chat_templates
from tests.cli.test_cli import run
from tests.cli.test_hostile_artifacts import MOST_MEMORY, refused
from tests.conftest import TINY
from tests.manifests import put
from tests.watched import peak, reset_peak, unread

pytestmark = pytest.mark.hostile

COMMANDS = ("export", "calibrate", "parity", "parity --prompt", "eval")


@pytest.fixture(scope="module")
def artifact(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "tensorrt-rtx", max_length=512, precision="float32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    return path


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    return copy_of_tiny(tmp_path / "hostile")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("a key of the user's")
    return folder


def copy_of_tiny(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for path in Checkpoint.open(TINY).sidecars:
        shutil.copyfile(path, folder / path.name)
    shutil.copyfile(TINY / WEIGHTS_NAME, folder / WEIGHTS_NAME)
    return folder


def call(command: str, model: Path, artifact: Path, data: Path) -> Result:
    out = model.parent / "out"
    arguments: dict[str, tuple[Any, ...]] = {
        "export": (model, out, "--max-length", "64"),
        "calibrate": (model, out, "--data", data),
        "parity": (artifact, model, "--length", "4", "--tokens", "1"),
        "parity --prompt": (artifact, model, "--prompt", "hi", "--tokens", "1"),
        "eval": (artifact, model, "--data", data, "--no-generate"),
    }
    return run(command.split()[0], *arguments[command])


@pytest.fixture(scope="module", autouse=True)
def _warm(artifact: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a command loads before it looks at a checkpoint is no memory that the checkpoint has cost."""
    for command in COMMANDS:
        call(command, tmp_path_factory.mktemp("none"), artifact, data)


def _link(name: str) -> Callable[[Path, Path], None]:
    def link(folder: Path, outside: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside / "secret")

    return link


def _hard_link(folder: Path, outside: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    os.link(outside / "secret", folder / "chat_template.jinja")


def _linked_templates(folder: Path, outside: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").symlink_to(outside / "secret")


def _fifo(name: str) -> Callable[[Path, Path], None]:
    def make(folder: Path, _: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return make


def _device(folder: Path, _: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/dev/zero")


def _index(folder: Path, outside: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()
    weights = {"weight_map": {"model.norm.weight": f"../{outside.name}/secret.safetensors"}}
    (folder / INDEX_NAME).write_text(json.dumps(weights))


def _pickle(folder: Path, _: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")


def _sparse(name: str) -> Callable[[Path, Path], None]:
    return lambda folder, _: os.truncate(folder / name, 1 << 40)


def _header(header: bytes, length: int | None = None) -> Callable[[Path, Path], None]:
    def write(folder: Path, _: Path) -> None:
        size = len(header) if length is None else length
        (folder / WEIGHTS_NAME).write_bytes(size.to_bytes(8, "little") + header)

    return write


def _offsets(folder: Path, _: Path) -> None:
    data = (folder / WEIGHTS_NAME).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["model.norm.weight"]["data_offsets"] = [1 << 50, (1 << 50) + 512]
    text = json.dumps(header).encode()
    (folder / WEIGHTS_NAME).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def _json(name: str, change: Callable[[dict[str, Any], Path], Any]) -> Callable[[Path, Path], None]:
    def edit(folder: Path, outside: Path) -> None:
        content = json.loads((folder / name).read_bytes())
        change(content, outside)
        (folder / name).write_text(json.dumps(content))

    return edit


def _tokenizer(values: Callable[[Path], dict[str, Any]], *, keep: bool = True) -> Callable[[Path, Path], None]:
    def edit(folder: Path, outside: Path) -> None:
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
        config |= {"tokenizer_class": "GPT2Tokenizer", **values(outside)}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        if not keep:
            (folder / "tokenizer.json").unlink()

    return edit


def _special_tokens(folder: Path, outside: Path) -> None:
    (folder / "special_tokens_map.json").write_text(json.dumps({"vocab": str(outside / "secret")}))


def _added_tokens(folder: Path, outside: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"vocab": str(outside / "secret")}))


def _adapter(folder: Path, outside: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(outside)}))


HOSTILE: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a shard above": (_index, "which is not a safetensors file beside it"),
    "weights that are a link": (_link(WEIGHTS_NAME), "is a link to a file outside of its folder"),
    "a config that is a link": (_link("config.json"), "is a link to a file outside of its folder"),
    "a template that is a link": (_link("chat_template.jinja"), "is a link to a file outside of its folder"),
    "a licence that is a link": (_link("LICENSE"), "is a link to a file outside of its folder"),
    "another template that is a link": (_linked_templates, "is a link to a file outside of its folder"),
    "a template that is a hard link": (_hard_link, "is a hard link that shares its content"),
    "weights that are a pipe": (_fifo(WEIGHTS_NAME), "is not a regular file"),
    "a tokenizer that is a pipe": (_fifo("tokenizer.json"), "is not a regular file"),
    "a tokenizer that is a device": (_device, "is a link to a file outside of its folder"),
    "a tokenizer of a terabyte": (_sparse("tokenizer.json"), f"and at most {MAX_SIDECAR_BYTES} are read"),
    "weights of a terabyte": (_sparse(WEIGHTS_NAME), "bytes where its header needs"),
    "a header beyond the file": (_header(b"{}", 1 << 63), "ends within its header"),
    "a header nested without end": (_header(b'{"a":' * 100_000), "is nested deeper than 32 levels"),
    "a tensor beyond the file": (_offsets, "starts at byte"),
    "a pickle": (_pickle, "has pickled weights only (pytorch_model.bin), and a pickle runs code"),
    "code in the config": (
        _json("config.json", lambda c, _: c.update(auto_map={"AutoConfig": "evil.Config"})),
        "names Python code in auto_map, which is never run",
    ),
    "kernels of a repository": (
        _json("config.json", lambda c, _: c.update(attn_implementation="someone/kernels")),
        "which is code from elsewhere",
    ),
    "a billion layers": (_json("config.json", lambda c, _: c.update(num_hidden_layers=10**9)), "num_hidden_layers"),
    "code in the tokenizer config": (
        _json("tokenizer_config.json", lambda c, _: c.update(auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})),
        "names Python code in auto_map, which is never run",
    ),
    "a path in the tokenizer config": (
        _json("tokenizer_config.json", lambda c, outside: c.update(vocab_file=str(outside / "secret"))),
        "names a file in vocab_file, and only those beside it are read",
    ),
    "a vocabulary elsewhere": (
        _tokenizer(lambda outside: {"vocab": str(outside / "secret"), "merges": str(outside / "secret")}),
        "tokenizer_config.json has text in the key 'vocab', which is not known here and could name a file",
    ),
    "a vocabulary elsewhere, without a tokenizer": (
        _tokenizer(lambda outside: {"merges": str(outside / "secret")}, keep=False),
        "tokenizer_config.json has text in the key 'merges', which is not known here and could name a file",
    ),
    "a path in a list": (
        _tokenizer(lambda outside: {"init_inputs": [[str(outside / "secret")]]}),
        "has text in the key 'init_inputs', which is not known here and could name a file",
    ),
    "a path in the special tokens": (
        _special_tokens,
        "special_tokens_map.json has text in the key 'vocab', which is not known here and could name a file",
    ),
    "a path among the added tokens": (_added_tokens, "where the number of a token must be"),
    "an adapter": (_adapter, "with an adapter transformers loads another model"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_every_command_refuses(name: str, hostile: Path, outside: Path, artifact: Path, data: Path) -> None:
    change, message = HOSTILE[name]
    change(hostile, outside)
    for command in COMMANDS:
        idle = reset_peak()
        with unread(outside):
            result = call(command, hostile, artifact, data)
        assert peak() - idle < MOST_MEMORY, command
        refused(result, message, command)
        assert sorted(path.name for path in hostile.parent.iterdir()) == ["hostile", "outside"], command


def test_a_template_that_does_not_end(
    hostile: Path, artifact: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hostile / "chat_template.jinja").write_text("{{ 10 ** (10 ** 9) }}")
    templates = chat_templates.Templates(seconds=1)
    monkeypatch.setattr(chat_templates, "_shared", templates)
    try:
        for command in ("calibrate", "eval"):
            refused(call(command, hostile, artifact, data), "did not end within 1 seconds", command)
    finally:
        templates.close()


# The cache of Hugging Face, whose files are links.

REVISION = "0123abcd"
OUTSIDE = "is a link to a file outside of its folder"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder of the cache with one commit."""
    return in_cache(tmp_path / "hub" / "models--x--y")


def in_cache(folder: Path) -> Path:
    (folder / "blobs").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(REVISION)
    snapshot = copy_of_tiny(folder / "snapshots" / REVISION)
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(folder / "blobs" / str(number))
        path.symlink_to(Path("../../blobs") / str(number))
    return folder


def licence(repository: Path, target: str | Path) -> None:
    """A licence that is a link."""
    (repository / "snapshots" / REVISION / "LICENSE").symlink_to(target)


def linked_blobs(repository: Path, target: Path) -> None:
    """Blobs that are a folder of another place, with what they held put into the commit."""
    snapshot = repository / "snapshots" / REVISION
    for path in snapshot.iterdir():
        path.resolve().rename(path)
    shutil.rmtree(repository / "blobs")
    (repository / "blobs").symlink_to(target)
    licence(repository, "../../blobs/secret")


def _blobs_behind_two_links(repository: Path, outside: Path) -> None:
    repository.with_name("again").symlink_to(outside)
    linked_blobs(repository, Path("../again"))


def _blob_that_is_a_link(repository: Path, outside: Path) -> None:
    (repository / "blobs" / "x").symlink_to(outside / "secret")
    licence(repository, "../../blobs/x")


def _folder_among_blobs(repository: Path, outside: Path) -> None:
    (repository / "blobs" / "x").symlink_to(outside)
    licence(repository, "../../blobs/x/secret")


def _out_of_the_blobs(repository: Path, outside: Path) -> None:
    licence(repository, f"../../blobs/../../../{outside.name}/secret")


def _blobs_of_another_repository(repository: Path, outside: Path) -> None:
    other = repository.with_name("models--x--z") / "blobs"
    other.mkdir(parents=True)
    (outside / "secret").rename(other / "0")
    licence(repository, "../../../models--x--z/blobs/0")


def _linked_commits(repository: Path, outside: Path) -> None:
    """The commits of another folder, whose blobs are a link."""
    linked_blobs(repository, outside)
    other = repository.rename(repository.with_name("other"))
    repository.mkdir()
    (repository / "snapshots").symlink_to(other / "snapshots")


def _linked_commit(repository: Path, _: Path) -> None:
    """A commit that is a whole checkpoint of another place."""
    other = copy_of_tiny(repository.parent.parent / "private")
    shutil.rmtree(repository / "snapshots" / REVISION)
    (repository / "snapshots" / REVISION).symlink_to(other)


def _linked_repository(repository: Path, outside: Path) -> None:
    linked_blobs(repository, outside)
    other = repository.rename(repository.with_name("other"))
    repository.symlink_to(other)


def _chain(repository: Path, outside: Path) -> None:
    (repository / "snapshots" / REVISION / "here").symlink_to(".")
    (repository / "snapshots" / REVISION / "next").symlink_to(outside / "secret")
    licence(repository, "here/here/next")


def _linked_folder_of_templates(repository: Path, outside: Path) -> None:
    (outside / "secret").rename(outside / "secret.jinja")
    (repository / "snapshots" / REVISION / "additional_chat_templates").symlink_to(outside)


def _hard_link_among_blobs(repository: Path, outside: Path) -> None:
    os.link(outside / "secret", repository / "blobs" / "x")
    licence(repository, "../../blobs/x")


LAYOUTS: dict[str, Callable[[Path, Path], None]] = {
    "blobs that are a link": linked_blobs,
    "blobs that are a link to a link": _blobs_behind_two_links,
    "a blob that is a link": _blob_that_is_a_link,
    "a folder among the blobs that is a link": _folder_among_blobs,
    "a link out of the blobs": _out_of_the_blobs,
    "a link to the blobs of another repository": _blobs_of_another_repository,
    "snapshots that are a link": _linked_commits,
    "a commit that is a link": _linked_commit,
    "a repository that is a link": _linked_repository,
    "a chain of links": _chain,
    "a folder of templates that is a link": _linked_folder_of_templates,
    "a blob that is a hard link": _hard_link_among_blobs,
}


def test_nothing_is_read_through_a_cache_of_links(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    for number, (name, change) in enumerate(LAYOUTS.items()):
        place = tmp_path / str(number)
        (place / "outside").mkdir(parents=True)
        (place / "outside" / "secret").write_text("a key of the user's")
        repository = in_cache(place / "hub" / "models--x--y")
        change(repository, place / "outside")
        with unread(place / "outside"):
            result = run("export", repository / "snapshots" / REVISION, place / "out")
        refused(result, "is a hard link that shares" if change is _hard_link_among_blobs else OUTSIDE, name)
        assert not (place / "out").exists(), name
    record_property("outcomes", f"caches of the hub with links that lead out: {len(LAYOUTS)} refused, 0 files read")


def test_a_real_cache_is_opened_wherever_it_lies(repository: Path, tmp_path: Path) -> None:
    """The folder that is named may be reached through links: of the cache, a repository, or the commit."""
    commit = Path("snapshots") / REVISION
    (tmp_path / "cache").symlink_to("hub")
    moved = in_cache(tmp_path / "other disk" / "exaone")
    repository.with_name("models--x--z").symlink_to(moved)
    (tmp_path / "link").symlink_to(repository / commit)
    for folder in (
        repository / commit,
        tmp_path / "cache" / repository.name / commit,
        repository.with_name("models--x--z") / commit,
        moved / commit,
        tmp_path / "link",
        tmp_path / "cache" / ".." / "hub" / repository.name / commit,
    ):
        found = Checkpoint.open(folder)
        assert [path.name for path in found.sidecars] == [path.name for path in Checkpoint.open(TINY).sidecars]
        found.check_unchanged()


def test_a_checkpoint_without_a_tokenizer(hostile: Path, artifact: Path, data: Path) -> None:
    """It is exported with a sentence, whose command makes one; what needs a tokenizer refuses it."""
    content = json.loads((hostile / "tokenizer.json").read_bytes())
    (hostile / "tokenizer.json").unlink()
    (hostile / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer", "unk_token": "[UNK]"}')
    (hostile / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    (hostile / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, content["model"]["merges"])))
    sentence = f"{hostile} has no tokenizer.json, without which no text can be tokenized; "
    for command in ("calibrate", "parity --prompt", "eval"):
        refused(call(command, hostile, artifact, data), sentence, command)
    result = call("export", hostile, artifact, data)
    assert result.exit_code == 0, result.output
    told = next(line for line in result.stderr.splitlines() if line.startswith(sentence))
    assert "tokenizer.json" not in json.loads((hostile.parent / "out" / MANIFEST_NAME).read_bytes())["files"]
    doctor = run("doctor", hostile.parent / "out").stdout
    assert f"{hostile.parent / 'out'} has no tokenizer.json, without which no text can be tokenized" in doctor
    assert "fix: put one into the checkpoint, and export that again" in doctor
    refused(
        run("generate", hostile.parent / "out", "-p", "hi"),
        "; put one into the checkpoint, and export that",
        "generate",
    )
    arguments = shlex.split(told.partition("; copy that of the published checkpoint into it, or run: ")[2].rstrip("."))
    assert arguments[1] == "-c"
    exec(arguments[2], {})
    assert load_tokenizer(hostile)("hello there")["input_ids"] == load_tokenizer(TINY)("hello there")["input_ids"]


BOMBS: dict[str, tuple[dict[str, Any], str]] = {
    "a normalizer that multiplies": (
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"Regex": "."}, "content": "a" * 10}] * 10,
            }
        },
        "tokenizer.json has a normalizer that makes a text 441 times as long, and at most 64 may be",
    ),
    "an expression that gives up": (
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(l+l+)+x"}, "behavior": "Isolated", "invert": False}},
        "tokenizer.json does not work with the prompt (",
    ),
    "no expression": (
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": False}},
        "holds no tokenizer that can be read (Oniguruma error",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_tokenizer_that_takes_everything(name: str, hostile: Path, artifact: Path, tmp_path: Path) -> None:
    change, message = BOMBS[name]
    content = json.loads((hostile / "tokenizer.json").read_bytes())
    (hostile / "tokenizer.json").write_text(json.dumps(content | change))
    text = "l" * 60
    data = tmp_path / "texts.jsonl"
    data.write_text(json.dumps({"text": text}) + "\n")
    bad = shutil.copytree(artifact, tmp_path / "bad")
    put(bad, "tokenizer.json", (hostile / "tokenizer.json").read_bytes())
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("calibrate", (hostile, tmp_path / "out", "--data", data)),
        ("eval", (artifact, hostile, "--data", data, "--no-generate")),
        ("parity", (artifact, hostile, "--prompt", text, "--tokens", "1")),
        ("parity", (bad, TINY, "--prompt", text, "--tokens", "1")),
        ("generate", (bad, "--raw", "-p", text)),
    ]
    for command, arguments in calls:
        idle = reset_peak()
        result = run(command, *arguments)
        assert peak() - idle < 4 * MOST_MEMORY, command  # Models are open.
        assert result.exit_code in (1, 2), (command, result.output)
        last = result.stderr.splitlines()[-1]
        assert last.startswith("error: ") and (message in last or "transformers cannot use" in last), last
    assert not (tmp_path / "out").exists()
