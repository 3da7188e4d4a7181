"""An artifact with a graph of its own for prompts: which one runs a step, and that both serve one conversation."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from exaone_export.artifact.prefill import PREFILL_NAME
from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError, CancelledError, ClosedError, UnsupportedOptionError
from exaone_export.runtime.core.buffers import BufferPool, CacheBuffers
from exaone_export.runtime.core.cancellation import Cancellation
from exaone_export.runtime.core.engine import Engine
from exaone_export.runtime.core.requests import Request
from exaone_export.runtime.core.steps import Step
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.runtime.parity.compare import LIMITS
from exaone_export.runtime.parity.sides import artifact_side
from exaone_export.runtime.runner.runner import Runner
from exaone_export.runtime.sessions.onnxruntime import OnnxRuntimeSession
from exaone_export.runtime.sessions.opening import open_session
from exaone_export.runtime.sessions.prefill.choice import GraphChoice
from exaone_export.runtime.sessions.prefill.session import TwoGraphSession
from exaone_export.runtime.text.chat import ChatFormat
from tests.conftest import TINY
from tests.exporter.disturbed import forked_while_held
from tests.manifests import edit_manifest, put

THRESHOLD, CHUNK = 6, 16


@pytest.fixture(scope="module")
def folder(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", precision="int4", prefill_precision="int8")


@pytest.fixture(scope="module")
def session(folder: Path) -> Iterator[TwoGraphSession]:
    with open_session(Artifact.open(folder), threads=1, graphs=GraphChoice(threshold=THRESHOLD)) as opened:
        assert isinstance(opened, TwoGraphSession)
        yield opened


@pytest.fixture
def steps(session: TwoGraphSession, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, int, int]]]:
    """Which graph ran which shapes, in order."""
    found: list[tuple[str, tuple[int, int, int]]] = []
    for name in ("answers", "prompts"):
        one = getattr(session, name)

        def watched(step: Step, *more: Any, name: str = name, run: Any = one.step) -> Any:
            found.append((name, step.shape))
            return run(step, *more)

        monkeypatch.setattr(one, "step", watched)
    return found


def prompt(length: int, seed: int = 0) -> list[int]:
    found: list[int] = np.random.default_rng(seed).integers(5, 300, length).tolist()
    return found


def read(engine: Engine, asked: list[int], new: int = 8, **more: Any) -> list[int]:
    return [token.id for token in engine.submit(Request(asked, new, **more))]


@pytest.mark.parametrize(
    ("shape", "batches", "graph"),
    [
        ((1, 6, 1), False, "prompts"),
        ((1, 6, 0), False, "prompts"),
        ((2, 3, 1), False, "prompts"),
        ((1, 5, 1), False, "answers"),
        ((1, 6, 2), False, "answers"),  # guesses: what single steps would give
        ((8, 1, 1), False, "answers"),
        ((8, 1, 1), True, "prompts"),
        ((5, 1, 1), True, "answers"),
    ],
)
def test_the_number_of_tokens_chooses_the_graph(shape: tuple[int, int, int], batches: bool, graph: str) -> None:
    rows, width, kept = shape
    step = Step(np.zeros((rows, width), np.int64), [0] * rows, [width] * rows, range(kept))
    choice = GraphChoice(batches=batches)
    assert choice.is_for_prompts(step, THRESHOLD) == (graph == "prompts")


def test_a_conversation_uses_both(session: TwoGraphSession, steps: list[Any]) -> None:
    """Prompts in chunks and their ends, answers, what is reused, what is taken back, and guesses."""
    first = prompt(40)
    with Engine(session, prefill_chunk_size=CHUNK) as engine:
        said = read(engine, first)
        graphs = [(name, shape[1]) for name, shape in steps]
        assert graphs[:3] == [("prompts", 16), ("prompts", 8), ("prompts", 16)] and {*graphs[3:]} == {("answers", 1)}
        steps.clear()
        second = [*first, *said, *prompt(3, seed=1)]
        again = read(engine, second)
        assert [name for name, _ in steps] == ["answers"] * len(steps), "four tokens are below the threshold"
        steps.clear()
        assert read(engine, [*first, *prompt(20, seed=2)]), "back to the prompt's end; four tokens and sixteen"
        assert sum(shape[1] for name, shape in steps if name == "prompts") == 16
        steps.clear()
        loop = prompt(7) * 6
        plain = read(engine, loop, 40)
        steps.clear()
        engine._worker.slots.latest().clear()
        assert read(engine, loop, 40, prompt_lookup_num_tokens=9) == plain
        assert any(shape[2] > THRESHOLD for name, shape in steps if name == "answers")
        assert all(shape[2] == 1 for name, shape in steps if name == "prompts")
    with Engine(session, prefill_chunk_size=CHUNK) as engine:
        assert read(engine, first) == said
        assert read(engine, second) == again


def test_an_answer_is_one_graphs_prompt_and_the_others_tokens(session: TwoGraphSession) -> None:
    """Step by step, by the two sessions themselves."""
    asked, buffers = prompt(CHUNK), CacheBuffers(session.geometry, 1)
    with Engine(session, prefill_chunk_size=CHUNK) as engine:
        said = read(engine, asked, 12)
    (logits,) = session.prompts.step(Step(np.array([asked]), [0], [CHUNK]), buffers)
    found = [int(logits[0, 0].argmax())]
    while len(found) < 12:
        (logits,) = session.answers.step(Step(np.array([found[-1:]]), [CHUNK + len(found) - 1], [1]), buffers)
        found.append(int(logits[0, 0].argmax()))
    assert found == said


@pytest.mark.parametrize("batches", [False, True])
def test_answers_at_once(folder: Path, batches: bool) -> None:
    """Without the option, one-token steps are one graph's whatever the load, and what is said is what is said alone."""
    choice = GraphChoice(threshold=THRESHOLD, batches=batches)
    with open_session(Artifact.open(folder), threads=1, graphs=choice) as session:
        prompts = [prompt(10 + 5 * index, seed=index) for index in range(8)]
        with Engine(session, prefill_chunk_size=CHUNK) as engine:
            alone = [read(engine, each, 40) for each in prompts]
        shapes = list[tuple[int, int, int]]()
        run = session.prompts.step  # type: ignore[attr-defined]
        session.prompts.step = lambda step, *more: (shapes.append(step.shape), run(step, *more))[1]  # type: ignore
        with Engine(session, slots=8, prefill_chunk_size=CHUNK) as engine:
            running = [engine.submit(Request(each, 40)) for each in prompts]
            found = [[token.id for token in each] for each in running]
    assert [len(each) for each in found] == [40] * 8
    many = [shape for shape in shapes if shape[1] == 1]
    assert all(rows >= THRESHOLD for rows, _, _ in many) and bool(many) == batches
    if not batches:
        # 4-bit products of one row are rounded in another way than of several, and random prompts have near ties.
        assert sum(one[:3] == other[:3] for one, other in zip(found, alone, strict=True)) >= 4


