"""What calibration keeps of the tiny checkpoint, beside NVIDIA Model Optimizer: same model, same data, same run.

    python benchmarks/compare_modelopt.py

Both are calibrated on the same tokens and judged on the same held-out ones, by the same code, against transformers in
float32. The other side lives in build/peers/modelopt, which is made when it is missing. The exit status is 1 where a
divergence of ours is the higher one, or int4's is more than half of rounding to nearest. The result goes to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "examples" / "exaone4-tiny"
WORK = ROOT / "build" / "compare-modelopt"
PEER = ROOT / "build" / "peers" / "modelopt"
RESULTS = ROOT / "benchmarks" / "results"
SAMPLES, SEQ_LENGTH, MAX_LENGTH = 128, 512, 1024
# What modelopt leaves out: in the graphs that are compared with it the vocabulary projection is not quantized either.
NOT_QUANTIZED = ["lm_head"]


@dataclass(frozen=True)
class System:
    """One artifact of ours.

    Attributes:
        target: Of the export.
        precision: Of the export.
        peer: The peer's configuration that it is to keep up with; None where it is shown for comparison.
        calibrate: Options of `exaone-export calibrate`; None where the export takes no scales file.
    """

    target: str
    precision: str
    peer: str | None
    calibrate: tuple[str, ...] | None


SMOOTHED = ("--precision", "int8", "--smooth", "explicit", "--method", "entropy")
GPTQ, NEAREST = (("--precision", "int4", "--weights", rounding) for rounding in ("gptq", "nearest"))
INT4, ROUNDED = "tensorrt-rtx int4", "tensorrt-rtx int4, rounded to nearest"
SYSTEMS = {
    "tensorrt-rtx int8": System("tensorrt-rtx", "int8", "int8", SMOOTHED),
    "tensorrt-rtx fp8": System("tensorrt-rtx", "fp8", "fp8", ("--precision", "fp8")),
    INT4: System("tensorrt-rtx", "int4", "int4", GPTQ),
    ROUNDED: System("tensorrt-rtx", "int4", None, NEAREST),
    "ort-cpu int8": System("ort-cpu", "int8", "int8", None),
    "ort-cpu int4": System("ort-cpu", "int4", "int4", (*GPTQ, "--signed-scales")),
}


def ours(*arguments: str | Path) -> str:
    """Run the command line as a user does; what it prints."""
    command = [Path(sys.executable).with_name("exaone-export"), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def write_lines(script: str, out: Path, *arguments: str) -> Path:
    """What a script of the tiny checkpoint prints, in a file."""
    with out.open("w", encoding="utf-8") as file:
        subprocess.run([sys.executable, MODEL / "training" / script, *arguments], check=True, stdout=file)
    return out


def tokens_of(calibration: Path, held_out: Path) -> dict[str, Any]:
    """Both files as the token lists that this package reads them to."""
    from exaone_export import load_tokenizer
    from exaone_export.exporter.calibrate.data import read_prompts
    from exaone_export.exporter.evaluate.data import read_held_out

    tokenizer = load_tokenizer(MODEL)
    prompts = read_prompts(calibration, tokenizer, samples=SAMPLES, seq_length=SEQ_LENGTH)
    samples = read_held_out(held_out, tokenizer, seq_length=SEQ_LENGTH, max_length=MAX_LENGTH)
    return {
        "calibration": [prompt[0].tolist() for prompt in prompts],
        "held_out": [
            {"slice": sample.slice, "tokens": sample.tokens.tolist(), "answer": sample.answer} for sample in samples
        ],
    }


def measure_peer(tokens: Path, out: Path) -> dict[str, Any]:
    """Run the peer in its own environment, and make that first where it is missing."""
    import modelopt_peer

    python = PEER / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # torch first and alone: its pin keeps the resolver from another build with gigabytes of CUDA libraries.
        subprocess.run([*pip, modelopt_peer.REQUIREMENTS[-1]], check=True)
        subprocess.run([*pip, *modelopt_peer.REQUIREMENTS], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--editable", ROOT], check=True)
    subprocess.run([python, modelopt_peer.__file__, MODEL, tokens, out], check=True, stdout=sys.stderr)
    return json.loads(out.read_text())


def measure_ours(name: str, system: System, calibration: Path, held_out: Path, answers: bool) -> dict[str, Any]:
    """Calibrate, export and evaluate one artifact."""
    folder, scales = WORK / name.replace(" ", "-").replace(",", ""), WORK / "scales.safetensors"
    given: tuple[str | Path, ...] = ()
    if system.calibrate is not None:
        lengths = ("--samples", str(SAMPLES), "--seq-length", str(SEQ_LENGTH))
        ours("calibrate", MODEL, scales, "--data", calibration, *lengths, *system.calibrate, "--overwrite")
        given = ("--calibration", scales)
    chosen = ("--target", system.target, "--precision", system.precision, "--max-length", str(MAX_LENGTH))
    ours("export", MODEL, folder, *chosen, *given, "--overwrite")
    generate = "--generate" if answers else "--no-generate"
    return json.loads(ours("eval", folder, MODEL, "--data", held_out, generate, "--json"))


def verdicts(peers: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, bool]:
    """What has to hold, and whether it does."""
    kl = {name: result["total"]["kl"] for name, result in found.items()}
    judged = {
        f"{name}: KL no higher than modelopt's {peers[peer]['configuration']}": kl[name] <= peers[peer]["total"]["kl"]
        for name in found
        if (peer := SYSTEMS[name].peer) is not None
    }
    if INT4 in kl and ROUNDED in kl:
        judged[f"{INT4}: KL at most half of rounding to nearest"] = kl[INT4] <= kl[ROUNDED] / 2
    return judged


def table(peers: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """A row a system, in Markdown."""
    rows = ["| system | KL | 99% | KL of answers | top-1 | exact answers |", "| --- | --- | --- | --- | --- | --- |"]
    named = {f"modelopt {result['configuration']}": result for result in peers.values()} | dict(found)
    for name, result in named.items():
        total = result["total"]
        accuracy = "-" if total["accuracy"] is None else f"{total['accuracy']:.1%} ({total['baseline_accuracy']:.1%})"
        figures = f"{total['kl']:.2e} | {total['kl_99']:.2e} | {total['answer_kl']:.2e} | {total['top1']:.2%}"
        rows.append(f"| {name} | {figures} | {accuracy} |")
    return "\n".join(rows)


def main() -> None:
    """Measure both, print the table, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=50, help="held-out examples per task")
    parser.add_argument("--answers", action="store_true", help="let ours generate the answers too (minutes more)")
    parser.add_argument("--only", action="append", choices=list(SYSTEMS), help="one of ours; may be repeated")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(exist_ok=True)
    calibration = write_lines("calibration.py", WORK / "calibration.jsonl", "--samples", str(SAMPLES))
    held_out = write_lines("heldout.py", WORK / "heldout.jsonl", "--examples", str(options.examples))
    tokens = WORK / "tokens.json"
    lines = tokens_of(calibration, held_out)
    tokens.write_text(json.dumps(lines))
    peer = measure_peer(tokens, WORK / "modelopt.json")
    unlike = {name: found for name, found in peer["systems"].items() if found["not quantized"] != NOT_QUANTIZED}
    if unlike:
        sys.exit(f"modelopt left other products unquantized than the ones expected: {sorted(unlike)}")
    found = {
        name: measure_ours(name, system, calibration, held_out, options.answers)
        for name, system in SYSTEMS.items()
        if not options.only or name in options.only
    }
    judged = verdicts(peer["systems"], found)
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": peer["versions"] | {"onnxruntime": importlib.metadata.version("onnxruntime")},
        "calibration tokens": sum(map(len, lines["calibration"])),
        "held-out tokens": sum(len(line["tokens"]) for line in lines["held_out"]),
        "verdicts": judged,
        "modelopt": peer["systems"],
        "ours": found,
    }
    (RESULTS / f"{result['date']}-tiny-modelopt.json").write_text(json.dumps(result, indent=2) + "\n")
    print(table(peer["systems"], found))
    print("\n".join(["", *(f"{'holds' if holds else 'FAILS'}  {name}" for name, holds in judged.items())]))
    sys.exit(not all(judged.values()))


if __name__ == "__main__":
    main()
