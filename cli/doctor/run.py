"""All checks, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .artifact import FILES, check_artifact
from .findings import Finding, Report
from .machine import read_machine
from .packages import Package, check_packages, whether_it_exports
from .targets import check_targets

__all__ = ["examine"]


def examine(artifact: str | Path | None = None, trusted_key: Path | None = None) -> Report:
    """Check the machine, the packages, the targets and, where one is given, an artifact.

    Args:
        artifact: As `Artifact.open` takes it; every file of it is read.
        trusted_key: The public key that must have signed it.
    """
    machine, packages = read_machine(), check_packages()
    installed = [package.to_finding() for package in packages] or [
        Finding("exaone-export", False, "not installed as a package, so no versions are known", "pip install .")
    ]
    sections: dict[str, Sequence[Finding]] = {
        "targets": check_targets(machine, packages),
        "packages": [whether_it_exports(), *installed],
        "machine": machine.to_findings(),
    }
    broken = [package for package in packages if package.is_broken]
    if artifact is None:
        return Report(_what_works(sections["targets"], broken), sections, bool(broken))
    # What an artifact needs of the extra `export` is told with its target.
    broken = [package for package in broken if package.extra is None]
    found = list(check_artifact(artifact, machine, packages, trusted_key))
    flaw = next((finding for finding in found if finding.ok is False), None)
    return Report(
        _whether_it_runs(artifact, found, flaw, broken), {"artifact": found, **sections}, bool(broken or flaw)
    )


def _what_works(targets: Sequence[Finding], broken: Sequence[Package]) -> str:
    if broken:
        what = "nothing works here" if any(package.extra is None for package in broken) else "exports do not work here"
        return f"{what} until these packages are installed or upgraded: {_names(broken)}"
    install = whether_it_exports().fix
    exports = f"; to export, run: {install}" if install else ""
    works, rest = ([found.name for found in targets if bool(found.ok) is ok] for ok in (True, False))
    if not works:
        return f"no target runs here: {', '.join(rest)}; the fix of each is below{exports}"
    return f"runs here: {', '.join(works)}" + (f"; does not run here: {', '.join(rest)}" if rest else "") + exports


def _whether_it_runs(
    artifact: str | Path, found: Sequence[Finding], flaw: Finding | None, broken: Sequence[Package]
) -> str:
    if flaw is not None:
        verdict = f"{artifact} does not {'open' if flaw.name == FILES else 'run'} here: {flaw.detail}"
    elif broken:
        verdict = f"{artifact} does not run here: packages to install or upgrade: {_names(broken)}"
    else:
        runs = next(finding for finding in found if finding.name.startswith("target "))
        verdict = f"{artifact} runs here: {runs.name.removeprefix('target ')}, {runs.detail}"
        warnings = [finding.name for finding in found if finding.ok is None and finding.fix is not None]
        return verdict + (f"; see below: {', '.join(dict.fromkeys(warnings))}" if warnings else "")
    return verdict + (f"; fix: {flaw.fix}" if flaw is not None and flaw.fix else "")


def _names(packages: Sequence[Package]) -> str:
    return ", ".join(package.name for package in packages)
