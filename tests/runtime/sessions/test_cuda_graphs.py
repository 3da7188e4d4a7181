"""Decode steps as captured graphs, on a session that is held to ONNX Runtime's rules for them: see `capturing`.

The artifact is `ort-cuda`'s, run by the CPU kernel; its local layers hold their window of 8 rows and evict at every
token, which is what a step that runs more often than once would spoil.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Exaone4ForCausalLM

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import CancelledError
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.runtime.sessions import cuda_graphs, onnxruntime
from exaone_export.runtime.sessions.cuda_graphs import CudaGraphSession
from exaone_export.runtime.sessions.session_stream import SessionStream
from exaone_export.runtime.sessions.step_tensors import StepTensors
from tests.conftest import HYBRID
from tests.runtime.mirror.test_dense_generation import export_for_cpu, generate, padded
from tests.runtime.sessions.capturing import CapturingSession

VOCAB_SIZE = HYBRID["vocab_size"]


@pytest.fixture(scope="module")
def folder(random_hybrid: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        out = tmp_path_factory.mktemp("cuda") / "artifact"
        yield export_for_cpu(random_hybrid, out, "float32", patch)


@pytest.fixture(scope="module")
def theirs(random_hybrid: Path) -> Any:
    return Exaone4ForCausalLM.from_pretrained(random_hybrid, dtype=torch.float32).eval()


@pytest.fixture
def ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    load = onnxruntime.load_graph
    monkeypatch.setattr(onnxruntime, "load_graph", lambda *given, **options: CapturingSession(load(*given, **options)))
    with ExaoneForCausalLM.from_pretrained(folder, threads=1) as plain:
        config, defaults = plain.config, plain.generation_config
    with CudaGraphSession(Artifact.open(folder), threads=1) as session:
        yield ExaoneForCausalLM(session, config, defaults, prefill_chunk_size=5)


def counts(model: Any) -> CapturingSession:
    return model.session._session


def sequences(model: Any, new: int, **arguments: Any) -> list[list[int]]:
    return generate(model, max_new_tokens=new, **arguments).sequences.tolist()


def test_answers_over_several_windows_are_transformers(ours: Any, theirs: Any, generator: torch.Generator) -> None:
    prompt = torch.randint(3, VOCAB_SIZE, (1, 13), generator=generator)
    found, wanted = (
        generate(model, max_new_tokens=40, output_logits=True, input_ids=prompt) for model in (ours, theirs)
    )
    assert found.sequences.tolist() == wanted.sequences.tolist()
    for one, other in zip(found.logits, wanted.logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    # Chunks of 5 are not captured; the first token comes from the last chunk.
    assert (counts(ours).plain, counts(ours).captures, counts(ours).replays) == (3, 1, 39)


def test_the_next_conversation_uses_the_graph_of_the_same_buffers(ours: Any, generator: torch.Generator) -> None:
    prompts = torch.randint(3, VOCAB_SIZE, (3, 1, 9), generator=generator)
    alone = [sequences(ours, 20, input_ids=prompt) for prompt in prompts]
    assert counts(ours).captures == 1
    assert [sequences(ours, 20, input_ids=prompt) for prompt in prompts] == alone


def test_several_caches_by_turns_keep_apart(ours: Any, theirs: Any, generator: torch.Generator) -> None:
    prompts = torch.randint(3, VOCAB_SIZE, (3, 1, 11), generator=generator)
    caches = [ours.new_cache() for _ in prompts]
    pairs = zip(prompts, caches, strict=True)
    tokens = [ours(prompt, past_key_values=cache).logits[:, -1:].argmax(-1) for prompt, cache in pairs]
    answers = [[int(token)] for token in tokens]
    for _ in range(24):
        for i, cache in enumerate(caches):
            tokens[i] = ours(tokens[i], past_key_values=cache).logits[:, -1:].argmax(-1)
            answers[i].append(int(tokens[i]))
    assert counts(ours).captures == 3
    wanted = [sequences(theirs, 25, input_ids=prompt)[0][11:] for prompt in prompts]
    assert answers == wanted


@pytest.mark.parametrize("lengths", [(23, 23, 23), (23, 4, 12)], ids=str)
def test_padded_batches_and_beams(lengths: tuple[int, ...], ours: Any, theirs: Any, generator: torch.Generator) -> None:
    prompt = padded(generator, lengths)
    for options in ({}, {"num_beams": 3}):
        assert sequences(ours, 20, **options, **prompt) == sequences(theirs, 20, **options, **prompt)
    assert counts(ours).captures == 2  # of 3 rows and of 9


def test_rollback_and_a_copy(ours: Any, theirs: Any, generator: torch.Generator) -> None:
    """A copy has addresses of its own; going back one token within what a step kept is exact."""
    prompt = torch.randint(3, VOCAB_SIZE, (1, 6), generator=generator)
    cache = ours.new_cache()
    ours(prompt, past_key_values=cache)
    tokens = sequences(theirs, 12, input_ids=prompt)[0][6:]
    for token in tokens[:2]:
        ours(torch.tensor([[token]]), past_key_values=cache)
    twin = copy.deepcopy(cache)
    cache.crop(-1)
    for model_cache, begin in ((cache, 1), (twin, 2)):
        for token, following in zip(tokens[begin:], tokens[begin + 1 :], strict=False):
            logits = ours(torch.tensor([[token]]), past_key_values=model_cache).logits
            assert int(logits.argmax()) == following
    assert counts(ours).captures == 2


def test_a_thread_captures_for_itself(ours: Any, theirs: Any, generator: torch.Generator) -> None:
    """Two threads of their own, one after the other: the second may get the identity of the first."""
    prompt = torch.randint(3, VOCAB_SIZE, (1, 9), generator=generator)
    wanted, cache, found = sequences(theirs, 30, input_ids=prompt)[0], ours.new_cache(), []

    def go_on(new: int) -> None:
        ids = torch.tensor([found[-1]]) if found else prompt
        out = generate(ours, input_ids=ids, past_key_values=cache, max_new_tokens=new)
        found.append(out.sequences[0].tolist())

    for _ in range(3):
        thread = threading.Thread(target=go_on, args=(10,))
        thread.start()
        thread.join()
        counts(ours)._captured = {
            key: bound for key, bound in counts(ours)._captured.items() if key[0] == threading.get_ident()
        }
    assert found[-1] == wanted
    assert counts(ours).captures == 3


def test_threads_take_turns(ours: Any, theirs: Any, generator: torch.Generator) -> None:
    prompts = torch.randint(3, VOCAB_SIZE, (3, 1, 11), generator=generator)
    found: dict[int, list[list[int]]] = {}

    def answer(i: int) -> None:
        found[i] = sequences(ours, 25, input_ids=prompts[i])

    threads = [threading.Thread(target=answer, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(prompts))] == [sequences(theirs, 25, input_ids=prompt) for prompt in prompts]


def test_a_cache_too_many_is_run_uncaptured(
    ours: Any, theirs: Any, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "_MOST_GRAPHS", 2)
    prompt = torch.randint(3, VOCAB_SIZE, (1, 9), generator=generator)
    wanted, caches = sequences(theirs, 12, input_ids=prompt), [ours.new_cache() for _ in range(4)]
    assert all(sequences(ours, 12, input_ids=prompt, past_key_values=cache) == wanted for cache in caches)
    assert counts(ours).captures == 2
    del caches
    gc.collect()


def test_what_a_cache_held_is_there_after_its_graph_was_captured(ours: Any) -> None:
    cache = ours.new_cache()
    ours(torch.arange(3, 9)[None], past_key_values=cache)
    buffers = cache.buffers
    before = [tensor.clone() for tensor in buffers.tensors]
    session = ours.session
    session._capture(session._bind_decode(buffers), buffers)
    for one, other in zip(buffers.tensors, before, strict=True):
        assert torch.equal(one[:, :, :6], other[:, :, :6])


def test_what_a_step_does_is_all_queued_on_the_session_s_stream(ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime waits for nothing, so that nothing may read, write or run beside the order of `SessionStream`."""
    inside, seen = [False], list[str]()

    @contextlib.contextmanager
    def ordered(_stream: Any) -> Iterator[None]:
        inside[0] = True
        yield
        inside[0] = False

    def watched(name: str, call: Any) -> Any:
        def checked(*arguments: Any) -> Any:
            assert inside[0]
            seen.append(name)
            return call(*arguments)

        return checked

    run = counts(ours).run_with_iobinding

    def unwaited(binding: Any, options: Any) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        run(binding, options)

    monkeypatch.setattr(SessionStream, "ordered", ordered)
    monkeypatch.setattr(counts(ours), "run_with_iobinding", watched("run", unwaited), raising=False)
    monkeypatch.setattr(cuda_graphs, "on_device", watched("inputs of a prompt", cuda_graphs.on_device))
    monkeypatch.setattr(StepTensors, "fill", watched("inputs", StepTensors.fill))
    cache = ours.new_cache()
    first = ours(torch.arange(3, 8)[None], past_key_values=cache).logits
    second = ours(torch.tensor([[9]]), past_key_values=cache).logits
    kept = second.clone()
    ours(torch.tensor([[11]]), past_key_values=cache)
    assert seen == ["inputs of a prompt", "run", "inputs", "run", "inputs", "run", "inputs", "run"]
    assert torch.equal(second, kept)  # the caller's, and not where the next step writes
    assert not inside[0]
    assert first.shape[1] == 5


def test_a_decode_step_that_is_cancelled_leaves_later_ones_as_they_were(ours: Any, generator: torch.Generator) -> None:
    """Its run options last, and an end that somebody asks for must not stay in them."""
    prompt = torch.randint(3, VOCAB_SIZE, (1, 9), generator=generator)
    wanted, cache = sequences(ours, 12, input_ids=prompt), ours.new_cache()
    ours(prompt, past_key_values=cache)
    ours(torch.tensor([[5]]), past_key_values=cache)
    run = counts(ours).run_with_iobinding

    def cancelled(binding: Any, options: Any) -> None:
        cache.cancel()
        run(binding, options)

    counts(ours).run_with_iobinding = cancelled
    ours(torch.tensor([[6]]), past_key_values=cache)
    counts(ours).run_with_iobinding = run
    with pytest.raises(CancelledError):
        ours(torch.tensor([[7]]), past_key_values=cache)
    cache.reset()
    assert sequences(ours, 12, input_ids=prompt, past_key_values=cache) == wanted
