"""Models of the Hugging Face hub: from its cache, or downloaded into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from exaone_export.errors import CheckpointError

__all__ = ["download", "is_hub_id"]


def is_hub_id(model: str) -> bool:
    """Whether a model of the hub may have this name: an owner and a model, such as ``LGAI-EXAONE/EXAONE-4.0-1.2B``."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return "/" in model


def download(hub_id: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of a model's files; without a network, what the cache has of them.

    Args:
        hub_id: The model.
        revision: A branch, tag or commit; the main branch by default.
        patterns: Of the files' names.

    Raises:
        CheckpointError: It can neither be downloaded nor is it in the cache.
    """
    import huggingface_hub

    try:
        # Also for a single file: it asks the hub once, where `hf_hub_download` tries for 24 seconds without a network.
        return Path(huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns)))
    except Exception as cause:  # Those of its HTTP client, whichever that is, have no base of ours to name.
        raise CheckpointError(f"{hub_id} is not a local folder, and {_reason(cause, revision)}.") from cause


def _reason(error: BaseException, revision: str | None) -> str:
    from huggingface_hub import constants, errors

    found = list(_chain(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in found)

    folder = "download it elsewhere and give the folder's path"
    if caused_by(errors.OfflineModeIsEnabled):
        return (
            f"it is not whole in the cache, {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set: unset it, or {folder}"
        )
    if caused_by(errors.RevisionNotFoundError):
        return f"the hub has no revision {revision!r} of it; check --revision"
    if caused_by(errors.RepositoryNotFoundError):  # GatedRepoError among them
        return "the hub shows no such model, or not to you; check the name, accept its licence, or run: hf auth login"
    if caused_by(errors.LocalEntryNotFoundError) and not caused_by(errors.HfHubHTTPError):
        return (
            f"it is not whole in the cache and {constants.ENDPOINT} cannot be reached; connect a network, or {folder}"
        )
    said = str(error).strip().partition("\n")[0].rstrip(".")
    return f"it cannot be downloaded ({type(error).__name__}{f': {said}' if said else ''}); {folder}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
