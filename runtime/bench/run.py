"""Measure an artifact: load it, then run every case through ``generate()`` or the model's call, as a user does."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import PromptError
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import num_parameters
from exaone_export.progress import Progress, silent

from ..mirror.cache import HybridCache
from ..mirror.causal_lm import ExaoneForCausalLM
from ..mirror.generation_defaults import no_defaults
from ..mirror.heads import open_model
from ..mirror.pretrained import ExaonePreTrainedModel, check_gpu
from ..sessions.prefill.choice import BOTH, GraphChoice
from ..sessions.threads import physical_cores
from .bandwidth import ReadBandwidth
from .cases import DECODE, FORWARD, Case, LeftOut, all_cases, fit, forward_cases
from .clocks import TokenClock, timed_steps
from .memory import device_memory, peak_memory
from .report import BenchReport, Result
from .traffic import WeightTraffic, step_bytes, weight_traffic

DEFAULT_DEPTHS = (0, 4096, 16384)
DEFAULT_BATCHES = (1, 4)
_RUNTIMES = ("torch", "transformers", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")


def bench(
    folder: str | Path,
    *,
    prompt: int = 512,
    new: int = 64,
    depths: Sequence[int] = DEFAULT_DEPTHS,
    batches: Sequence[int] = DEFAULT_BATCHES,
    repetitions: int = 5,
    threads: int | None = None,
    graphs: GraphChoice = BOTH,
    needs_decode: bool = False,
    trusted_key: str | Path | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure prefill and decode of an artifact, or of a model that generates no tokens its call on the prompt.

    Args:
        folder: An artifact, as `exaone-export export` or `exaone-export build` writes it.
        prompt: Tokens of the prompt whose prefill is timed.
        new: Tokens that a decode gives.
        depths: Tokens of context before them.
        batches: Rows.
        repetitions: Of every case; one more is run before and not counted.
        threads: Of the session on the CPU; by default the physical cores available to the process.
        graphs: Which are loaded and run which steps, where there is one of its own for prompts.
        needs_decode: Whether to refuse an artifact of which no decode can be measured.
        trusted_key: The public key that must have signed the artifact; see `Artifact.open`.
        progress: Told how far the work is.

    Raises:
        ArtifactError: The folder is not an artifact, or is damaged.
        MissingExtraError: The runtime is not installed.
        PromptError: No case fits the artifact, or no decode where one is needed.
        TargetError: The artifact cannot run here.
        ValueError: A number is too small.
    """
    if repetitions < 1:
        raise ValueError(f"repetitions is {repetitions}; it must be at least 1.")
    cases = list(all_cases(prompt, new, depths, batches))
    report = progress or silent
    report("load", 0, 1)
    start = time.perf_counter()
    artifact = Artifact.open(folder, trusted_key=trusted_key)
    verified = time.perf_counter() - start
    check_gpu(artifact)
    fitting, left_out = _fitting(cases, artifact, needs_decode)
    device = artifact.device
    threads = physical_cores() if threads is None else threads
    # Allocated before the artifact is loaded, so that the artifact's own memory can be measured.
    bandwidth = ReadBandwidth(threads, device)
    used_before = device_memory(device)
    start = time.perf_counter()
    with open_model(artifact, threads=threads, graphs=graphs) as model:
        loaded = time.perf_counter() - start
        report("load", 1, 1)
        with artifact.unchanged():
            weights = weight_traffic(artifact)
        results = []
        for case in fitting:
            result = measure(model, case, weights, bandwidth, repetitions, report)
            result.peak_memory = peak_memory(less=bandwidth.host_bytes)
            result.device_memory = device_memory(device, less=used_before)
            results.append(result)
        chunk = model.prefill_chunk_size
    spec, manifest = artifact.spec, artifact.manifest
    return BenchReport(
        model=_name(spec),
        parameters=num_parameters(spec),
        head=spec.head.kind,
        target=manifest.target,
        precision=_precision(artifact, graphs),
        size=sum(file["size"] for name, file in manifest.files.items() if name.startswith("model.")),
        max_length=manifest.cache["max_length"],
        device=device,
        threads=threads,
        repetitions=repetitions,
        prefill_chunk_size=chunk,
        load_seconds=loaded,
        verify_seconds=verified,
        weights=weights.bytes(1),
        results=results,
        left_out=left_out,
        versions=_versions(),
    )