@pytest.mark.parametrize("batches", [False, True])
def test_a_trained_model_says_the_same_at_once(folder: Path, batches: bool) -> None:
    choice = GraphChoice(threshold=THRESHOLD, batches=batches)
    texts = [f"What is {first} + {first + 9}?" for first in range(20, 28)]
    with Runner.open(folder, threads=1, slots=8, graphs=choice) as runner:
        chat = ChatFormat(runner.tokenizer)
        answers = [
            runner.generate(chat.encode([{"role": "user", "content": text}]), max_new_tokens=9) for text in texts
        ]
        assert [answer.read() for answer in answers] == [str(2 * first + 9) for first in range(20, 28)]


def test_a_forked_process_is_refused(session: TwoGraphSession) -> None:
    def use() -> None:
        with pytest.raises(ClosedError, match="the session runs in the process that this one was forked from"):
            session.step(Step(np.array([[3]]), [0], [1]), BufferPool(session.geometry).take(1))

    assert forked_while_held(session._lock, use) == 0


def test_a_step_of_either_graph_can_be_ended(session: TwoGraphSession) -> None:
    for width in (1, CHUNK):
        cancellation = Cancellation()
        cancellation.cancel()
        buffers = CacheBuffers(session.geometry, 1)
        with pytest.raises(CancelledError):
            session.step(Step(np.array([prompt(width)]), [0], [width]), buffers, cancellation)
    with Engine(session, prefill_chunk_size=CHUNK) as engine:
        said = read(engine, prompt(40))
        generation = engine.submit(Request(prompt(40, seed=3), 50))
        next(iter(generation))
        generation.close()
        assert read(engine, prompt(40)) == said


