"""Whether two commits export the same bytes: the tiny checkpoint for every target and precision, with each commit.

    python benchmarks/compare_exports.py [--before COMMIT] [--after COMMIT]

Each commit is checked out and installed into a folder of its own, and its command line writes the artifacts, from the
checkpoint of this checkout; what is installed in this environment is what both of them import. Every file is compared:
the graph and its data, scales files, the manifest and the small files beside it. The exit status is 1 where anything
differs or only one side could export.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES, TINY = "examples", "exaone4-tiny"

# By scales file: options of `calibrate`.
SCALES = {
    "ranges": (),
    "int8": ("--precision", "int8", "--smooth", "fold", "--cache", "int8"),
    "explicit": ("--precision", "int8", "--smooth", "explicit", "--keep-layers", "30%"),
    "gptq": ("--precision", "int4"),
    "awq": ("--precision", "int4", "--weights", "awq"),
    "weights": ("--precision", "int8-weights"),
}

PRECISIONS = {
    "onnx": ("float32", "float16", "bfloat16"),
    "ort-cpu": ("float32", "int8", "int4", "int8-weights"),
    "ort-cuda": ("float16", "bfloat16", "int4", "int8-weights"),
    "tensorrt": ("float16", "bfloat16", "float32", "int8", "fp8", "int4", "int8-weights"),
    "tensorrt-rtx": ("float16", "bfloat16", "float32", "int8", "fp8", "int4", "int8-weights"),
    "tensorrt-plugin": ("float16", "bfloat16", "int8", "fp8", "int4", "int8-weights"),
}
"""As text, because the older commit may not know what the newer one does."""

# Target, precision, scales file, further options.
CALIBRATED = (
    ("ort-cpu", "int4", "gptq", ()),
    ("ort-cpu", "int4", "awq", ()),
    ("ort-cpu", "int8-weights", "weights", ()),
    ("ort-cpu", "float32", "ranges", ()),
    ("ort-cpu", "int8", "int8", ("--cache-precision", "int8")),
    ("ort-cuda", "int4", "gptq", ("--compute-type", "bfloat16")),
    ("tensorrt", "int8", "int8", ()),
    ("tensorrt", "int8", "explicit", ("--compute-type", "bfloat16")),
    ("tensorrt", "int4", "gptq", ("--prefill-chunk", "64")),
)


def main() -> None:
    """Export with both commits and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="HEAD~1", help="commit; HEAD~1 by default")
    parser.add_argument("--after", default="HEAD", help="commit; HEAD by default")
    parser.add_argument("--target", choices=PRECISIONS, help="this target alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = [(name, Path(folder, name)) for name in ("before", "after")]
        for (name, work), commit in zip(sides, (options.before, options.after), strict=True):
            install(work, commit)
            print(f"{name}: {commit} installed", file=sys.stderr)
        with ThreadPoolExecutor(2) as pool:
            before, after = pool.map(lambda side: export_all(side[1], options.target), sides)
    different = 0
    for case in before:
        ours, theirs = before[case], after[case]
        names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        different += bool(names)
        print(f"{'DIFFERENT' if names else 'equal':9}  {case}" + (f": {', '.join(names)}" if names else ""))
        for side in (ours, theirs) if names else ():
            print("".join(f"           {value}\n" for name, value in side.items() if name == "error"), end="")
    print(f"{len(before) - different} of {len(before)} are equal")
    sys.exit(different > 0)


def install(work: Path, commit: str) -> None:
    """The commit's packages in ``work/site`` and its files in ``work/source``."""
    source = work / "source"
    source.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], check=True, capture_output=True, cwd=ROOT).stdout
    subprocess.run(["tar", "-x", "-C", source], check=True, input=archive)
    with (work / "prompts.jsonl").open("w") as prompts:
        (script,) = (source / EXAMPLES / TINY).rglob("calibration.py")
        subprocess.run([sys.executable, script], check=True, stdout=prompts)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", work / "site", source], check=True)


def export_all(work: Path, target: str | None) -> dict[str, dict[str, str]]:
    """By case, the hash of every file that was written, or the error."""
    found = {}
    scales = {}
    for name, options in SCALES.items():
        scales[name] = work / f"{name}.safetensors"
        data = ("--data", work / "prompts.jsonl", "--samples", "8", "--seq-length", "64")
        found[f"calibrate {name}"] = run(work, "calibrate", scales[name], *data, *options)
    plain = [(name, precision, None, ()) for name in PRECISIONS for precision in PRECISIONS[name]]
    for name, precision, calibration, further in (*plain, *CALIBRATED):
        if target not in (None, name):
            continue
        rounds = name.startswith("tensorrt") and precision in ("int8", "fp8")
        calibration = calibration or ("ranges" if rounds else None)
        options = ("--target", name, "--precision", precision, "--max-length", "256", "--no-plan-check", *further)
        if calibration is not None:
            options = (*options, "--calibration", scales[calibration])
        case = " ".join(map(str, (name, precision, calibration or "", *further)))
        found[case] = run(work, "export", work / "artifact", *options, "--overwrite")
    return found


def run(work: Path, command: str, out: Path, *options: str | Path) -> dict[str, str]:
    """The hashes of what one command writes, or its error."""
    environment = {**os.environ, "PYTHONPATH": str(work / "site"), "OMP_NUM_THREADS": "1"}
    # Not in the source itself, whose folder of that name holds one room alone.
    arguments = [sys.executable, "-m", "exaone_export", command, TINY, out, *options]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, cwd=ROOT / EXAMPLES, env=environment)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    files = [out] if out.is_file() else sorted(out.rglob("*"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


if __name__ == "__main__":
    main()