def measure(
    model: ExaonePreTrainedModel,
    case: Case,
    weights: WeightTraffic,
    bandwidth: ReadBandwidth,
    repetitions: int,
    progress: Progress,
) -> Result:
    """Run one case, once to warm up and then ``repetitions`` times; the memory's bandwidth is read before each."""
    result = Result(case)
    if case.kind == DECODE:
        # The first new token comes of the context's last, and a gap lies behind it.
        result.step_bytes = step_bytes(weights, model.session.geometry, case.batch, case.context + 1, case.length - 1)
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(0, model.session.vocab_size, (case.batch, case.context), generator=generator)
    cache = context_cache(model, case) if case.kind == DECODE else None
    for number in range(-1, repetitions):
        progress(case.name, max(number, 0), repetitions)
        if cache is not None:
            cache.assume(case.context - 1)
        if number < 0:
            _run(model, case, input_ids, cache)
            continue
        speed = bandwidth.measure()
        with timed_steps(model) as steps:
            tokens = _run(model, case, input_ids, cache)
        result.bandwidths.append(speed)
        result.first_tokens.append(tokens.first)
        in_session = steps.seconds(since=tokens.times[0] if case.kind == DECODE else tokens.started)
        seconds = sum(tokens.gaps) if case.kind == DECODE else tokens.first
        counted = len(tokens.gaps) if case.kind == DECODE else case.tokens
        result.rates.append(case.batch * counted / seconds)
        result.gaps += tokens.gaps
        result.steps += in_session
        result.session_seconds.append(sum(in_session))
        result.session_shares.append(sum(in_session) / seconds)
    progress(case.name, repetitions, repetitions)
    return result


def context_cache(model: ExaonePreTrainedModel, case: Case) -> HybridCache:
    """A cache whose rows hold zeros for the case's context: no kernel's speed depends on what it multiplies."""
    cache = model.new_cache()
    cache.allocate(case.batch)
    for tensors in cache.buffers.sets:
        for tensor in tensors:
            # The pages behind the context stay untouched, and cost no memory.
            tensor[:, :, : case.context] = 0
    return cache


def _run(model: ExaonePreTrainedModel, case: Case, input_ids: torch.Tensor, cache: HybridCache | None) -> TokenClock:
    continued: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
    mask = torch.ones_like(input_ids)
    clock = TokenClock()
    if case.kind == FORWARD:
        model(input_ids, attention_mask=mask)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        clock.times.append(time.perf_counter())
        return clock
    assert isinstance(model, ExaoneForCausalLM)
    with no_defaults(model):
        model.generate(
            input_ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=case.new_tokens,
            eos_token_id=model.session.vocab_size,  # a token that does not exist
            pad_token_id=0,
            streamer=clock,
            **continued,
        )
    assert len(clock.times) == case.new_tokens
    return clock


def _fitting(cases: Sequence[Case], artifact: Artifact, needs_decode: bool) -> tuple[list[Case], list[LeftOut]]:
    head = artifact.spec.head
    if not head.is_causal_lm:
        if needs_decode:
            raise PromptError(
                f"a plot shows decoding, and {artifact.spec.architecture} generates no tokens; leave --plot out."
            )
        cases = forward_cases(cases)
    engine, max_length = artifact.engine, artifact.manifest.cache["max_length"]
    rows = None if engine is None else min(profile.batch.maximum for profile in engine.profiles)
    fitting, left_out = fit(cases, max_length, rows)
    if not fitting:
        raise PromptError(
            f"no test fits: {left_out[0].case.name} would be the first, and {left_out[0].reason}, or pass a smaller "
            f"{'--prompt, --new, --depth' if head.is_causal_lm else '--prompt'} or --batch."
        )
    if needs_decode and not any(case.kind == DECODE for case in fitting):
        raise PromptError("a plot shows decoding, and no decode fits the artifact; pass a smaller --depth or --new.")
    return fitting, left_out


def _precision(artifact: Artifact, graphs: GraphChoice) -> str:
    """Of the layers; of the prompts' first where they have another one."""
    own, prefill = artifact.manifest.precision, artifact.prefill
    return own if prefill is None or not graphs.prefill else f"{prefill.precision}/{own}"


def _name(spec: ModelSpec) -> str:
    parameters = num_parameters(spec)
    short = f"{parameters / 1e9:.2f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"
    return f"{spec.model_type} {short}" if spec.head.is_causal_lm else f"{spec.model_type} {spec.head.kind} {short}"


def _versions() -> dict[str, str]:
    found = {}
    for name in _RUNTIMES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