def test_the_calls_of_transformers_use_both(session: TwoGraphSession, folder: Path) -> None:
    asked = prompt(24)
    with Engine(session, prefill_chunk_size=CHUNK) as engine:
        said = read(engine, asked, 8)
    choice = GraphChoice(threshold=THRESHOLD)
    with ExaoneForCausalLM.from_pretrained(folder, threads=1, prefill_chunk_size=CHUNK, graphs=choice) as model:
        ids = torch.tensor([asked])
        found = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=model.session.vocab_size)
        assert found[0, 24:].tolist() == said
        both = model.session
        assert isinstance(both, TwoGraphSession)
        model.session = both.answers
        alone = model(ids).logits
        model.session = both
        torch.testing.assert_close(model(ids).logits, alone, rtol=0, atol=0)  # the logits of all tokens are wanted


def divergence(wanted: torch.Tensor, found: torch.Tensor) -> float:
    want, got = (logits.double().log_softmax(-1) for logits in (wanted, found))
    return (want.exp() * (want - got)).sum(-1).mean().item()


def test_prompts_and_answers_keep_their_precisions_limits(folder: Path, export_artifact: Callable[..., Path]) -> None:
    """Beside PyTorch: a prompt as int8's, an answer behind it as int4's, and better than int4's behind its own."""
    from transformers import Exaone4ForCausalLM

    reference = Exaone4ForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    with artifact_side(folder) as both, artifact_side(export_artifact(TINY, "ort-cpu", precision="int4")) as alone:
        of_prompts, of_answers, without = [], [], []
        for seed in range(4):
            ids = torch.tensor(prompt(96, seed))
            with torch.inference_mode():
                wanted = reference(ids[None]).logits[0]
                found = both.answered(ids, 64)["logits"]  # type: ignore[attr-defined]
                own = alone.outputs(ids)["logits"]
            of_prompts.append(divergence(wanted[:64], found[:64]))
            of_answers.append(divergence(wanted[64:], found[64:]))
            without.append(divergence(wanted[64:], own[64:]))
            assert not torch.equal(found[64:], own[64:])
    assert max(of_prompts) < LIMITS["int8"].kl and max(of_answers) < LIMITS["int4"].kl
    assert sum(of_prompts) < sum(without) and sum(of_answers) < 1.2 * sum(without)


def test_one_graph_can_be_left_out(folder: Path, export_artifact: Callable[..., Path]) -> None:
    alone = export_artifact(TINY, "ort-cpu", precision="int4")
    with open_session(Artifact.open(folder), threads=1, graphs=GraphChoice(prefill=False)) as session:
        assert isinstance(session, OnnxRuntimeSession)
        with Engine(session, prefill_chunk_size=CHUNK) as engine:
            said = read(engine, prompt(40))
    with open_session(Artifact.open(alone), threads=1) as session, Engine(session, prefill_chunk_size=CHUNK) as engine:
        assert read(engine, prompt(40)) == said
    for choice, what in ((GraphChoice(threshold=9), "the threshold"), (GraphChoice(batches=True), "batches")):
        with pytest.raises(UnsupportedOptionError, match=f"has no graph of its own .* leave {what} out"):
            open_session(Artifact.open(alone), graphs=choice)
    for options in ({"threshold": 1}, {"threshold": True}, {"prefill": False, "batches": True}):
        with pytest.raises(UnsupportedOptionError):
            GraphChoice(**options)  # type: ignore[arg-type]


def test_a_kept_prompt_is_of_both_graphs(folder: Path, export_artifact: Callable[..., Path]) -> None:
    """A cache that another graph for prompts has filled is another one."""
    artifact = Artifact.open(folder)
    alone = Artifact.open(export_artifact(TINY, "ort-cpu", precision="int4"))
    assert artifact.identity != alone.identity
    other = dict(artifact.manifest.files) | {PREFILL_NAME: {"sha256": "0" * 64, "size": 1}}
    manifest = artifact.manifest.__class__(**{**_fields(artifact.manifest), "files": other})
    assert dataclasses.replace(artifact, manifest=manifest).identity != artifact.identity


