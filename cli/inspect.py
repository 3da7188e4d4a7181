"""``exaone-export inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from .output import say
from .paths import PATH
from .trust import trusted_key_option


@click.command("inspect")
@click.argument("artifact", type=PATH)
@trusted_key_option
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(artifact: Path, trusted_key: Path | None, as_json: bool) -> None:
    """Show what ARTIFACT is. Every file's hash is checked, and a graph is read again, layer by layer.

    An engine cannot be read without a GPU of its kind; what is shown of it stands in the manifest, and layers.json
    beside it lists its layers.
    """
    import onnx_ir as ir

    from exaone_export.artifact.reader import Artifact
    from exaone_export.errors import ArtifactError
    from exaone_export.graphs.verify import verify
    from exaone_export.targets.cache_layout import CacheLayout
    from exaone_export.targets.precision import Recipe

    from .describe import as_json_text, as_table

    opened = Artifact.open(artifact, trusted_key=trusted_key)
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
