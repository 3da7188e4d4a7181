"""Everything that needs an NVIDIA GPU, in one command: parity of what runs there, then speed at the 1.2B shape.

    make gpu

Answers of the tiny checkpoint are held to PyTorch's in float32. Then ONNX Runtime's CUDA provider and a TensorRT engine
decode and prefill beside transformers with a static cache and `torch.compile`, each as a share of what the GPU's memory
would allow, measured in the same run. One JSON object is printed, and kept under benchmarks/results/. A part that fails
is reported with its reason, the others still run, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import importlib.metadata
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "exaone4-tiny"
PROMPT, NEW, ROUNDS, MAX_LENGTH = 512, 64, 5, 2048
PARITY_LENGTHS, PARITY_TOKENS = (20, 200, 700), 64
# Mean divergence from float32, in nats, that a float16 artifact may have.
KL_LIMIT = 1e-4
TARGETS = ("ort-cuda", "tensorrt-rtx")


def main() -> None:
    """Run every part, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the result; under benchmarks/results/ by default")
    parser.add_argument("--work", type=Path, help="folder for checkpoints and artifacts; a temporary one by default")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(json.dumps({"gpu": None, "reason": "PyTorch sees no NVIDIA GPU here, so there is nothing to run."}))
        return
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        result = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), **machine()}
        result["parity"] = {target: attempt(lambda t=target: parity(t, work)) for target in TARGETS}
        result["speed"] = speed(work, result["copy GB/s"])
    name = torch.cuda.get_device_name(0).lower().replace(" ", "-")
    out = options.out or ROOT / "benchmarks" / "results" / f"{result['date']}-{name}.json"
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    sys.exit(any("failed" in part for group in ("parity", "speed") for part in result[group].values()))


def machine() -> dict[str, Any]:
    """The GPU, its measured bandwidth, and the versions of all that runs on it."""
    properties = torch.cuda.get_device_properties(0)
    versions = {}
    for name in ("torch", "transformers", "onnx", "onnx-ir", "onnxruntime-gpu", "tensorrt-rtx", "tensorrt-rtx-cu13"):
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