def _fields(manifest: Any) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in manifest.__struct_fields__}


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copied"))


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("prefill"), "must list model.prefill.onnx and say what it is, or do neither"),
        (lambda m: m["files"].pop(PREFILL_NAME), "must list model.prefill.onnx and say what it is, or do neither"),
        (lambda m: m.update(prefill=None), "changed after it was written"),
        (lambda m: m["prefill"].update(threshold=0), "has 0 at threshold"),
        (lambda m: m["prefill"].update(threshold="2"), "threshold"),
        (lambda m: m["prefill"].update(file="../model.onnx"), "has an unknown key 'file'"),
        (lambda m: m["prefill"].update(precision="int4"), "precision"),
        (lambda m: m["prefill"]["recipe"].update(precision="int4"), "does not share the caches and the vocabulary"),
        (lambda m: m["prefill"]["recipe"].update(cache="int8"), "does not share the caches and the vocabulary"),
        (lambda m: m["prefill"]["recipe"].update(compute_type="float16"), "does not share the caches"),
        (lambda m: m["prefill"]["recipe"].update(vocabulary="int8"), "does not share the caches and the vocabulary"),
        (lambda m: m["prefill"]["recipe"].pop("kernels"), "has no key 'kernels'"),
        (lambda m: m["prefill"]["recipe"].update(kept={"0": "float"}), "does not share the caches and the vocabulary"),
        (lambda m: m["recipe"].update(kernels=False), "does not share the caches and the vocabulary"),
        (lambda m: m.update(target="onnx"), "a graph for prompts where none can be"),
        (lambda m: m["recipe"].update(precision="int8", blocks={}), "a graph for prompts where none can be"),
        (lambda m: m["model"].update(architectures=["Exaone4Model"]), "does not share the caches and the vocabulary"),
    ],
)
def test_a_manifest_that_no_export_writes_is_refused(
    copied: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit_manifest(copied, change)
    with pytest.raises(ArtifactError) as raised:
        Artifact.open(copied)
    assert message in str(raised.value)


@pytest.mark.hostile
def test_a_graph_with_other_caches_is_refused(copied: Path) -> None:
    """Caches are bound by address, so each graph must take those of the other."""
    whole = (copied / PREFILL_NAME).read_bytes()
    graph = onnx.load(copied / PREFILL_NAME, load_external_data=False)
    del graph.graph.output[-1]
    fewer = graph.SerializeToString()
    graph = onnx.load(copied / PREFILL_NAME, load_external_data=False)
    for value in (*graph.graph.input, *graph.graph.output):
        if value.name in ("past_key_values.0.key", "present.0.key"):
            value.type.tensor_type.shape.dim[1].dim_value += 1
    for data, message in (
        (fewer, "does not take and give what model.onnx does"),
        (graph.SerializeToString(), "past_key_values.0.key is not that of its manifest's model"),
        (whole[:-40], "cannot be read|is not an ONNX graph"),
        (b"no graph", "is not an ONNX graph"),
    ):
        put(copied, PREFILL_NAME, data)
        with pytest.raises(ArtifactError, match=f"({message}).*export the model again"):
            open_session(Artifact.open(copied), threads=1)
    put(copied, PREFILL_NAME, whole)
    data = (copied / "model.onnx.data").read_bytes()
    put(copied, "model.onnx.data", data[: len(data) // 2])
    with pytest.raises(ArtifactError, match="keeps a tensor beyond the end of"):
        Artifact.open(copied)


def test_threads_of_one_graph_do_not_wait_in_the_others_time(session: TwoGraphSession) -> None:
    """Spinning, they would take 50 ms of the first token."""
    found = [each._session.get_session_options() for each in (session.prompts, session.answers)]
    assert found[0].get_session_config_entry("session.force_spinning_stop") == "1"
    with pytest.raises(RuntimeError):
        found[1].get_session_config_entry("session.force_spinning_stop")
