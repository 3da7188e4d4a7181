"""``exaone-export inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from exaone_export.errors import ArtifactError, MissingExtraError
from exaone_export.extras import needs_export

from . import options as shared
from .output import say, tell
from .paths import ARTIFACT

if TYPE_CHECKING:
    from exaone_export.artifact.reader import Artifact


@click.command("inspect")
@click.argument("artifact", type=ARTIFACT)
@shared.trusted_key
@shared.json_option("manifest")
def command(artifact: str, trusted_key: Path | None, as_json: bool) -> None:
    """Show ARTIFACT's model, target, precision, cache and layers.

    Every file's hash is checked, and the graph is read and verified layer by layer, which needs the extra export. An
    engine cannot be read without a GPU of its kind, so its manifest is shown; layers.json in its folder lists its
    layers.
    """
    from exaone_export.artifact.reader import Artifact

    from .describe import as_json_text, as_table

    opened = Artifact.open(artifact, trusted_key=trusted_key)
    if opened.engine is None:
        try:
            with needs_export("verifying the graph"):
                _verify(opened)
                if opened.of_prompts is not None:
                    _verify(opened.of_prompts)
        except MissingExtraError as missing:
            tell(f"warning: the graph was not verified: {missing}")
    say(as_json_text(opened.manifest) if as_json else as_table(opened.manifest))


def _verify(artifact: Artifact) -> None:
    import onnx_ir as ir

    from exaone_export.graphs.verify import verify
    from exaone_export.targets.cache_layout import CacheLayout
    from exaone_export.targets.recipe import Recipe

    layout, recipe = CacheLayout.from_dict(artifact.manifest.cache), Recipe.from_dict(artifact.manifest.recipe)
    with artifact.unchanged():
        path = artifact.graph_path
        try:
            graph = ir.load(path)
        except Exception as cause:  # The parser's own, of many kinds.
            raise ArtifactError(f"{path} cannot be read as ONNX; export the model again.") from cause
        verify(graph, artifact.spec, layout, recipe)
