"""What the hub says when it refuses, as the end of a sentence."""

from __future__ import annotations

from collections.abc import Iterator

from .snapshot import UnsafeNameError

__all__ = ["why_not_downloaded"]


def why_not_downloaded(error: BaseException, revision: str | None) -> str:
    """Why a download failed and what to do about it, behind ``and``; with no full stop.

    Args:
        error: What huggingface_hub or its HTTP client has raised.
        revision: The requested revision.
    """
    from huggingface_hub import constants, errors

    found = list(_chain(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in found)

    for unsafe in found:
        if isinstance(unsafe, UnsafeNameError):
            return f"{unsafe}, which would lead out of the cache; check HF_ENDPOINT, {constants.ENDPOINT}"
    folder = "download it elsewhere and give the folder's path"
    if caused_by(errors.OfflineModeIsEnabled):
        return (
            f"it is not whole in the cache, {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set: unset it, or {folder}"
        )
    if caused_by(errors.RevisionNotFoundError):
        return f"the hub has no revision {revision!r} of it; check the name of the branch, tag or commit"
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
