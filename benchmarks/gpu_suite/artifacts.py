"""The checkpoints and artifacts of the suite: the tiny checkpoint, irregular hybrids, and the 1.2B shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from gpu_suite.parts import NotRunError

ROOT = Path(__file__).parents[2]
TINY = ROOT / "examples" / "exaone4-tiny"
MAX_LENGTH = 2048
RTX = "tensorrt-rtx"

LOCAL, GLOBAL = "sliding_attention", "full_attention"
# By name: layers, window, attention and key-value heads, head size, tied embeddings.
HYBRIDS: dict[str, tuple[str, int | None, int, int, int, bool]] = {
    "window 1, heads of 32, one group": ("LLLG", 1, 4, 4, 32, False),
    "window 5, heads of 64, groups of 2": ("LGLLG", 5, 4, 2, 64, True),
    "window 11, heads of 128, groups of 3": ("LLG", 11, 6, 2, 128, False),
    "window 37, heads of 64, groups of 4": ("GLLLG", 37, 8, 2, 64, True),
    "no window, heads of 128, groups of 5": ("GGG", None, 5, 1, 128, False),
}
HYBRID_LENGTH, HYBRID_WORDS = 256, 1000


def save_hybrid(name: str, folder: Path) -> Path:
    """A model of random weights that all matter: norms away from one, sublayers of unit size."""
    from transformers import Exaone4Config, Exaone4ForCausalLM

    layers, window, heads, kv_heads, head_dim, tied = HYBRIDS[name]
    config = Exaone4Config(
        vocab_size=HYBRID_WORDS,
        hidden_size=192,
        intermediate_size=320,
        num_hidden_layers=len(layers),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        sliding_window=window,
        layer_types=[LOCAL if kind == "L" else GLOBAL for kind in layers],
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = Exaone4ForCausalLM(config)
    with torch.no_grad():
        for label, weight in model.named_parameters():
            if "norm" in label:
                weight.uniform_(0.5, 1.5)
            else:
                weight.normal_(std=1.0 if "embed" in label else weight.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    return folder


def save_published(folder: Path) -> Path:
    """The 1.2B shape with random weights."""
    from exaone_export.exporter.random_checkpoint import PUBLISHED, write_random_checkpoint

    if not folder.exists():
        write_random_checkpoint(folder, PUBLISHED["1.2b"], tokenizer_from=TINY)
    return folder


class Exports:
    """Artifacts, each exported by a process of its own as soon as it is asked for, all at once.

    Args:
        work: Where they go.
    """

    def __init__(self, work: Path) -> None:
        self._work = work
        self._running: dict[Path, subprocess.Popen[str]] = {}

    def begin(self, model: Path, target: str, precision: str, max_length: int) -> Path:
        """Start an export unless its folder is there; `wait` is to be called before the folder is used."""
        out = self._work / f"{model.name}-{target}-{precision}"
        if out not in self._running and not out.exists():
            command: list[Any] = [sys.executable, "-m", "exaone_export", "export", model, out, "--target", target]
            command += ["--precision", precision, "--max-length", max_length, "--no-plan-check"]
            pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
            self._running[out] = subprocess.Popen([str(part) for part in command], **pipes)
        return out

    def wait(self, out: Path) -> Path:
        """The folder, finished."""
        if (process := self._running.pop(out, None)) is not None:
            _, errors = process.communicate()
            if process.returncode:
                raise RuntimeError(f"the export of {out.name} failed: {errors.strip().splitlines()[-1]}")
        return out

    def wait_for_all(self) -> None:
        """Return when no export runs any more; one that failed says so where it is used."""
        for process in self._running.values():
            process.wait()


def refuse_rtx() -> None:
    """Raise `NotRunError` where TensorRT-RTX is not installed or does not run on this GPU."""
    from exaone_export.engine import FLAVOURS
    from exaone_export.errors import MissingExtraError, TargetError

    try:
        FLAVOURS["tensorrt_rtx"].load()
    except MissingExtraError as error:
        raise NotRunError(str(error)) from error
    major, minor = torch.cuda.get_device_capability()
    try:
        FLAVOURS["tensorrt_rtx"].check_gpu(f"{major}.{minor}")
    except TargetError as error:
        raise NotRunError(str(error)) from error


def build_engine(artifact: Path) -> Path:
    """An engine from an artifact, for up to four rows."""
    from exaone_export.exporter.build.engine import build_engine

    engine = artifact.with_name(f"{artifact.name}-engine")
    if not engine.exists():
        build_engine(artifact, engine, max_batch=4)
    return engine


def vocabulary(model: Path) -> int:
    """Tokens of a checkpoint's vocabulary."""
    size: int = json.loads((model / "config.json").read_text())["vocab_size"]
    return size
