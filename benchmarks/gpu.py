"""Everything that needs an NVIDIA GPU, in one command and eight minutes: parity of what runs there, then speed.

    make gpu

Parity is held to PyTorch in float32: the tiny checkpoint, five irregular hybrids, the 1.2B shape and layers of EXAONE
3's, in one step, token by token through captured graphs, and in padded batches; and the other heads, in batches padded
on either side. The engine that `Runner` and `Chat` generate with is held to `ExaoneForCausalLM`: turns, cancellation,
kept prompts. Then ONNX Runtime's CUDA provider, and a TensorRT engine where one runs, prefill and decode beside
transformers with a static cache and `torch.compile`, each as a share of what the GPU's memory would allow, measured in
the same run; and the server, asked over HTTP by more and more clients. One JSON object is printed, and kept under
benchmarks/results/. A part that this GPU cannot run says why in a sentence; one that fails is reported with its reason,
the others still run, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_suite import artifacts, engine, genai, parity, serving, speed
from gpu_suite.artifacts import HEADED, HYBRID_LENGTH, HYBRIDS, MAX_LENGTH, ROOT, RTX, TINY, Exports
from gpu_suite.parts import Found, Suite, any_failed

TINY_PRECISIONS, HYBRID_PRECISIONS, FAST_PRECISIONS = ("float16", "int4"), ("float16", "bfloat16"), ("float16", "int4")
PARTS = ("parity", "engine", "speed", "serving")
HEADS = ("hidden-states", "sequence-classification", "token-classification", "question-answering")
FAMILY_LAYERS = {"3.5-2.4b": 4}
"""Published shapes of other families, by how many of their layers are run."""
COMPILED = "transformers, static cache, torch.compile"
Folders = dict[str, Path]


def main() -> None:
    """Run every part, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the result; under benchmarks/results/ by default")
    parser.add_argument("--work", type=Path, help="folder for checkpoints and artifacts; a temporary one by default")
    parser.add_argument("--part", choices=PARTS, action="append", help="what to run, all by default; may be repeated")
    parser.add_argument("--seconds", type=float, default=480, help="no part begins later than this; 480 by default")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(json.dumps({"gpu": None, "reason": "PyTorch sees no NVIDIA GPU here, so there is nothing to run."}))
        return
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        result: Found = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), **machine()}
        name = result["gpu"].lower().replace(" ", "-")
        out = options.out or ROOT / "benchmarks" / "results" / f"{result['date']}-{name}.json"
        keep = lambda: out.write_text(json.dumps(result, indent=2) + "\n")  # noqa: E731
        run(work, Suite(options.seconds, keep), options.part or PARTS, result)
        keep()
    print(json.dumps(result))
    sys.exit(any_failed(result))


def run(work: Path, suite: Suite, parts: Sequence[str], result: Found) -> None:
    """The parts: every export begins as soon as it can, parity comes first, and nothing runs beside what is timed.

    Args:
        work: For checkpoints and artifacts.
        suite: Runs the parts.
        parts: Of `PARTS`.
        result: Takes what each of them has found as soon as it has.
    """
    exports = Exports(work)
    published = exports.begin_published()
    fast = {precision: exports.begin(published, "ort-cuda", precision, MAX_LENGTH) for precision in FAST_PRECISIONS}
    if {"parity", "engine"} & {*parts}:
        tiny = {precision: exports.begin(TINY, "ort-cuda", precision, 1024) for precision in TINY_PRECISIONS}
        hybrids = begin_hybrids(exports, work)
    if "parity" in parts:
        checks = result["parity"] = Found()
        parity_parts(suite, exports, tiny, hybrids, (published, fast["float16"]), checks)
    if "engine" in parts:
        turns = result["engine"] = Found()
        engine_parts(suite, exports, tiny, {name: made for name, (_, made) in hybrids.items()}, fast, turns)
    exports.wait_for_all()
    if "speed" in parts:
        speed_parts(suite, exports, published, fast, result)
    if "serving" in parts:
        result["serving"] = suite.run(lambda: serving.throughput(exports.wait(fast["float16"])))


