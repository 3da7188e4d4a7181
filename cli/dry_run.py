"""What a dry run prints: the memory plan, the graph, and what would stop the work."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from exaone_export.artifact.manifest import Manifest
from exaone_export.errors import ArtifactError
from exaone_export.planning.deployment import Deployment
from exaone_export.planning.memory_plan import MemoryPlan

from .describe import as_table
from .describe_plan import as_plan_table
from .output import say, tell


def show_dry_run(
    deployment: Deployment,
    manifest: Manifest,
    remarks: Sequence[str],
    refusals: Sequence[str | None],
    *,
    as_json: bool,
) -> None:
    """Print it.

    Args:
        deployment: What was planned.
        manifest: Of the artifact that the work would write.
        remarks: What the work would tell of the checkpoint.
        refusals: Sentences that the work would be refused with; None for each check that it would pass.
        as_json: Whether stdout is for a program.
    """
    plan = MemoryPlan.of(deployment)
    if as_json:
        say(json.dumps({"plan": plan.to_dict(), "manifest": json.loads(manifest.to_json())}, indent=2))
    else:
        say(f"{as_plan_table(plan, {})}\n\n{as_table(manifest)}")
    for remark in remarks:
        tell(remark)
    for refusal in refusals:
        if refusal is not None:
            tell(f"warning: {refusal}")


def refusal(check: Callable[[], None]) -> str | None:
    """The sentence that a check of the destination refuses it with; None where it passes."""
    try:
        check()
    except ArtifactError as error:
        return str(error)
    return None
