"""The whole examination."""

from __future__ import annotations

from pathlib import Path

from .artifact import check_artifact
from .findings import Finding, Report
from .machine import read_machine
from .packages import check_packages
from .targets import check_targets

__all__ = ["examine"]


def examine(artifact: Path | None = None, trusted_key: Path | None = None) -> Report:
    """Look at the machine, the packages, the targets and, where one is given, an artifact.

    Args:
        artifact: A folder; every file of it is read.
        trusted_key: The public key that must have signed it.
    """
    machine, packages = read_machine(), check_packages()
    installed = [package.to_finding() for package in packages] or [
        Finding("exaone-export", False, "not installed as a package, so no versions are known", "pip install .")
    ]
    sections: dict[str, list[Finding]] = {
        "machine": machine.to_findings(),
        "packages": installed,
        "targets": check_targets(machine, packages),
    }
    failed = any(package.extra is None and not package.fits for package in packages)
    if artifact is not None:
        sections["artifact"] = list(check_artifact(artifact, machine, packages, trusted_key))
        failed = failed or any(finding.ok is False for finding in sections["artifact"])
    return Report(dict(sections), failed)