def begin_hybrids(exports: Exports, work: Path) -> dict[str, tuple[Path, Folders]]:
    """Irregular hybrids of random weights, with their artifacts by precision."""
    hybrids = {}
    for i, name in enumerate(HYBRIDS):
        model = artifacts.save_hybrid(name, work / f"hybrid-{i}")
        hybrids[name] = (model, {p: exports.begin(model, "ort-cuda", p, HYBRID_LENGTH) for p in HYBRID_PRECISIONS})
    return hybrids


def parity_parts(
    suite: Suite,
    exports: Exports,
    tiny: Folders,
    hybrids: dict[str, tuple[Path, Folders]],
    published: tuple[Path, Path],
    checks: Found,
) -> None:
    """What the models say, held to PyTorch in float32; ``checks`` takes it."""
    families = {}
    for shape, layers in FAMILY_LAYERS.items():
        model = exports.begin_layers(shape, layers)
        families[shape] = (model, exports.begin(model, "ort-cuda", "float16", HYBRID_LENGTH))
    heads = {}
    for head in HEADS:
        model = artifacts.save_hybrid(HEADED, exports.work / head, head)
        heads[head] = (model, exports.begin(model, "ort-cuda", "float16", HYBRID_LENGTH))
    for precision, folder in tiny.items():
        checks[f"tiny {precision}"] = suite.run(lambda f=folder, p=precision: tiny_parity(exports.wait(f), p))
    checks[f"tiny {RTX}"] = suite.run(lambda: rtx_parity(exports))
    for name, (model, folders) in hybrids.items():
        ids = parity.tokens_for(model)
        wanted = parity.reference_logits(model, ids, "cpu")
        for precision, folder in folders.items():
            limit = parity.KL_LIMITS[precision]
            part = lambda f=folder, w=wanted, i=ids, limit=limit: parity.compare(exports.wait(f), i, w, limit)  # noqa: E731
            checks[f"{name}, {precision}"] = suite.run(part)
    for head, (model, folder) in heads.items():
        checks[f"{head}, float16"] = suite.run(lambda m=model, f=folder: parity.compare_head(m, exports.wait(f)))
    for shape, (model, folder) in families.items():
        part = lambda m=model, f=folder: family_parity(exports.wait(m), exports.wait(f))  # noqa: E731
        checks[f"{FAMILY_LAYERS[shape]} layers of {shape}, float16"] = suite.run(part)
    checks["tiny float16 by onnxruntime-genai"] = suite.run(lambda: genai.equal_tokens(exports.wait(tiny["float16"])))
    checks["1.2b float16"] = suite.run(lambda: published_parity(*map(exports.wait, published)))


def speed_parts(suite: Suite, exports: Exports, published: Path, fast: Folders, result: Found) -> None:
    """Prefill and decode of the 1.2B shape, and answers at once.

    Args:
        suite: Runs them.
        exports: Has made what is measured.
        published: The checkpoint.
        fast: Its artifacts, by precision.
        result: Has the speed of a copy, and takes what is found.
    """
    weights = sum(file.stat().st_size for file in published.glob("*.safetensors"))
    # Every weight is read once a token. A copy reads one byte and writes one for each that decoding only reads.
    bound = weights / (result["copy GB/s"] * 1e9)
    systems = result["speed"] = Found()
    for precision, folder in fast.items():
        opener = lambda f=folder: speed.ours(exports.wait(f))  # noqa: E731
        systems[f"ort-cuda {precision}"] = suite.run(lambda o=opener: speed.measure(o, bound))
    systems["engine, ort-cuda float16"] = suite.run(lambda: engine.speed(exports.wait(fast["float16"]), bound))
    result["answers at once"] = suite.run(lambda: engine.throughput(exports.wait(fast["float16"])))
    systems["onnxruntime-genai float16"] = suite.run(lambda: genai.speed(exports.wait(fast["float16"])))
    systems[COMPILED] = suite.run(lambda: speed.measure(lambda: speed.compiled_transformers(published), bound))
    systems[RTX] = suite.run(lambda: rtx_speed(published, exports, bound))
    result["times as fast"] = speed.compared(systems, COMPILED)


