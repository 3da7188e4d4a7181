"""Where an artifact lies: in a folder, or on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..hub.names import is_hub_id, split_revision

__all__ = ["check_locatable", "locate"]


def check_locatable(artifact: str | Path) -> Path | None:
    """The folder, or None for a name that the hub may know; nothing is downloaded.

    Args:
        artifact: A folder or, as text, ``ORG/NAME`` or ``ORG/NAME@REVISION``. A `Path` is a folder always.

    Raises:
        ArtifactError: It is neither.
    """
    folder = Path(artifact).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(artifact, str):
        hub_id, revision = split_revision(artifact)
        if revision != "" and is_hub_id(hub_id):
            return None
    raise ArtifactError(
        f"{folder} is not a folder; give the folder that an export has written, or a hub id such as ORG/NAME."
    )


def locate(artifact: str | Path, key: Any = None, *, with_model: bool = True) -> Path:
    """The folder of an artifact, which is downloaded if it is one of the hub.

    Args:
        artifact: As `check_locatable` takes it.
        key: The public key that must have signed the manifest, before anything else is downloaded.
        with_model: Whether graph, weights and engine are wanted too. Without them the hashes of the other files are
            checked here.

    Returns:
        The folder, which with a model has yet to be checked. Without a network it is what the cache has.

    Raises:
        ArtifactError: It is neither a folder nor an artifact that the hub shows, or its files are not those that its
            manifest lists.
        CapacityError: There is no room for it.
        SignatureError: It is not signed by the key.
    """
    folder = check_locatable(artifact)
    if folder is not None:
        return folder
    from .download import download  # not needed for a folder, and takes time to import

    return download(str(artifact), key, with_model=with_model)
