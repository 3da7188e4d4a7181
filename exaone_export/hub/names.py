"""Names of models on the Hugging Face hub."""

from __future__ import annotations

__all__ = ["is_hub_id", "split_revision"]


def is_hub_id(model: str) -> bool:
    """Whether a model of the hub may have this name: an owner and a model, such as ``LGAI-EXAONE/EXAONE-4.0-1.2B``."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if model.count("/") != 1:  # the usual path, told without an import
        return False
    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return True


def split_revision(name: str) -> tuple[str, str | None]:
    """``ORG/NAME@REVISION`` as the id and the revision, which is None where none is named."""
    hub_id, at, revision = name.partition("@")
    return hub_id, revision if at else None