def engine_parts(
    suite: Suite, exports: Exports, tiny: Folders, hybrids: dict[str, Folders], fast: Folders, parts: Found
) -> None:
    """What `Runner` generates with, on artifacts that were made for parity and speed; ``parts`` takes it."""
    some = {f"{name}, float16": (made["float16"], "float16") for name, made in hybrids.items()}
    some[f"{HEADED}, bfloat16"] = hybrids[HEADED]["bfloat16"], "bfloat16"
    some |= {f"tiny {precision}": (folder, precision) for precision, folder in tiny.items()}
    some["1.2b float16"] = fast["float16"], "float16"
    for name, (folder, precision) in some.items():
        parts[name] = suite.run(lambda f=folder, p=precision: engine.compare(exports.wait(f), p))
    for name in (HEADED, list(HYBRIDS)[2]):
        folder = hybrids[name]["float16"]
        parts[f"{name}, at once"] = suite.run(lambda f=folder: engine.at_once(exports.wait(f), "float16"))
    parts["1.2b float16, at once"] = suite.run(lambda: engine.at_once(exports.wait(fast["float16"]), "float16"))
    parts["chat"] = suite.run(lambda: engine.chat(exports.wait(tiny["float16"])))


def tiny_parity(folder: Path, precision: str) -> Found:
    """Distributions, padded batches and the answers to the tasks that it was trained for."""
    ids = parity.tokens_for(TINY)
    found = parity.compare(folder, ids, parity.reference_logits(TINY, ids, "cpu"), parity.KL_LIMITS[precision])
    return found | parity.tasks(folder)


def rtx_parity(exports: Exports) -> Found:
    """The tiny checkpoint behind an engine of TensorRT-RTX."""
    artifacts.refuse_rtx()
    folder = exports.wait(exports.begin(TINY, RTX, "float16", 1024))
    return tiny_parity(artifacts.build_engine(folder), "float16")


def family_parity(model: Path, folder: Path) -> Found:
    """The first layers of another family's published shape."""
    ids = parity.tokens_for(model)
    return parity.compare(folder, ids, parity.family_logits(model, ids), parity.KL_LIMITS["float16"])


def published_parity(model: Path, folder: Path) -> Found:
    """The 1.2B shape, beside what float16 costs transformers itself."""
    ids = parity.tokens_for(model)
    wanted = parity.reference_logits(model, ids, "cuda").cpu()
    theirs = parity.reference_logits(model, ids, "cuda", torch.float16)
    found = parity.compare(folder, ids, wanted, parity.KL_LIMITS["float16"])
    return found | {"kl of transformers in float16": parity.divergence(wanted, theirs)}


def rtx_speed(model: Path, exports: Exports, bound: float) -> Found:
    """The 1.2B shape behind an engine of TensorRT-RTX."""
    artifacts.refuse_rtx()
    folder = exports.wait(exports.begin(model, RTX, "float16", MAX_LENGTH))
    engine = artifacts.build_engine(folder)
    return speed.measure(lambda: speed.ours(engine), bound)


def machine() -> dict[str, Any]:
    """The GPU, its measured bandwidth, and the versions of all that runs on it."""
    properties = torch.cuda.get_device_properties(0)
    versions = {}
    for name in (
        "torch",
        "transformers",
        "onnx",
        "onnx-ir",
        "onnxruntime-gpu",
        "onnxruntime-genai-cuda",
        "tensorrt-rtx",
        "tensorrt-rtx-cu13",
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "gpu": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "versions": versions,
        "copy GB/s": round(copy_bandwidth()),
    }


def copy_bandwidth() -> float:
    """GB/s of a copy from memory to memory, bytes read and written together."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    for _ in range(3):
        target.copy_(source)
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(10):
        target.copy_(source)
    stop.record()
    torch.cuda.synchronize()
    return 10 * 2 * source.numel() / start.elapsed_time(stop) / 1e6


if __name__ == "__main__":
    main()
