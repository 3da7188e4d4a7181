"""onnxruntime-genai's CUDA build on an artifact: its tokens beside ours, and its speed, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpu_suite.parts import Found, NotRunError

PROMPT, NEW = 200, 48
TIMED_PROMPT, TIMED_NEW = 512, 128
_SECONDS = 120


def equal_tokens(folder: Path) -> Found:
    """Greedy tokens of a prompt and of two prompts of different lengths, as our own runtime gives them.

    Raises:
        NotRunError: onnxruntime-genai is not installed.
        RuntimeError: Its process failed, or a token differs.
    """
    import torch

    from exaone_export import ExaoneForCausalLM

    theirs = _run(folder, "tokens")
    with ExaoneForCausalLM.from_pretrained(folder) as model:
        ours = []
        for prompt in _prompts(model.config.vocab_size):
            ids = torch.tensor([prompt])
            made = model.generate(ids, do_sample=False, max_new_tokens=NEW)
            ours.append(made[0, len(prompt) :].tolist())
    found: Found = {"tokens": [len(each) for each in ours], "equal": _equal(ours, theirs["single"])}
    # A batch whose prompts differ in length: a finding, because onnxruntime-genai pads in a way of its own.
    found["equal in a batch"] = theirs["refused"] or _equal(ours, theirs["batch"])
    if found["equal"] != found["tokens"]:
        raise RuntimeError(f"the tokens differ: {json.dumps(found)}")
    return found


def speed(folder: Path) -> Found:
    """Prefill and decode of onnxruntime-genai, in tokens a second.

    Raises:
        NotRunError: onnxruntime-genai is not installed.
        RuntimeError: Its process failed.
    """
    return _run(folder, "speed")


def _run(folder: Path, what: str) -> Found:
    if importlib.util.find_spec("onnxruntime_genai") is None:
        raise NotRunError("onnxruntime-genai is not installed; run: pip install onnxruntime-genai-cuda.")
    command = [sys.executable, str(Path(__file__).resolve()), what, str(folder)]
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"onnxruntime-genai ended with {done.returncode}: {done.stderr[-600:]}")
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def _prompts(vocab_size: int) -> list[list[int]]:
    """Two prompts of different lengths; none of the first tokens, which are special."""
    first = 20
    return [[first + (i * 37 + seed * 11) % (vocab_size - first) for i in range(PROMPT - 61 * seed)] for seed in (0, 1)]


def _equal(ours: list[list[int]], theirs: list[list[int]]) -> list[int]:
    """How many of each row's first tokens are equal; ours may have ended earlier."""
    rows = [list(zip(mine, other, strict=False)) for mine, other in zip(ours, theirs, strict=True)]
    return [next((i for i, (a, b) in enumerate(row) if a != b), len(row)) for row in rows]


def _open(folder: str) -> Any:
    import onnxruntime
    import onnxruntime_genai as og
    import torch

    if torch.cuda.is_available():  # The CUDA libraries that PyTorch has installed serve this too.
        onnxruntime.preload_dlls()
    config = og.Config(folder)
    config.overlay('{"model": {"eos_token_id": []}}')
    return og, og.Model(config)


def _generate(og: Any, model: Any, prompts: Any, count: int) -> list[list[int]]:
    import numpy as np

    params = og.GeneratorParams(model)
    params.set_search_options(do_sample=False, batch_size=len(prompts))
    generator = og.Generator(model, params)
    longest = max(map(len, prompts))
    generator.append_tokens(np.array([prompt + [0] * (longest - len(prompt)) for prompt in prompts], np.int32))
    made: list[list[int]] = [[] for _ in prompts]
    for _ in range(count):
        generator.generate_next_token()
        for row, token in zip(made, generator.get_next_tokens(), strict=True):
            row.append(int(token))
    return made


def main() -> None:
    """Print what was found, as one JSON object."""
    what, folder = sys.argv[1:]
    og, model = _open(folder)
    config = json.loads((Path(folder) / "genai_config.json").read_text())
    vocab_size = config["model"]["vocab_size"]
    found: Found
    if what == "tokens":
        prompts = _prompts(vocab_size)
        found = {"single": [_generate(og, model, [each], NEW)[0] for each in prompts], "batch": None, "refused": None}
        try:
            found["batch"] = _generate(og, model, prompts, NEW)
        except Exception as error:  # noqa: BLE001 - whatever it says is the finding
            found["refused"] = str(error)[:300]
    else:
        prompt = [20 + i % (vocab_size - 20) for i in range(TIMED_PROMPT)]
        _generate(og, model, [prompt], 8)
        start = time.perf_counter()
        _generate(og, model, [prompt], 1)
        first = time.perf_counter() - start
        start = time.perf_counter()
        _generate(og, model, [prompt], 1 + TIMED_NEW)
        decode = time.perf_counter() - start - first
        found = {
            "prefill tokens/s": round(TIMED_PROMPT / first),
            "decode tokens/s": round(TIMED_NEW / decode, 1),
            "version": og.__version__,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
