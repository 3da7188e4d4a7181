"""The session of TensorRT engines: what it tells an execution context, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError, MissingExtraError, PromptError, TargetError
from exaone_export.runtime.core.buffers import BufferPool
from exaone_export.runtime.core.steps import Step
from exaone_export.runtime.sessions import engine_loading
from exaone_export.runtime.sessions.engine_loading import load_engine
from exaone_export.runtime.sessions.step_tensors import mask_columns
from exaone_export.targets.engine import DECODE, PREFILL
from tests.runtime.conftest import tokens
from tests.runtime.sessions.engine_double import engine_info, open_with_engine_session


@pytest.fixture
def engine(artifacts: dict[str, Path]) -> Iterator[Any]:
    with open_with_engine_session(artifacts["tensorrt-rtx"], max_batch=4) as model:
        yield model


def context(model: Any, profile: str) -> Any:
    return model.session._contexts[profile]._context


def test_a_single_token_changes_no_address_and_no_shape(engine: Any) -> None:
    cache = engine.new_cache()
    engine(tokens(1, 20), past_key_values=cache)
    engine(tokens(1, 1), past_key_values=cache)
    decode = context(engine, DECODE)
    told = decode.calls
    for seed in range(30):
        engine(tokens(1, 1, seed=seed), past_key_values=cache)
    assert decode.calls == told
    # 64 tokens are the first size of the mask; the 65th needs the next one.
    for seed in range(14):
        engine(tokens(1, 1, seed=seed), past_key_values=cache)
    assert decode.shapes["attention_mask"] == (1, 128)
    assert told < decode.calls < told + 10


def test_prompts_and_single_tokens_have_a_profile_each(engine: Any) -> None:
    engine.generate(tokens(2, 40), max_new_tokens=3, do_sample=False)
    assert context(engine, PREFILL).shapes["input_ids"] == (2, 8)  # 40 = 16 + 16 + 8
    assert context(engine, DECODE).shapes["input_ids"] == (2, 1)


def test_a_step_is_never_longer_than_the_engine_takes(engine: Any) -> None:
    engine.prefill_chunk_size = 512
    widths = []
    step = engine.session.step

    def watched(input_ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        widths.append(input_ids.shape[1])
        return step(input_ids, *rest)

    engine.session.step = watched
    engine(tokens(1, 50))
    assert widths == [16, 16, 16, 2]


def test_logits_are_the_callers(engine: Any) -> None:
    cache = engine.new_cache()
    first = engine(tokens(1, 5), past_key_values=cache, logits_to_keep=1).logits
    kept = first.clone()
    engine(tokens(1, 5, seed=1), past_key_values=cache, logits_to_keep=1)
    assert torch.equal(first, kept)


def test_more_rows_than_the_engine_takes_are_refused(engine: Any) -> None:
    with pytest.raises(PromptError, match=r"the batch has 5 rows, and the engine takes 4; .*--max-batch 5\."):
        engine(tokens(5, 3))


def test_a_shape_outside_the_profile_is_refused(engine: Any) -> None:
    cache = engine.new_cache()
    cache.allocate(5)
    with pytest.raises(TargetError, match=r"does not take input_ids of shape \[5, 3\]"):
        engine.session.step(Step(tokens(5, 3).numpy(), [0] * 5, [3] * 5), cache.buffers)


def test_a_prompt_that_overflowed_does_not_reach_the_next(engine: Any) -> None:
    pool = BufferPool(engine.session.geometry)
    buffers = pool.take(1)
    assert all((tensor == 0).all() for tensor in buffers.tensors)
    buffers.tensors[0].fill_(torch.nan)
    pool.give(buffers)
    assert pool.take(1) is buffers
    assert (buffers.tensors[0] == 0).all()


def test_a_call_in_inference_mode_is_followed_by_one_outside(engine: Any) -> None:
    with torch.inference_mode():
        within = engine.generate(tokens(1, 20), max_new_tokens=3, do_sample=False)
    assert torch.equal(engine.generate(tokens(1, 20), max_new_tokens=3, do_sample=False), within)


def test_a_closed_session_says_so(engine: Any) -> None:
    engine.close()
    with pytest.raises(RuntimeError, match="the session is closed"):
        engine(tokens(1, 3))


@pytest.mark.parametrize(
    ("columns", "wanted"), [(1, 64), (64, 64), (65, 128), (300, 320), (1024, 1024), (1025, 1280), (4000, 4096)]
)
def test_the_masks_sizes_are_few_and_near(columns: int, wanted: int) -> None:
    assert mask_columns(columns, 131_072) == wanted


def test_every_mask_holds_its_tokens_and_at_most_a_quarter_more() -> None:
    sizes = {mask_columns(n, 5000) for n in range(1, 5001)}
    assert len(sizes) < 25
    for n in range(1, 5001):
        assert n <= mask_columns(n, 5000) <= min(max(n + 63, n * 1.25), 5000)


class TestLoading:
    @pytest.fixture
    def artifact(self, artifacts: dict[str, Path]) -> Artifact:
        artifact = Artifact.open(artifacts["tensorrt-rtx"])
        return dataclasses.replace(artifact, engine=engine_info())

    @pytest.fixture
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int]], None]:
        """Pretend that PyTorch sees a GPU; nothing may then be deserialized that does not fit it."""

        def pretend(capability: tuple[int, int]) -> None:
            monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
            monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)

            def no_deserializing(*_: Any) -> Any:
                raise AssertionError("the engine was read")

            monkeypatch.setattr(engine_loading, "_deserialize", no_deserializing)

        return pretend

    def test_without_a_gpu_there_is_one_sentence(self, artifact: Artifact) -> None:
        with pytest.raises(TargetError, match=r"PyTorch sees no NVIDIA GPU here; .*--target ort-cpu\."):
            load_engine(artifact)

    def test_another_gpu_is_refused_before_a_byte_is_read(self, artifact: Artifact, gpu: Callable[..., None]) -> None:
        gpu((7, 5))
        with pytest.raises(TargetError, match=r"this GPU has 7\.5; run: exaone-export build"):
            load_engine(artifact)
        gpu((9, 0))
        with pytest.raises(TargetError, match=r"TensorRT-RTX does not run on GPUs of compute capability 9\.0"):
            load_engine(artifact)

    def test_another_version_is_refused_before_a_byte_is_read(
        self, artifact: Artifact, gpu: Callable[..., None]
    ) -> None:
        gpu((8, 9))
        assert artifact.engine is not None
        older = msgspec.structs.replace(artifact.engine, version="1.0.0.1")
        with pytest.raises(TargetError, match=r"built by TensorRT-RTX 1\.0\.0\.1"):
            load_engine(dataclasses.replace(artifact, engine=older))

    def test_a_missing_module_is_named_with_its_extra(self, artifact: Artifact) -> None:
        assert artifact.engine is not None
        other = msgspec.structs.replace(artifact.engine, flavour="tensorrt")
        with pytest.raises(MissingExtraError, match=r"pip install 'exaone-export\[tensorrt\]'"):
            load_engine(dataclasses.replace(artifact, engine=other))

    def test_an_engine_that_cannot_be_read(
        self, artifact: Artifact, gpu: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gpu((8, 9))
        monkeypatch.setattr(engine_loading, "_deserialize", lambda *_: None)
        monkeypatch.setattr("tensorrt_rtx.Runtime", lambda _logger: SimpleNamespace())
        with pytest.raises(ArtifactError, match=r"cannot read .*; run: exaone-export build"):
            load_engine(artifact)
