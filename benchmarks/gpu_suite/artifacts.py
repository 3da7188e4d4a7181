"""The checkpoints and artifacts of the suite: the tiny checkpoint, irregular hybrids, and the 1.2B shape."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
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


HEADED = "window 5, heads of 64, groups of 2"
"""The hybrid that stands under every other head."""


def save_hybrid(name: str, folder: Path, head: str = "causal-lm") -> Path:
    """A model of random weights that all matter: norms away from one, sublayers of unit size."""
    import transformers

    from exaone_export.model.heads import ARCHITECTURES

    layers, window, heads, kv_heads, head_dim, tied = HYBRIDS[name]
    config = transformers.Exaone4Config(
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
    model = getattr(transformers, ARCHITECTURES[head])(config)
    with torch.no_grad():
        for label, weight in model.named_parameters():
            if "norm" in label:
                weight.uniform_(0.5, 1.5)
            else:
                weight.normal_(std=1.0 if "embed" in label else weight.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    return folder


class Exports:
    """Checkpoints and artifacts, each made by a process of its own as soon as it can be.

    Args:
        work: Where they go.

    Attributes:
        work: As given.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self._pool = ThreadPoolExecutor()
        self._made: dict[Path, Future[None]] = {}

    def begin_published(self) -> Path:
        """Start to write the 1.2B shape with random weights."""
        return self._begin(self.work / "1.2b", None, "random-checkpoint", "--shape", "1.2b", "--tokenizer", TINY)

    def begin_layers(self, shape: str, layers: int) -> Path:
        """Start to write the first layers of a published shape with random weights."""
        return self._begin(self.work / shape, None, "random-checkpoint", "--shape", shape, "--layers", layers)

    def begin(self, model: Path, target: str, precision: str, max_length: int) -> Path:
        """Start an export; `wait` is to be called before the folder is used.

        Args:
            model: A checkpoint, which another call may still be making.
            target: As the command's option, like the others.
            precision: Likewise.
            max_length: Likewise.
        """
        out = self.work / f"{model.name}-{target}-{precision}"
        options = ("--target", target, "--precision", precision, "--max-length", max_length, "--no-plan-check")
        return self._begin(out, self._made.get(model), "export", model, *options)

    def wait(self, out: Path) -> Path:
        """The folder, finished.

        Raises:
            RuntimeError: It could not be made; the message has the command's last line.
        """
        self._made[out].result()
        return out

    def wait_for_all(self) -> None:
        """Return when nothing is made any more; what failed says so where it is used."""
        wait(self._made.values())

    def _begin(self, out: Path, after: Future[None] | None, command: str, *arguments: Any) -> Path:
        if out not in self._made:
            self._made[out] = self._pool.submit(self._make, out, after, command, *arguments)
        return out

    @staticmethod
    def _make(out: Path, after: Future[None] | None, command: str, *arguments: Any) -> None:
        if after is not None:
            after.result()
        if out.exists():
            return
        given = [*arguments[:1], out, *arguments[1:]] if command == "export" else [out, *arguments]
        run = [sys.executable, "-m", "exaone_export", command, *map(str, given)]
        found = subprocess.run(run, check=False, capture_output=True, text=True)
        if found.returncode:
            raise RuntimeError(f"{command} of {out.name} failed: {found.stderr.strip().splitlines()[-1]}")


def refuse_rtx() -> None:
    """Raise `NotRunError` where TensorRT-RTX is not installed or does not run on this GPU."""
    from exaone_export.errors import MissingExtraError, TargetError
    from exaone_export.targets.flavour import FLAVOURS

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
    from exaone_export import build_engine

    engine = artifact.with_name(f"{artifact.name}-engine")
    if not engine.exists():
        build_engine(artifact, engine, max_batch=4)
    return engine


def vocabulary(model: Path) -> int:
    """Tokens of a checkpoint's vocabulary."""
    size: int = json.loads((model / "config.json").read_text())["vocab_size"]
    return size
