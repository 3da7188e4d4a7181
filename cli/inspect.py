"""``exaone-export inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options as shared
from .output import say
from .paths import PATH


@click.command("inspect")
@click.argument("artifact", type=PATH)
@shared.trusted_key
@shared.json_option("manifest")
def command(artifact: Path, trusted_key: Path | None, as_json: bool) -> None:
    """Show ARTIFACT's model, target, precision, cache and layers.

    Every file's hash is checked, and the graph is read and verified layer by layer. An engine cannot be read without a
    GPU of its kind, so its manifest is shown; layers.json in its folder lists its layers.
    """
    from exaone_export.artifact.reader import Artifact
    from exaone_export.errors import ArtifactError

    opened = Artifact.open(artifact, trusted_key=trusted_key)

    import onnx_ir as ir

    from exaone_export.graphs.verify import verify
    from exaone_export.targets.cache_layout import CacheLayout
    from exaone_export.targets.precision import Recipe

    from .describe import as_json_text, as_table

    manifest = opened.manifest
    if opened.engine is None:
        layout, recipe = CacheLayout.from_dict(manifest.cache), Recipe.from_dict(manifest.recipe)
        with opened.unchanged():
            path = opened.graph_path
            try:
                graph = ir.load(path)
            except Exception as cause:  # The parser's own, of many kinds.
                raise ArtifactError(f"{path} cannot be read as ONNX; export the model again.") from cause
            verify(graph, opened.spec, layout, recipe)
    say(as_json_text(manifest) if as_json else as_table(manifest))
