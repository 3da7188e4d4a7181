"""A call ends when it is told to: between the steps of a prompt, inside one, and by Ctrl-C; nothing wrong is kept."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from exaone_export.errors import CacheInUseError, CacheRollbackError, CancelledError
from exaone_export.runtime.core.cancellation import Cancellation, run_interruptibly
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.runtime.mirror.text import chat as text
from tests.runtime.conftest import tokens


class Watched:
    """An ``InferenceSession`` that tells when it runs, and what it was told to end."""

    def __init__(self, inner: Any, at_run: Any) -> None:
        self._inner, self._at_run = inner, at_run
        self.runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.runs += 1
        self._at_run(self.runs)
        self._inner.run_with_iobinding(binding, options)


@pytest.fixture
def ours(artifacts: dict[str, Path]) -> Any:
    with ExaoneForCausalLM.from_pretrained(artifacts["ort-cpu"], threads=1, prefill_chunk_size=7) as model:
        yield model


def watch(model: Any, at_run: Any) -> Watched:
    model.session._session = Watched(model.session._session, at_run)
    return model.session._session


def test_a_prompt_is_left_between_two_steps(ours: Any) -> None:
    cache = ours.new_cache()
    watched = watch(ours, lambda _run: None)
    ours.session.step = _cancelling_after(ours.session.step, cache, 2)
    with pytest.raises(CancelledError, match="was cancelled"):
        ours(tokens(1, 40), past_key_values=cache)
    assert watched.runs == 2


def _cancelling_after(step: Any, cache: Any, steps: int) -> Any:
    def counted(*arguments: Any) -> Any:
        nonlocal steps
        logits = step(*arguments)
        steps -= 1
        if not steps:
            cache.cancel()
        return logits

    return counted


def test_a_step_is_ended_inside_by_another_thread(ours: Any) -> None:
    """ONNX Runtime itself ends the run, and the session goes on with the next conversation."""
    prompt, cache = tokens(1, 40), ours.new_cache()
    wanted = ours(prompt).logits

    def cancel_in_the_third(run: int) -> None:
        if run == 3:
            thread = threading.Thread(target=cache.cancel)
            thread.start()
            thread.join()

    watched = watch(ours, cancel_in_the_third)
    with pytest.raises(CancelledError):
        ours(prompt, past_key_values=cache)
    assert watched.runs == 3
    with pytest.raises(
        CacheRollbackError, match=r"was interrupted while it evicted; start a new cache, or call reset\(\)"
    ):
        ours(prompt, past_key_values=cache)
    cache.reset()
    assert torch.equal(ours(prompt, past_key_values=cache).logits, wanted)
    assert torch.equal(ours(prompt).logits, wanted)


def test_another_call_s_failure_is_not_called_a_cancellation() -> None:
    cancellation = Cancellation()
    with pytest.raises(ZeroDivisionError), cancellation.step(lambda: None):
        _ = 1 / 0
    with cancellation.step(lambda: None):
        pass


def test_ctrl_c_ends_a_native_call() -> None:
    """The signal comes while the call runs, and the call returns only because it is ended."""
    ended, started = threading.Event(), threading.Event()

    def run() -> None:
        started.set()
        assert ended.wait(60), "nobody has ended the call"

    def interrupt() -> None:
        started.wait()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(run, ended.set)
    assert ended.is_set()


def test_an_interrupted_prompt_leaves_the_model_usable(ours: Any) -> None:
    prompt, cache = tokens(1, 40), ours.new_cache()
    wanted = ours(prompt).logits

    def press(run: int) -> None:
        if run == 2:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    watch(ours, press)
    with pytest.raises(KeyboardInterrupt):
        ours(prompt, past_key_values=cache)
    assert torch.equal(ours(prompt).logits, wanted)


def test_a_second_thread_on_one_cache_is_refused(ours: Any) -> None:
    cache, found = ours.new_cache(), []

    def intrude(run: int) -> None:
        if run != 1:
            return

        def call() -> None:
            try:
                ours(tokens(1, 3), past_key_values=cache)
            except CacheInUseError as error:
                found.append(str(error))

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    watch(ours, intrude)
    prompt = tokens(1, 20)
    logits = ours(prompt, past_key_values=cache).logits
    assert found == ["past_key_values is used by another thread; give every thread a cache of its own."]
    assert torch.equal(ours(prompt).logits, logits)
    assert cache.get_seq_length() == 20


def test_threads_with_caches_of_their_own_give_their_own_answers(ours: Any) -> None:
    prompts = [tokens(1, 9 + i, seed=i) for i in range(4)]
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": 97, "pad_token_id": 0}
    wanted = [ours.generate(prompt, **options).tolist() for prompt in prompts]
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i, p=p: found.update({i: ours.generate(p, **options).tolist()}))
        for i, p in enumerate(prompts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(4)] == wanted


def test_a_cache_belongs_to_the_whole_of_a_generate_call(ours: Any) -> None:
    """Between its steps, too."""
    cache, found = ours.new_cache(), []

    def intrude() -> None:
        try:
            ours.generate(tokens(1, 3), past_key_values=cache, max_new_tokens=2)
        except CacheInUseError as error:
            found.append(error)

    def criterion(input_ids: torch.Tensor, _scores: Any, **_options: Any) -> torch.Tensor:
        if not found:
            thread = threading.Thread(target=intrude)
            thread.start()
            thread.join()
        return torch.zeros(len(input_ids), dtype=torch.bool)

    ours.generate(tokens(1, 9), past_key_values=cache, max_new_tokens=3, stopping_criteria=[criterion])
    assert len(found) == 1


def test_closing_a_stream_leaves_the_prompt(ours: Any) -> None:
    """Between two steps of 7 tokens; the caller's cache keeps what the finished ones have put into it."""
    cache, running = ours.new_cache(), threading.Event()
    leave, left = threading.Event(), []

    def wait(run: int) -> None:
        if run == 2:
            running.set()
            assert leave.wait(60)

    watched = watch(ours, wait)

    tokenizer = SimpleNamespace(added_tokens_decoder={}, decode=lambda ids: " ".join(map(str, ids)))
    pieces = text.stream(ours, tokenizer, {"input_ids": tokens(1, 40)}, past_key_values=cache, max_new_tokens=4)

    def close() -> None:
        running.wait()
        # The step that waits for the event below ends by itself or is ended; no third one begins.
        threading.Timer(0.2, leave.set).start()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=close).start()
    with pytest.raises(KeyboardInterrupt):
        left.extend(pieces)
    assert not left
    assert watched.runs == 2
    assert cache.get_seq_length() == 7
