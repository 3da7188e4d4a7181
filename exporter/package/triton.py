"""A Triton model repository around an artifact, for the server's Python backend."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from exaone_export.artifact.manifest import MANIFEST_NAME, SIGNATURE_NAME
from exaone_export.artifact.reader import Artifact
from exaone_export.artifact.signature import is_signed
from exaone_export.errors import ArtifactError, TargetError, UnsupportedOptionError
from exaone_export.files.durable import sync, write_synced
from exaone_export.files.staged_folder import StagedFolder
from exaone_export.runtime.runner.eligible import check_runs_here

__all__ = ["INPUTS", "OUTPUTS", "package_for_triton"]

INPUTS = {
    "prompt": ("TYPE_STRING", 1, "text, used as it is"),
    "messages": ("TYPE_STRING", 1, "JSON list of chat messages; instead of prompt"),
    "max_new_tokens": ("TYPE_INT32", 1, "maximum tokens of the answer"),
    "temperature": ("TYPE_FP32", 1, "sampling temperature; 0 is greedy"),
    "top_p": ("TYPE_FP32", 1, "nucleus to sample from"),
    "top_k": ("TYPE_INT32", 1, "most likely tokens to sample from"),
    "seed": ("TYPE_INT64", 1, "seed of sampling"),
    "stop": ("TYPE_STRING", -1, "texts that end the answer"),
    "enable_thinking": ("TYPE_BOOL", 1, "reason before answering; for messages"),
}
OUTPUTS = {
    "text": ("TYPE_STRING", 1, "the next piece of the answer"),
    "finish_reason": ("TYPE_STRING", 1, "stop, length or cancelled in the last response; empty before"),
    "tokens": ("TYPE_INT32", -1, "token ids of this response"),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_PIECE = 1 << 20


class _Repository(StagedFolder):
    noun, error = "model repository", ArtifactError

    def check_content(self, entries: set[str]) -> None:
        raise ArtifactError(f"{self.destination} is not empty; choose another destination, or remove it first.")


def package_for_triton(
    artifact: str | Path,
    out: str | Path,
    *,
    name: str = "exaone",
    threads: int | None = None,
    trusted_key: str | Path | None = None,
) -> Path:
    """Write a model repository that Triton's Python backend serves: whole or not at all.

    The artifact is copied, because it may not share its files with another folder; its hashes are checked in the copy.

    Args:
        artifact: The artifact, of a causal language model for ONNX Runtime on the CPU; see `Artifact.open`.
        out: The folder to make.
        name: The model's name on the server.
        threads: Threads that one operator may use (default: the physical cores available to the process).
        trusted_key: A public key that must have signed the artifact.

    Returns:
        The folder.

    Raises:
        ArtifactError: The artifact is damaged or holds another head, or the folder cannot be written.
        TargetError: It runs elsewhere than on the CPU.
        UnsupportedOptionError: The name cannot be that of a model.
    """
    if _NAME.fullmatch(name) is None:
        raise UnsupportedOptionError(f"{name!r:.80} is not a model's name; use letters, digits, '_', '.' and '-'.")
    opened = Artifact.open(artifact, trusted_key=trusted_key)
    check_runs_here(opened)
    if opened.device != "cpu":
        raise TargetError(
            f"{opened.folder} is for {opened.manifest.target}, and a model repository runs on the CPU; export with "
            f"--target ort-cpu."
        )
    with _Repository(out) as repository:
        version = repository.path / name / "1"
        copy = version / "artifact"
        copy.mkdir(parents=True)
        with opened.unchanged():
            for file, record in opened.manifest.files.items():
                _copy(opened.folder / file, copy / file, record["sha256"])
        write_synced(copy / MANIFEST_NAME, opened.manifest.to_json())
        if is_signed(opened.folder):
            write_synced(copy / SIGNATURE_NAME, (opened.folder / SIGNATURE_NAME).read_bytes())
        write_synced(version / "model.py", Path(__file__).with_name("triton_model.py").read_bytes())
        write_synced(version.parent / "config.pbtxt", _config(name, threads).encode())
        write_synced(repository.path / "README.md", _readme(name, opened).encode())
        for folder in (copy, version, version.parent):
            sync(folder)
        repository.put_in_place()
    return repository.destination


def _copy(source: Path, destination: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with source.open("rb") as file, destination.open("xb") as copy:
        while piece := file.read(_PIECE):
            digest.update(piece)
            copy.write(piece)
    if digest.hexdigest() != sha256:
        raise ArtifactError(f"{source} changed while it was copied; run the command again.")
    sync(destination)


def _config(name: str, threads: int | None) -> str:
    def listed(field: str, tensors: dict[str, tuple[str, int, str]], more: str = "") -> str:
        entries = (
            f'  {{\n    name: "{each}" # {what}\n    data_type: {kind}\n    dims: [ {size} ]{more}\n  }}'
            for each, (kind, size, what) in tensors.items()
        )
        inside = ",\n".join(entries)
        return f"{field} [\n{inside}\n]\n"

    return (
        f'name: "{name}"\nbackend: "python"\nmax_batch_size: 0\nmodel_transaction_policy {{ decoupled: true }}\n'
        + listed("input", INPUTS, "\n    optional: true")
        + listed("output", OUTPUTS)
        + "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
        + f'parameters {{ key: "threads" value {{ string_value: "{threads or ""}" }} }}\n'
    )


def _readme(name: str, artifact: Artifact) -> str:
    def table(tensors: dict[str, tuple[str, int, str]]) -> str:
        return "\n".join(f"| `{each}` | {kind} | {what} |" for each, (kind, _, what) in tensors.items())

    manifest, head = artifact.manifest, "| name | type | meaning |\n| --- | --- | --- |"
    return f"""# {name}

{manifest.source["name"]} in {manifest.precision}, served by Triton's Python backend.

The Python of the server needs the CPU runtime: `pip install 'exaone-export[cpu]'`. Then:

    tritonserver --model-repository .

The model is decoupled: call it through gRPC streaming, or `POST /v2/models/{name}/generate_stream`:

    curl -N localhost:8000/v2/models/{name}/generate_stream -d '{{"prompt": "Hello", "max_new_tokens": 32}}'

A request has `prompt` or `messages`; everything else is optional.

{head}
{table(INPUTS)}

Every response is a piece of the answer:

{head}
{table(OUTPUTS)}
"""
