"""Names for transformers' pipelines, which report a model of a class that they have no name for as an error."""

from __future__ import annotations

from transformers.models.auto import modeling_auto

from exaone_export.model.heads import ARCHITECTURES

__all__ = ["name_for_pipelines"]

# Of no model type, so that nothing is loaded by it.
_KEY = "exaone-export"


def name_for_pipelines(kind: str, class_name: str) -> None:
    """Add a class to those that the pipelines of a head take without complaint.

    Args:
        kind: A key of `exaone_export.model.heads.ARCHITECTURES`.
        class_name: The class.
    """
    for table, names in vars(modeling_auto).items():
        if (
            table.endswith("_MAPPING_NAMES")
            and table.startswith("MODEL_FOR_")
            and names.get("exaone4") == (ARCHITECTURES[kind])
        ):
            names.setdefault(_KEY, class_name)
