"""The ONNX Runtime session by itself."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError, MissingExtraError, TargetError
from exaone_export.runtime.core.buffers import BufferPool
from exaone_export.runtime.core.steps import Step
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.runtime.sessions import threads
from exaone_export.runtime.sessions.onnxruntime import OnnxRuntimeSession
from tests.conftest import SaveModel, without_package
from tests.runtime.conftest import tokens


def test_a_missing_runtime_is_named_with_its_extra(artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = Artifact.open(artifacts["onnx"])
    without_package(monkeypatch, "onnxruntime")
    with pytest.raises(MissingExtraError, match=r"pip install 'exaone-export\[cpu\]'"):
        OnnxRuntimeSession(artifact)


@pytest.mark.parametrize("version", ["1.31.1", "1.4.0", "0.99.0"])
def test_an_old_runtime_is_refused(artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "__version__", version)
    with pytest.raises(TargetError, match=f"onnxruntime is {version} and must be 1.32 or later"):
        OnnxRuntimeSession(Artifact.open(artifacts["onnx"]))


def test_a_graph_of_another_manifest_is_refused(artifacts: dict[str, Path]) -> None:
    artifact = Artifact.open(artifacts["onnx"])
    cache = {"max_length": 256, "capacities": [8] * 5, "windows": [8] * 5, "headrooms": [0] * 5}
    manifest = msgspec.structs.replace(artifact.manifest, cache=cache)
    with pytest.raises(ArtifactError, match="does not take the caches that its manifest describes"):
        OnnxRuntimeSession(dataclasses.replace(artifact, manifest=manifest))


def test_a_closed_session_says_so(artifacts: dict[str, Path]) -> None:
    with ExaoneForCausalLM.from_pretrained(artifacts["onnx"], threads=1) as model:
        model(tokens(1, 3))
    with pytest.raises(RuntimeError, match="the session is closed"):
        model(tokens(1, 3))


def test_no_logits_wanted(loaded: Any) -> None:
    cache = loaded.new_cache()
    cache.allocate(1)
    cache.prepare(3, [0])
    (found,) = loaded.session.step(Step(tokens(1, 3).numpy(), [0], [3], kept=[]), cache.buffers)
    assert found.shape == (1, 0, loaded.session.vocab_size)


def test_a_token_s_inputs_are_bound_once_and_its_outputs_stay(artifacts: dict[str, Path], monkeypatch: Any) -> None:
    with OnnxRuntimeSession(Artifact.open(artifacts["ort-cpu"]), threads=1) as session:
        bound: list[str] = []
        bind = session._bind
        monkeypatch.setattr(session, "_bind", lambda call, name, *rest: (bound.append(name), bind(call, name, *rest)))
        pool = BufferPool(session.geometry)
        outputs, copies = [], []
        for buffers in (pool.take(1), pool.take(1)):
            session.step(Step(tokens(1, 5).numpy(), [0], [5], kept=[]), buffers)
            bound.clear()
            for past in range(5, 9):
                (logits,) = session.step(Step(tokens(1, 1, seed=past).numpy(), [past], [1]), buffers)
                outputs.append(logits)
                copies.append(logits.copy())
            assert [bound.count(name) for name in ("logits", "input_ids", "position_ids")] == [1, 1, 1]
    # The same tokens over both, and every token's logits where they were given.
    assert all(np.array_equal(one, other) for one, other in zip(outputs, copies, strict=True))
    assert all(np.array_equal(one, other) for one, other in zip(outputs[:4], outputs[4:], strict=True))
    assert not np.array_equal(outputs[0], outputs[1])


def test_a_run_asks_for_no_option_that_is_missing(artifacts: dict[str, Path]) -> None:
    # ONNX Runtime looks it up in every run, and where it is missing that takes longer than the rest of Python's work.
    with OnnxRuntimeSession(Artifact.open(artifacts["ort-cpu"]), threads=1) as session:
        assert session._run_options().get_run_config_entry("gpu_graph_id") == "0"


def test_tied_words_and_no_logits_wanted(save_model: SaveModel, export_artifact: Callable[..., Path]) -> None:
    """A prompt of several steps wants no logits of the first ones."""
    folder = export_artifact(save_model(tie_word_embeddings=True), "ort-cpu", 64)
    with ExaoneForCausalLM.from_pretrained(folder, threads=1, prefill_chunk_size=7) as model:
        in_steps = model(tokens(2, 20), logits_to_keep=1).logits
        model.prefill_chunk_size = 512
        torch.testing.assert_close(in_steps, model(tokens(2, 20), logits_to_keep=1).logits, rtol=0, atol=1e-5)


def test_float16(random_hybrid: Path, export_artifact: Callable[..., Path], reference: Any) -> None:
    folder = export_artifact(random_hybrid, "onnx", 64, "float16")
    with ExaoneForCausalLM.from_pretrained(folder, threads=1) as model:
        assert model.dtype == torch.float16
        assert model.generate(tokens(1, 20), max_new_tokens=8).shape == (1, 28)
        found = model(tokens(1, 20)).logits
    with torch.no_grad():
        expected = reference(tokens(1, 20)).logits
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.1)


def test_a_precision_without_kernels_is_named(artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    def no_kernel(*_: Any, **__: Any) -> Any:
        raise state.NotImplemented("MatMul")

    monkeypatch.setattr(onnxruntime, "InferenceSession", no_kernel)
    with pytest.raises(
        TargetError, match="no float32 kernels on CPUExecutionProvider; export with --precision float32"
    ):
        ExaoneForCausalLM.from_pretrained(artifacts["onnx"])


def test_a_graph_that_cannot_be_read(artifacts: dict[str, Path], tmp_path: Path) -> None:
    artifact = Artifact.open(artifacts["onnx"])
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(
        ArtifactError, match="is not an ONNX graph that an export writes: it has a field of wire type 6"
    ):
        OnnxRuntimeSession(dataclasses.replace(artifact, folder=tmp_path, _is_onnx=False))
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a")  # a version and nothing else
    with pytest.raises(ArtifactError, match=r"cannot load .*model.onnx; export the model again"):
        OnnxRuntimeSession(dataclasses.replace(artifact, folder=tmp_path))


def test_the_model_stays_where_it_is(loaded: Any) -> None:
    from exaone_export.errors import UnsupportedOptionError

    assert loaded.to("cpu").eval() is loaded and loaded.to(torch.float32) is loaded
    assert loaded.to("cpu", non_blocking=True) is loaded
    with pytest.raises(UnsupportedOptionError, match="cannot be moved"):
        loaded.to("cuda")
    with pytest.raises(UnsupportedOptionError, match="precision is fixed"):
        loaded.to(dtype=torch.float16)


def test_a_thread_for_every_physical_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{n}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    monkeypatch.setattr(threads, "_TOPOLOGY", tmp_path)
    for available, cores in (({0, 1, 2, 3}, 2), ({0, 2}, 1), ({1}, 1), ({0, 1, 9}, 3)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, found=available: found)
        assert threads.physical_cores() == cores


def test_a_chunk_has_at_least_one_token(loaded: Any) -> None:
    with pytest.raises(ValueError, match="prefill_chunk_size is 0"):
        ExaoneForCausalLM(loaded.session, loaded.config, loaded.generation_config, prefill_chunk_size=0)


def test_closing_lets_the_buffers_go(artifacts: dict[str, Path]) -> None:
    import gc
    import weakref

    model = ExaoneForCausalLM.from_pretrained(artifacts["onnx"], threads=1)
    buffers = weakref.ref(model(tokens(1, 3)).past_key_values.buffers)
    gc.collect()
    assert buffers() is not None  # kept for the next call
    model.close()
    gc.collect()
    assert buffers() is None


class TestOnAGpu:
    """What is refused where there is no GPU, or no build of ONNX Runtime for it."""

    @pytest.fixture
    def folder(self, random_hybrid: Path, export_artifact: Callable[..., Path]) -> Path:
        return export_artifact(random_hybrid, "ort-cuda", 64)

    def test_a_build_without_cuda_is_named(self, folder: Path) -> None:
        with pytest.raises(TargetError, match=r"is a build without CUDA; .*pip install 'exaone-export\[cuda\]'\."):
            ExaoneForCausalLM.from_pretrained(folder)

    def test_a_machine_without_a_gpu_is_named(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
        with pytest.raises(TargetError, match=r"PyTorch sees none here; .*--target ort-cpu\."):
            ExaoneForCausalLM.from_pretrained(folder)

    def test_the_cpu_is_never_fallen_back_to(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import onnxruntime

        from exaone_export.runtime.sessions import onnxruntime_loading, session_stream

        class OnTheCpu:
            def __init__(self, *_: Any, **__: Any) -> None:
                pass

            def get_providers(self) -> list[str]:
                return ["CPUExecutionProvider"]

        monkeypatch.setattr(onnxruntime_loading, "_check_gpu", lambda _runtime: None)
        monkeypatch.setattr(session_stream.SessionStream, "handle", 0)
        monkeypatch.setattr(onnxruntime, "InferenceSession", OnTheCpu)
        with pytest.raises(TargetError, match="could not start CUDAExecutionProvider"):
            ExaoneForCausalLM.from_pretrained(folder)
