"""An artifact of the Hugging Face hub, downloaded into the hub's cache."""

from __future__ import annotations

import glob
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, CapacityError, ConfigError
from ..hub.failures import why_not_downloaded
from ..hub.names import split_revision
from ..hub.snapshot import snapshot
from ..model.config.reading import read_spec
from ..model.tensors import num_parameters
from .checks import MODEL_NAME, check_hash, check_kind_and_size, most_bytes
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME, Manifest, manifest_bytes
from .onnx_references import MAX_GRAPH_BYTES
from .prefill import PREFILL_NAME
from .signature import check_signature

__all__ = ["download"]

_COMMIT = re.compile("[0-9a-f]{40}")
_GRAPHS = (MODEL_NAME, PREFILL_NAME)
# float32 is the largest type, and an engine with a profile for single tokens holds the layers twice.
_BYTES_A_PARAMETER, _BYTES_BESIDE = 8, 1 << 30
_ASK = "ask its owner to push the artifact again"


def download(artifact: str, key: Any = None, *, with_model: bool = True) -> Path:
    """The folder in the cache: the manifest comes first, and its signature, and then the files that it lists.

    Args:
        artifact: ``ORG/NAME`` or ``ORG/NAME@REVISION``.
        key: See `exaone_export.artifact.location.locate`.
        with_model: See `exaone_export.artifact.location.locate`.

    Raises:
        ArtifactError: The hub shows no such artifact, or its files are not those that its manifest lists.
        CapacityError: There is no room for it.
        SignatureError: It is not signed by the key.
    """
    hub_id, revision = split_revision(artifact)
    listed = _listing(hub_id, revision)
    if listed is not None and listed[1].get(MANIFEST_NAME, 0) > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{hub_id} has an {MANIFEST_NAME} of more than {MAX_MANIFEST_BYTES} bytes; {_ASK}.")
    folder = _download(hub_id, revision, (MANIFEST_NAME, SIGNATURE_NAME), is_offline=listed is None)
    if not (folder / MANIFEST_NAME).exists():
        why = "it is not whole in the cache" if listed is None else f"it has no {MANIFEST_NAME}"
        raise ArtifactError(
            f"{artifact} is not a local folder, and on the hub it is not an artifact ({why}); give a repository that "
            f"exaone-export push has written, or export the checkpoint: exaone-export export {hub_id} OUT."
        )
    data = manifest_bytes(folder)
    if key is not None:
        check_signature(folder, data, key)
    manifest = Manifest.from_json(data)
    missing = {
        name: record["size"]
        for name, record in manifest.files.items()
        if not (folder / name).exists() and (with_model or not name.startswith("model."))
    }
    if missing and listed is None:
        raise ArtifactError(f"{artifact} is not whole in the cache, and the hub cannot be asked; connect a network.")
    if missing and listed is not None:
        _check_sizes(hub_id, manifest, listed[1])
        _check_room(hub_id, sum(missing.values()))
        folder = _download(hub_id, folder.name, missing)
    if not with_model:
        for name, record in manifest.files.items():
            if not name.startswith("model."):
                check_kind_and_size(folder / name, record["size"])
                check_hash(folder / name, record["sha256"], lambda: None)
    return folder


def _listing(hub_id: str, revision: str | None) -> tuple[str, Mapping[str, int]] | None:
    """The commit, and the bytes of every file, as the hub tells them; None where the cache has to do.

    Raises:
        ArtifactError: The hub gives no such commit, and the cache has none.
    """
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().model_info(hub_id, revision=revision, files_metadata=True)
    except Exception as cause:  # noqa: BLE001 - those of its HTTP client, whichever that is, have no common base
        try:
            snapshot(hub_id, revision, (MANIFEST_NAME,), is_offline=True)
        except Exception as nothing:  # noqa: BLE001 - as above
            # What the hub itself has said is told, or that it cannot be asked.
            said = cause if isinstance(cause, huggingface_hub.errors.HfHubHTTPError) else nothing
            raise _refused(hub_id, revision, said) from said
        return None
    if _COMMIT.fullmatch(str(info.sha)) is None:  # It names a folder of the cache.
        raise ArtifactError(
            f"the hub gives {info.sha!r:.60} as the commit of {hub_id}, which is not a hash; check HF_ENDPOINT."
        )
    return str(info.sha), {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _download(hub_id: str, revision: str | None, names: Iterable[str], is_offline: bool = False) -> Path:
    try:
        return snapshot(hub_id, revision, map(glob.escape, names), is_offline=is_offline)
    except Exception as cause:  # As above.
        raise _refused(hub_id, revision, cause) from cause


def _refused(hub_id: str, revision: str | None, cause: Exception) -> ArtifactError:
    return ArtifactError(f"{hub_id} is not a local folder, and {why_not_downloaded(cause, revision)}.")


def _check_sizes(hub_id: str, manifest: Manifest, listed: Mapping[str, int]) -> None:
    """Raise unless the sizes are the hub's and within what the model's own can be, before they are downloaded."""
    for name, record in manifest.files.items():
        size = record["size"]
        if name not in listed or listed[name] != size:
            there = f"{listed[name]} bytes" if name in listed else "none"
            raise ArtifactError(f"{hub_id} has {there} of {name!r:.80}, and its manifest lists {size} bytes; {_ASK}.")
        if size > (most := MAX_GRAPH_BYTES if name in _GRAPHS else most_bytes(name)):
            raise ArtifactError(f"{hub_id} has a {name!r:.80} of {size} bytes, and at most {most} are read; {_ASK}.")
    try:
        parameters = num_parameters(read_spec(manifest.model))
    except ConfigError as cause:
        raise ArtifactError(f"{hub_id} has a manifest that does not describe a valid model: {cause}") from cause
    total, most = sum(record["size"] for record in manifest.files.values()), _BYTES_A_PARAMETER * parameters
    if total > most + _BYTES_BESIDE:
        raise ArtifactError(
            f"{hub_id} has {total} bytes for a model of {parameters} parameters, which is more than any export; {_ASK}."
        )


def _check_room(hub_id: str, needed: int) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (cache, *cache.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise CapacityError(
            f"{hub_id} needs {needed / 2**30:.1f} GiB in {cache}, and {free / 2**30:.1f} GiB are free; free some, or "
            f"set HF_HOME to a folder of a larger disk."
        )
