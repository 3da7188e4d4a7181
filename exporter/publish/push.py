"""Uploading an artifact to the Hugging Face hub, in one commit."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exaone_export.artifact.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME, Manifest
from exaone_export.artifact.reader import Artifact
from exaone_export.artifact.signature import is_signed
from exaone_export.errors import ArtifactError, ExaoneExportError, UnsupportedOptionError
from exaone_export.hub.names import is_hub_id
from exaone_export.hub.snapshot import snapshot

from .card import MARK, CardFields, model_card

__all__ = ["push"]

_CARD = "README.md"
_EXAONE = "LGAI-EXAONE/"


def push(
    artifact: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "Push an artifact of exaone-export",
    fields: CardFields | None = None,
    trusted_key: str | Path | None = None,
) -> str:
    """Check an artifact, and publish it with a model card.

    All files appear on the hub together, in one commit, or not at all. What was uploaded before an interruption is not
    uploaded again. Files of an artifact that was there before are removed where the new one lacks them; a card that
    somebody else wrote stays.

    Args:
        artifact: The folder.
        repo: Its name on the hub, ``ORG/NAME``; made if it does not exist.
        private: Whether a repository that is made is private.
        revision: The branch to commit to; made if it does not exist (default: main).
        message: Of the commit.
        fields: What the card says beside the manifest.
        trusted_key: A public key that must have signed the artifact.

    Returns:
        The address of the commit.

    Raises:
        ArtifactError: The artifact is damaged, the hub refuses it or cannot be reached, or the repository holds
            something else.
        UnsupportedOptionError: ``repo`` cannot be a repository's name.
    """
    if not is_hub_id(repo):
        raise UnsupportedOptionError(f"{repo!r:.100} is not a repository's name; give one such as ORG/NAME.")
    import huggingface_hub

    opened = Artifact.open(Path(artifact), trusted_key=trusted_key)
    api = huggingface_hub.HfApi()
    with _refusals(repo):
        api.whoami()
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        info = api.model_info(repo, revision=revision)
        there = {file.rfilename for file in info.siblings or ()}
        old = _listed_before(repo, info.sha, there)
        operations = _additions(opened)
        if _CARD not in there or _is_generated(repo, info.sha):
            card = model_card(opened.manifest, repo, _with_licence(api, opened.manifest, fields or CardFields()))
            operations.append(huggingface_hub.CommitOperationAdd(_CARD, card.encode()))
        with opened.unchanged():
            api.preupload_lfs_files(repo, operations, revision=revision, free_memory=False)
            _check_hashes(opened, operations)
        gone = (old & there) - {operation.path_in_repo for operation in operations} - {_CARD}
        operations += [huggingface_hub.CommitOperationDelete(name) for name in sorted(gone)]
        commit = api.create_commit(repo, operations, commit_message=message, revision=revision, parent_commit=info.sha)
    return str(commit.commit_url)


def _additions(artifact: Artifact) -> list[Any]:
    """The files: small ones as the bytes that were checked, the model's own by their paths."""
    from huggingface_hub import CommitOperationAdd

    with artifact.unchanged():
        found = []
        for name in artifact.manifest.files:
            path = artifact.folder / name
            found.append(CommitOperationAdd(name, path if name.startswith("model.") else path.read_bytes()))
        if is_signed(artifact.folder):
            found.append(CommitOperationAdd(SIGNATURE_NAME, (artifact.folder / SIGNATURE_NAME).read_bytes()))
    return [*found, CommitOperationAdd(MANIFEST_NAME, artifact.manifest.to_json())]


def _check_hashes(artifact: Artifact, operations: list[Any]) -> None:
    """Raise unless what was uploaded is what was checked."""
    for operation in operations:
        record = artifact.manifest.files.get(operation.path_in_repo)
        if record is not None and operation.upload_info.sha256.hex() != record["sha256"]:
            raise ArtifactError(f"{operation.path_in_repo} changed while it was uploaded; run the command again.")


def _listed_before(repo: str, commit: str, there: set[str]) -> set[str]:
    """The files of the artifact that the repository holds.

    Raises:
        ArtifactError: It holds something else, which a push would mix with the artifact.
    """
    if MANIFEST_NAME not in there:
        others = sorted(name for name in there if name not in (".gitattributes", _CARD) and name[:7] != "LICENSE")
        if others:
            raise ArtifactError(
                f"{repo} holds {others[0]!r:.80} and is not an artifact's; choose another name, or push to a branch of "
                f"its own that holds nothing else."
            )
        return set()
    data = (snapshot(repo, commit, [MANIFEST_NAME]) / MANIFEST_NAME).read_bytes()
    try:
        listed = set(Manifest.from_json(data[: MAX_MANIFEST_BYTES + 1]).files)
    except ArtifactError:  # of another version: what it lists is not known, and stays
        listed = set()
    return listed | {SIGNATURE_NAME}


def _is_generated(repo: str, commit: str) -> bool:
    return MARK.encode() in (snapshot(repo, commit, [_CARD]) / _CARD).read_bytes()


def _with_licence(api: Any, manifest: Manifest, fields: CardFields) -> CardFields:
    """The fields with the base model and the licence as far as they are known: from the base model's own card."""
    source, base = manifest.source, fields.base_model
    if base is None and source.get("revision") and is_hub_id(str(source["name"])):
        base = str(source["name"])
    if base is None or fields.license is not None:
        return dataclasses.replace(fields, base_model=base)
    found: Any = {}
    with contextlib.suppress(Exception):  # its card adds to ours, and need not be there
        found = api.model_info(base).card_data or {}
    if not found.get("license") and base.startswith(_EXAONE):
        found = {"license": "other", "license_name": "exaone", "license_link": "LICENSE"}
    link = found.get("license_link")
    if link is not None and "://" not in link and link not in manifest.files:
        link = f"https://huggingface.co/{base}/blob/main/{link}"
    name = found.get("license_name")
    return dataclasses.replace(
        fields, base_model=base, license=found.get("license"), license_name=name, license_link=link
    )


@contextlib.contextmanager
def _refusals(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence."""
    from huggingface_hub import constants, errors

    try:
        yield
    except ExaoneExportError:
        raise
    except errors.LocalTokenNotFoundError as cause:
        raise ArtifactError("you are not logged in to the hub; run: hf auth login.") from cause
    except errors.OfflineModeIsEnabled as cause:
        raise ArtifactError("HF_HUB_OFFLINE is set, and a push needs the hub; unset it.") from cause
    except errors.RevisionNotFoundError as cause:
        raise ArtifactError(f"{repo} has no such branch; check the name.") from cause
    except errors.HfHubHTTPError as cause:
        status = cause.response.status_code
        if status == 401:
            raise ArtifactError(f"the hub does not accept your token for {repo}; run: hf auth login.") from cause
        if status in (403, 404):
            raise ArtifactError(
                f"you may not write to {repo}; check the name, and log in with a token that may write: hf auth login."
            ) from cause
        if status in (409, 412):
            raise ArtifactError(f"{repo} was changed meanwhile; run the command again.") from cause
        raise ArtifactError(f"the hub refused {repo} ({_first_line(cause)}); run the command again.") from cause
    except Exception as cause:  # those of its HTTP client, whichever that is, have no common base
        raise ArtifactError(
            f"{repo} could not be pushed to {constants.ENDPOINT} ({type(cause).__name__}: {_first_line(cause)}); check "
            f"the network and run the command again, which does not repeat what was uploaded."
        ) from cause


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
