"""What a dry run prints: the memory plan, the graph, and what would stop the work."""

from __future__ import annotations

import json

from exaone_export.artifact.manifest import Manifest
from exaone_export.planning.deployment import Deployment
from exaone_export.planning.memory_plan import MemoryPlan

from .describe import as_table
from .describe_plan import as_plan_table
from .output import say, tell


def show_dry_run(deployment: Deployment, manifest: Manifest, shortfall: str | None, *, as_json: bool) -> None:
    """Print it.

    Args:
        deployment: What was planned.
        manifest: Of the artifact that the work would write.
        shortfall: The sentence that the work would be refused with; None where it would not.
        as_json: Whether stdout is for a program.
    """
    plan = MemoryPlan.of(deployment)
    if as_json:
        say(json.dumps({"plan": plan.to_dict(), "manifest": json.loads(manifest.to_json())}, indent=2))
    else:
        say(f"{as_plan_table(plan, {})}\n\n{as_table(manifest)}")
    if shortfall is not None:
        tell(f"warning: {shortfall}")
