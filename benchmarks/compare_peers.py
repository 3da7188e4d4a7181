"""This project beside the peers that pip installs, on the 1.2B shape with random weights.

It prints the tables of docs/explanation/performance.md:

    make bench

Every figure comes from a process of its own. The systems take turns, each round in another order, so that a slow spell
of the machine falls on all of them, and ratios are taken within a round. Peers are installed under build/peers, and
what they run is made under --work, where it is missing; a peer that cannot be had is listed with its reason.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from peers import figures, processes, report
from peers.environments import prepare
from peers.stand_in import write_stand_in
from peers.systems import SYSTEMS, System

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "benchmarks" / "peers"
ENVIRONMENTS = ROOT / "build" / "peers"


class Comparison:
    """The systems that are there, and what was measured of them.

    Attributes:
        work: The folder of everything that is made.
        described: Bytes of weights that a token reads, and versions, of every system that is there.
        missing: The reason why a system is not measured.
    """

    def __init__(self, names: list[str], work: Path) -> None:
        self.work = work
        self.described: dict[str, dict[str, Any]] = {}
        self.missing: dict[str, str] = {}
        self._wanted = [SYSTEMS[name] for name in names]
        self._pythons: dict[str, Path] = {}

    @property
    def systems(self) -> list[System]:
        """Those that are there."""
        return [system for system in self._wanted if system.name not in self.missing]

    def prepare(self) -> None:
        """Make the checkpoint, its stand-in, the environments, and what every system runs."""
        checkpoint = self.work / "1.2b"
        if not checkpoint.exists():
            program = Path(sys.executable).with_name("exaone-export")
            # Speed needs no tokenizer, and the peers' converters do not run without one.
            options = ("--shape", "1.2b", "--tokenizer", ROOT / "examples" / "exaone4-tiny")
            subprocess.run([program, "random-checkpoint", checkpoint, *options], check=True)
        if any(system.stand_in for system in self._wanted) and not self._source(stand_in=True).exists():
            write_stand_in(checkpoint, self._source(stand_in=True))
        for system in self._wanted:
            say(f"prepare {system.name}")
            try:
                self._pythons[system.environment] = prepare(system.environment, ENVIRONMENTS)
                folder = system.folder(self.work)
                if not folder.exists():
                    self._build(system, folder)
                self.described[system.name] = processes.ask(self._command(system, "weights"))
            except (subprocess.CalledProcessError, processes.PeerError) as error:
                self.missing[system.name] = str(error)
                say(f"{system.name} is not measured: {error}")

    def round(self, number: int) -> tuple[float, dict[str, dict[str, float]]]:
        """Measure every system once, in an order that turns with the rounds; and the bandwidth before them."""
        bandwidth = max(processes.ask([sys.executable, SCRIPTS / "bandwidth.py"]))
        say(f"round {number + 1}: memory gives {bandwidth / 1e9:.1f} GB/s")
        found = {}
        for system in rotated(self.systems, number):
            try:
                found[system.name] = processes.measure(self._command(system, "measure", str(number + 1)))
            except processes.PeerError as error:
                self.missing[system.name] = str(error)
            say(f"round {number + 1}: {system.name}: {found.get(system.name, self.missing.get(system.name))}")
        return bandwidth, found

    def exports(self, count: int) -> dict[str, dict[str, Any]]:
        """Make the models of some systems over and over, in turn; what that costs, or why it did not go."""
        made: dict[str, dict[str, Any]] = {
            system.name: {"title": system.title, "runs": []} for system in self.systems if system.exported
        }
        scratch = self.work / "peers" / "export"
        for number in range(count):
            for system in rotated([system for system in self.systems if system.exported], number):
                shutil.rmtree(scratch, ignore_errors=True)
                try:
                    made[system.name]["runs"].append(processes.cost(self._command(system, "build", folder=scratch)))
                except processes.PeerError as error:
                    made[system.name]["reason"] = str(error)
                say(f"export {number + 1}: {system.name}: {made[system.name]}")
        shutil.rmtree(scratch, ignore_errors=True)
        return made if count else {}

    def _build(self, system: System, folder: Path) -> None:
        """Make what a system runs, whole or not at all."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        processes.cost(self._command(system, "build", folder=part))
        part.rename(folder)

    def _command(self, system: System, verb: str, *arguments: str, folder: Path | None = None) -> list[str | Path]:
        command: list[str | Path] = [self._pythons[system.environment], SCRIPTS / f"{system.script}.py", verb]
        if verb == "build":
            command += [system.variant, self._source(system.stand_in)]
        return [*command, folder or system.folder(self.work), *arguments]

    def _source(self, stand_in: bool) -> Path:
        return self.work / "peers" / "stand-in" if stand_in else self.work / "1.2b"


def rotated(systems: list[System], number: int) -> list[System]:
    """The same systems, starting with another one each round."""
    start = number % len(systems) if systems else 0
    return systems[start:] + systems[:start]


def compare(names: list[str], rounds: int, exports: int, work: Path) -> dict[str, Any]:
    """Prepare, measure in rounds, and gather."""
    comparison = Comparison(names, work)
    comparison.prepare()
    busy = os.getloadavg()[0]
    found = [comparison.round(number) for number in range(rounds)]
    made = comparison.exports(exports)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "prompt": figures.PROMPT,
        "new": figures.NEW,
        "rounds": rounds,
        "load average before": busy,
        "bandwidth bytes/s": [bandwidth for bandwidth, _ in found],
        "systems": {
            system.name: {
                "title": system.title,
                "ours": system.is_ours,
                **comparison.described[system.name],
                "runs": [runs[system.name] for _, runs in found],
            }
            for system in comparison.systems
        },
        "not measured": {
            name: {"title": SYSTEMS[name].title, "reason": reason} for name, reason in comparison.missing.items()
        },
        "exports": made,
    }


def machine() -> str:
    """The processor, as far as it decides the speed."""
    flags = Path("/proc/cpuinfo").read_text().split()
    features = [name for name in ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8") if name in flags]
    return f"{platform.machine()} ({', '.join(features)}), {figures.threads()} cores"


def say(text: str) -> None:
    """Progress, apart from the table."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure and keep the result, or take an earlier one; print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [system.name for system in SYSTEMS.values() if system.default]
    parser.add_argument(
        "--systems",
        nargs="+",
        choices=list(SYSTEMS),
        default=default,
        metavar="NAME",
        help=f"of {', '.join(SYSTEMS)}; by default all but those in float32 and the calibrated one",
    )
    parser.add_argument("--rounds", type=int, default=5, help="runs of every system (%(default)s)")
    parser.add_argument("--exports", type=int, default=0, metavar="COUNT", help="also time so many exports of some")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench", help="folder for checkpoints and models")
    parser.add_argument("--out", type=Path, help="file for the result; under benchmarks/results/ by default")
    parser.add_argument("--table", type=Path, metavar="FILE", help="only print the tables of an earlier result")
    options = parser.parse_args()
    if options.table:
        print(report.tables(json.loads(options.table.read_text()), options.table.name))
        return
    result = compare(options.systems, options.rounds, options.exports, options.work)
    out = options.out or ROOT / "benchmarks" / "results" / f"{result['date']}-1.2b-peers.json"
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(report.tables(result, out.name))


if __name__ == "__main__":
    main()