def attempt(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a part found, or why it could not."""
    start = time.perf_counter()
    try:
        found = part()
    except Exception as error:  # noqa: BLE001, whatever goes wrong is the finding
        found = {"failed": f"{type(error).__name__}: {error}"}
    gc.collect()
    torch.cuda.empty_cache()
    return found | {"seconds": round(time.perf_counter() - start, 1)}


def prepare(model: Path, target: str, work: Path, max_length: int) -> Path:
    """Export, and build where the target is an engine's; returns what runs."""
    from exaone_export.exporter.build.engine import build_engine
    from exaone_export.exporter.pipeline import export

    artifact = work / f"{model.name}-{target}"
    if not artifact.exists():
        export(model, artifact, target=target, precision="float16", max_length=max_length)
    if not target.startswith("tensorrt"):
        return artifact
    engine = work / f"{model.name}-{target}-engine"
    if not engine.exists():
        build_engine(artifact, engine, max_batch=4)
    return engine


def parity(target: str, work: Path) -> dict[str, Any]:
    """Logits, greedy tokens and task answers of the tiny checkpoint, against transformers in float32."""
    from exaone_export.runtime.generation import ExaoneForCausalLM
    from exaone_export.runtime.parity import LIMITS, compare, random_prompts
    from exaone_export.runtime.sides import artifact_side, transformers_side

    folder = prepare(TINY, target, work, 1024)
    words = json.loads((TINY / "config.json").read_text())["vocab_size"]
    limits = LIMITS["float16"]
    sides = {
        "transformers": (lambda: transformers_side(TINY), limits),
        target: (lambda: artifact_side(folder), limits),
    }
    report = compare(sides, random_prompts(words, PARITY_LENGTHS, seed=0), new_tokens=PARITY_TOKENS)
    with ExaoneForCausalLM.from_pretrained(folder) as model:
        answers = task_answers(model)
        batched = padded_rows_agree(model)
    summary = report.summary(target) | {"tasks": answers, "padded batch of 4 equals single rows": batched}
    if not (report.passed and summary["kl"] <= KL_LIMIT and batched):
        return summary | {"failed": "the answers depart from PyTorch's"}
    return summary


def task_answers(model: Any) -> dict[str, float]:
    """Share of exact replies by task."""
    sys.path.insert(0, str(TINY))
    from transformers import AutoTokenizer

    from evaluate import evaluate

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    found: dict[str, float] = {}
    for task in ("recall", "arithmetic"):
        rows = evaluate(_InFours(model), tokenizer, 24, (task,))
        found[task] = round(sum(row["accuracy"] for row in rows.values()) / len(rows), 3)
    return found


class _InFours:
    """A model whose batches are cut to what the engine was built for."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.config = model.config

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any) -> torch.Tensor:
        parts = [
            self._model.generate(input_ids[at : at + 4], attention_mask=attention_mask[at : at + 4], **options).cpu()
            for at in range(0, len(input_ids), 4)
        ]
        longest = max(part.shape[1] for part in parts)
        pad = self.config.pad_token_id or 0
        return torch.cat([torch.nn.functional.pad(part, (0, longest - part.shape[1]), value=pad) for part in parts])


def padded_rows_agree(model: Any) -> bool:
    """Whether rows of a left-padded batch get the tokens that they get alone."""
    pads, columns = (0, 3, 17, 80), 120
    words = model.config.vocab_size
    ids = torch.randint(3, words, (4, columns), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(columns) >= torch.tensor(pads)[:, None]).long()
    options = {"max_new_tokens": 80, "do_sample": False, "eos_token_id": words, "pad_token_id": 0}
    together = model.generate(ids * mask, attention_mask=mask, **options)[:, columns:].cpu()
    alone = [model.generate(ids[r : r + 1, pad:], **options)[0, columns - pad :].cpu() for r, pad in enumerate(pads)]
    return torch.equal(together, torch.stack(alone))


def speed(work: Path, copy: float) -> dict[str, Any]:
    """Decode and prefill of every system at the 1.2B shape."""
    from exaone_export.exporter.random_checkpoint import PUBLISHED, write_random_checkpoint

    spec = PUBLISHED["1.2b"]
    model = work / "1.2b"
    if not model.exists():
        write_random_checkpoint(model, spec, tokenizer_from=TINY)
    # Every weight is read once a token; of the tied words the head is, and of the embedding a row.
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    # A copy reads one byte and writes one for each that decoding only reads.
    bound = weights / (copy * 1e9)
    systems: dict[str, Callable[[], Any]] = {
        target: lambda t=target: ours(prepare(model, t, work, MAX_LENGTH)) for target in TARGETS
    }
    systems["transformers, static cache, torch.compile"] = lambda: compiled_transformers(model)
    return {name: attempt(lambda o=opener: measure(o, bound)) for name, opener in systems.items()}


@contextlib.contextmanager
def ours(folder: Path) -> Iterator[Any]:
    """An artifact, loaded."""
    from exaone_export.runtime.generation import ExaoneForCausalLM

    with ExaoneForCausalLM.from_pretrained(folder, verify=False) as model:
        yield lambda ids, new: model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False)


@contextlib.contextmanager
def compiled_transformers(folder: Path) -> Iterator[Any]:
    """The fastest way of transformers: its forward is compiled where the cache is static."""
    from transformers import Exaone4ForCausalLM

    model = Exaone4ForCausalLM.from_pretrained(folder, dtype=torch.float16).to("cuda").eval()
    options = {"do_sample": False, "cache_implementation": "static"}
    yield lambda ids, new: model.generate(ids, max_new_tokens=new, min_new_tokens=new, **options)


def measure(opener: Callable[[], Any], bound: float) -> dict[str, Any]:
    """Medians of `ROUNDS` calls of ``generate()``: one new token is prefill, the others are decode."""
    ids = torch.randint(3, 102_400, (1, PROMPT), generator=torch.Generator().manual_seed(0)).to("cuda")
    start = time.perf_counter()
    with opener() as generate:
        load = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(3):  # kernels are compiled, and graphs captured, in the first calls
            timed(generate, ids, 1)
            timed(generate, ids, 1 + NEW)
        warm = time.perf_counter() - start
        torch.cuda.reset_peak_memory_stats()
        first = [timed(generate, ids, 1) for _ in range(ROUNDS)]
        whole = [timed(generate, ids, 1 + NEW) for _ in range(ROUNDS)]
        free, total = torch.cuda.mem_get_info()
    per_token = [(w - statistics.median(first)) / NEW for w in whole]
    token = statistics.median(per_token)
    return {
        "prefill tok/s": round(PROMPT / statistics.median(first)),
        "decode tok/s": round(1 / token, 1),
        "ms a token": [round(1e3 * value, 3) for value in (min(per_token), token, max(per_token))],
        "share of the bandwidth bound": round(bound / token, 3),
        "GPU GB in use": round((total - free) / 1e9, 1),
        "prepare s": round(load, 1),
        "warm up s": round(warm, 1),
    }


def timed(generate: Callable[[torch.Tensor, int], Any], ids: torch.Tensor, new: int) -> float:
    """Seconds of one call, all of the GPU's work included."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    generate(ids, new)
    torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
