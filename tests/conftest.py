"""Models and artifacts that the tests share: made once a run, from random weights or from the trained checkpoint."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exaone_export.model.published import PUBLISHED

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "exaone4-tiny"

# The published scaling, from a length that short prompts pass.
LLAMA3 = PUBLISHED["1.2b"].rope.to_config() | {"rope_theta": 10_000.0, "original_max_position_embeddings": 64}
HYBRID = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "sliding_window": 8,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    "rope_parameters": LLAMA3,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

SaveModel = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """A process that a shell has put into the background ignores SIGINT, and so do the processes that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def without_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Hide an installed package from imports."""
    for module in [each for each in sys.modules if each.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The tests run side by side, a process a core, and their tensors are small; a second thread would only wait."""
    import torch

    from exaone_export.runtime.sessions import onnxruntime_loading

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime_loading, "physical_cores", lambda: 1)
        yield


@pytest.fixture(scope="session", autouse=True)
def _libraries_are_no_garbage(_one_thread: None) -> None:
    """A collection walks everything alive; libraries and tests alone are a million objects, none of them garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What a process wrote is there when it is killed, synced or not; only a loss of power could tell the difference.

    A test that asks when something is synced watches or replaces `os.fsync` itself.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: os.fstat(descriptor) and None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the product keeps from one start to the next is kept for this run, and not for the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _log() -> Iterator[None]:
    """A server's log, begun in the process of a test, ends with it."""
    log = logging.getLogger("exaone_export")
    before = log.handlers, log.propagate, log.level
    yield
    log.handlers, log.propagate, log.level = before


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """What a run makes once for its workers: ``shared(kind, key, make)``, see `made_once`; nobody changes it."""
    from tests.shared import made_once

    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    found: dict[Path, dict[str, int]] = {}

    def times(path: Path) -> dict[str, int]:
        return {str(each): each.stat().st_mtime_ns for each in [path, *path.rglob("*")]}

    def share(kind: str, key: object, make: Callable[[Path], object]) -> Path:
        (folder / kind).mkdir(exist_ok=True)
        path = made_once(folder / kind, key, make)
        if path not in found:
            found[path] = times(path)
        return path

    yield share
    changed = [path for path, before in found.items() if times(path) != before]
    assert not changed, f"a test has changed what all of them share: {changed}"


@pytest.fixture(scope="session", autouse=True)
def _traces_made_once(shared: Callable[..., Path]) -> Iterator[None]:
    from tests.shared import traces_made_once

    with traces_made_once(partial(shared, "traces")):
        yield


@pytest.fixture(scope="session")
def save_model(shared: Callable[..., Path]) -> SaveModel:
    """Make a folder in Hugging Face form: ``save_model(seed=0, dtype="float32", **config)``, `HYBRID` by default.

    ``head="question-answering"`` is a kind of head, by default a causal language model's.
    """

    def save(seed: int = 0, dtype: str = "float32", **changes: Any) -> Path:
        key = (seed, dtype, sorted(changes.items()))
        return shared("models", key, lambda out: random_model(seed, dtype, **changes).save_pretrained(out))

    return save


def random_model(seed: int = 0, dtype: str = "float32", head: str = "causal-lm", **changes: Any) -> Any:
    """A transformers model of random weights that all matter: norms away from one, sublayers of unit size."""
    import torch
    import transformers

    from exaone_export.model.heads import ARCHITECTURES

    torch.manual_seed(seed)
    config = transformers.Exaone4Config(**(HYBRID | changes))
    model = getattr(transformers, ARCHITECTURES[head])(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            elif "embed" in name:
                weight.normal_()
            else:
                weight.normal_(std=weight.shape[-1] ** -0.5)
    return model.to(getattr(torch, dtype)).eval()


@pytest.fixture
def generator() -> Any:
    """A seeded `torch.Generator`."""
    import torch

    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def random_hybrid(save_model: SaveModel) -> Path:
    """A small random hybrid: window 8, three local layers and a global one."""
    return save_model()


@pytest.fixture(scope="session")
def export_artifact(shared: Callable[..., Path]) -> Callable[..., Path]:
    """Export once a run: ``export_artifact(model_folder, target, max_length=256, precision=None, **options)``.

    Where a target's caches have room for a step of limited length, it is 16 tokens unless it is given.
    """

    def export_once(model: Path, target: str, max_length: int = 256, precision: str | None = None, **more: Any) -> Path:
        from exaone_export.exporter.export import export
        from exaone_export.targets.target import get_target

        chunk = {"prefill_chunk": 16} if get_target(target).cache_headroom else {}
        precision = precision or get_target(target).precisions[0]
        options = {"target": target, "max_length": max_length, "precision": precision, **chunk, **more}
        return shared("artifacts", (model, sorted(options.items())), lambda out: export(model, out, **options))

    return export_once


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-forms", action="store_true", help="build every configuration's engine in every precision")
    parser.addoption("--replacing-seconds", type=float, default=1, help="how long artifacts are replaced under readers")


@pytest.fixture
def all_forms(request: pytest.FixtureRequest) -> bool:
    """Whether every configuration is built in every precision; otherwise each in one of them, in turn."""
    return bool(request.config.getoption("--all-forms"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests have recorded as their outcomes, which is more than that they passed."""
    reports = [report for key in ("passed", "failed") for report in terminalreporter.getreports(key)]
    lines = [text for report in reports for name, text in report.user_properties if name == "outcomes"]
    held = Counter(
        report.nodeid.partition("::")[0]
        for report in terminalreporter.getreports("passed")
        if report.when == "call" and "hostile" in report.keywords
    )
    lines += [f"{path}: {count} attempts held" for path, count in held.items()]
    if lines:
        terminalreporter.section("outcomes")
        for line in sorted(set(lines)):
            terminalreporter.write_line(line)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """``mount(name, "-t", "tmpfs", …)``: mounts at a new path in the test's folder; skips where that is not allowed."""
    made: list[Path] = []

    def make(path: Path, *options: str) -> Path:
        if not path.exists():
            path.mkdir(parents=True)
        if not shutil.which("mount") or subprocess.run(["mount", *options, path], capture_output=True).returncode:
            pytest.skip("mounting takes a privilege that this process does not have")
        made.extend({path}.difference(made))
        return path

    yield make
    for path in reversed(made):
        subprocess.run(["umount", path], check=True)
