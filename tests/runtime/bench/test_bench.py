"""What a benchmark runs, counts and reports; how long anything takes is not tested."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from exaone_export.artifact.reader import Artifact
from exaone_export.cli.bench_table import as_table
from exaone_export.errors import ConfigError, MissingExtraError, PromptError
from exaone_export.exporter.publish.card import CardFields, model_card, read_result
from exaone_export.runtime.bench import bandwidth, memory
from exaone_export.runtime.bench.cases import DECODE, FORWARD, PREFILL, Case, LeftOut, all_cases, fit, forward_cases
from exaone_export.runtime.bench.clocks import TokenClock, timed_steps
from exaone_export.runtime.bench.plot import plot
from exaone_export.runtime.bench.report import BenchReport, Result, percentile
from exaone_export.runtime.bench.run import bench, measure
from exaone_export.runtime.bench.traffic import WeightTraffic, cache_bytes, graph_traffic, step_bytes, weight_traffic
from exaone_export.runtime.core.steps import Step
from exaone_export.runtime.mirror.heads import open_model
from tests.conftest import HYBRID, SaveModel, without_package
from tests.runtime.sessions.engine_double import engine_info
from tests.sparse_models import SPARSE, save_sparse

SPEED: Any = SimpleNamespace(measure=lambda: 1e9)
WEIGHTS = WeightTraffic(shared=1000, row=10)


def silent(_step: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that is quick to make; what it says of memory is not looked at."""
    monkeypatch.setattr(bandwidth, "_SMALLEST_BUFFER", 1 << 16)
    monkeypatch.setattr(bandwidth, "_CACHES_IN_BUFFER", 0)
    monkeypatch.setattr(bandwidth, "_SECONDS_TO_SETTLE", 0)


# What is measured


def test_cases_have_the_names_of_llama_bench_and_the_small_ones_come_first() -> None:
    names = [case.name for case in all_cases(512, 64, [4096, 0, 0], [4, 1])]
    assert names == ["pp512", "tg64", "tg64 @ d4096", "pp512 b4", "tg64 b4", "tg64 @ d4096 b4"]


@pytest.mark.parametrize(
    ("case", "length"),
    [
        (Case(PREFILL, 512, 1), 513),
        (Case(DECODE, 64, 1, 0), 65),
        (Case(DECODE, 64, 1, 4096), 4160),
        (Case(FORWARD, 512, 1), 512),
    ],
)
def test_a_case_fits_where_all_of_its_tokens_do(case: Case, length: int) -> None:
    assert fit([case], length, None) == ([case], [])
    fitting, (left,) = fit([case], length - 1, None)
    assert not fitting
    assert left.reason == (
        f"{length} tokens a row do not fit the {length - 1} that the artifact holds; export with --max-length {length} "
        f"or more"
    )


def test_a_batch_fits_where_the_engine_takes_its_rows() -> None:
    cases = [Case(PREFILL, 8, 2), Case(PREFILL, 8, 4)]
    fitting, (left,) = fit(cases, 100, 2)
    assert fitting == cases[:1]
    assert left == LeftOut(cases[1], "the engine takes 2 rows; build it with --max-batch 4")


def test_a_model_that_generates_no_tokens_is_called_on_its_prompts() -> None:
    cases = forward_cases(all_cases(512, 64, [4096, 0], [4, 1]))
    assert cases == [Case(FORWARD, 512, 1), Case(FORWARD, 512, 4)]
    assert [case.name for case in cases] == ["pp512", "pp512 b4"]


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        ({"prompt": 0}, "prompt is 0; it must be at least 1"),
        ({"new": 1}, "new is 1; it must be at least 2"),
        ({"depths": [-1]}, "depth is -1; it must be at least 0"),
        ({"batches": [0]}, "batch is 0; it must be at least 1"),
        ({"repetitions": 0}, "repetitions is 0; it must be at least 1"),
    ],
)
def test_numbers_too_small_are_refused_before_anything_is_read(numbers: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        bench("nowhere", **numbers)


# How it runs


class Recorder:
    """A session that notes what every step is given, and whether it gives finite logits."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.totals: list[list[int]] = []
        self.widths: list[int] = []
        self.finite = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def step(self, step: Step, *rest: Any) -> Any:
        (logits,) = self._session.step(step, *rest)
        self.totals.append(step.after)
        self.widths.append(step.input_ids.shape[1])
        self.finite &= bool(np.isfinite(np.asarray(logits)).all())
        return (logits,)


@pytest.fixture
def recorded(loaded: Any) -> Iterator[tuple[Any, Recorder]]:
    session = loaded.session
    loaded.session = recorder = Recorder(session)
    yield loaded, recorder
    loaded.session = session


@pytest.mark.parametrize(("depth", "batch"), [(0, 1), (1, 2), (5, 1), (40, 2)])
def test_decode_runs_single_tokens_behind_a_context_that_is_not_computed(
    recorded: tuple[Any, Recorder], depth: int, batch: int
) -> None:
    model, recorder = recorded
    # What an earlier conversation has left must not reach the figures: NaN may take another time than numbers.
    poisoned = model._pool.take(batch)
    for tensors in poisoned.sets:
        for tensor in tensors:
            tensor[:] = torch.nan
    model._pool.give(poisoned)
    done: list[tuple[str, int, int]] = []
    case = Case(DECODE, 6, batch, depth)
    result = measure(model, case, WEIGHTS, SPEED, 2, lambda *step: done.append(step))
    assert recorder.widths == [1] * 18
    first = max(depth, 1)
    assert recorder.totals == [[first + i] * batch for i in range(6)] * 3
    assert recorder.finite
    assert done == [(case.name, number, 2) for number in (0, 0, 1, 2)]
    assert [len(figures) for figures in (result.rates, result.bandwidths, result.session_shares)] == [2, 2, 2]
    # Between two tokens lies one step.
    assert len(result.gaps) == len(result.steps) == 10
    assert all(0 < share < 1 for share in result.session_shares)
    # The rates are of the gaps, all rows together.
    assert 2 * 5 * batch / sum(batch * 5 / rate for rate in result.rates) == pytest.approx(
        10 * batch / sum(result.gaps), rel=1e-6
    )


def test_prefill_runs_the_prompt_in_the_model_s_chunks(recorded: tuple[Any, Recorder]) -> None:
    model, recorder = recorded
    result = measure(model, Case(PREFILL, 20, 2), WEIGHTS, SPEED, 3, silent)
    longest = recorder.longest_step or 20
    expected = [min(longest, 20 - start) for start in range(0, 20, longest)] * 4
    assert recorder.widths == expected
    assert result.rates == pytest.approx([40 / seconds for seconds in result.first_tokens])
    assert not result.gaps
    assert result.step_bytes == 0
    assert "share_of_bound" not in result.to_dict()


@pytest.fixture(scope="module")
def tagger(save_model: SaveModel, export_artifact: Callable[..., Path]) -> Path:
    """An artifact of a classification of tokens."""
    return export_artifact(save_model(head="token-classification", num_labels=3), "ort-cpu", 64, "float32")


def test_a_call_runs_the_prompt_and_no_token_behind_it(tagger: Path) -> None:
    with open_model(Artifact.open(tagger), threads=1, prefill_chunk_size=8) as model:
        model.session = recorder = Recorder(model.session)  # type: ignore[assignment]
        result = measure(model, Case(FORWARD, 20, 2), WEIGHTS, SPEED, 3, silent)
    assert recorder.widths == [8, 8, 4] * 4
    assert recorder.totals[:3] == [[8, 8], [16, 16], [20, 20]]
    assert len(result.first_tokens) == 3
    assert result.rates == pytest.approx([40 / seconds for seconds in result.first_tokens])
    assert all(0 < share < 1 for share in result.session_shares)
    content = result.to_dict()
    assert content["kind"] == "forward"
    assert content["time_per_call"]["values"] == result.first_tokens
    assert not {"time_to_first_token", "time_per_output_token", "share_of_bound"} & content.keys()


def test_the_session_is_given_back(loaded: Any) -> None:
    session = loaded.session
    with pytest.raises(RuntimeError, match="stop"), timed_steps(loaded) as clock:
        assert loaded.session is clock
        assert loaded.session.geometry is session.geometry
        raise RuntimeError("stop")
    assert loaded.session is session


def test_a_clock_counts_from_the_call_and_leaves_the_prompt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 13.0, 13.5, 14.5])
    monkeypatch.setattr("exaone_export.runtime.bench.clocks.time.perf_counter", lambda: next(now))
    clock = TokenClock()
    for _ in range(4):
        clock.put(torch.zeros(1))
    assert clock.first == 3.0
    assert clock.gaps == [0.5, 1.0]


# What a step reads


def parameter_bytes(folder: Path, *without: str) -> int:
    from transformers import Exaone4ForCausalLM

    model = Exaone4ForCausalLM.from_pretrained(folder)
    return sum(weight.nbytes for name, weight in model.named_parameters() if not name.startswith(without))


@pytest.mark.parametrize("target", ["ort-cpu", "onnx", "tensorrt-rtx"])
def test_every_weight_is_read_once_but_the_embedding_s_other_rows(
    target: str, artifacts: dict[str, Path], random_hybrid: Path
) -> None:
    found = weight_traffic(Artifact.open(artifacts[target]))
    expected = parameter_bytes(random_hybrid, "model.embed_tokens")
    # Beside the weights stand a few numbers, such as the sizes that a product is split into.
    assert expected <= found.shared < expected + 600
    # One row of the embedding, and one of each rotary table.
    assert found.row == 4 * (HYBRID["hidden_size"] + 2 * HYBRID["head_dim"] // 2)
    assert found.bytes(4) == found.shared + 4 * found.row


def test_an_embedding_that_is_the_head_too_is_read_whole(
    save_model: SaveModel, export_artifact: Callable[..., Path]
) -> None:
    model = save_model(tie_word_embeddings=True)
    found = weight_traffic(Artifact.open(export_artifact(model, "ort-cpu", 64)))
    assert parameter_bytes(model) <= found.shared < parameter_bytes(model) + 600
    assert found.row == 4 * HYBRID["head_dim"]


def test_of_experts_those_of_one_token_are_read_unless_all_are_computed(
    shared: Callable[..., Path], export_artifact: Callable[..., Path]
) -> None:
    model = save_sparse(shared)
    of = {
        target: weight_traffic(Artifact.open(export_artifact(model, target, 256, "float32")))
        for target in ("tensorrt-rtx", "ort-cpu", "onnx")
    }
    experts, chosen = SPARSE["num_experts"], SPARSE["num_experts_per_tok"]
    each = 2 * 3 * SPARSE["hidden_size"] * SPARSE["moe_intermediate_size"] * 4  # of two layers
    for target in ("ort-cpu", "onnx"):
        # Beside the weights stand a few numbers, which differ from target to target.
        assert of["tensorrt-rtx"].shared - of[target].shared == pytest.approx((experts - chosen) * each, abs=900)
        assert of[target].row == of["tensorrt-rtx"].row


def test_an_engine_counts_with_its_file(artifacts: dict[str, Path], tmp_path: Path) -> None:
    opened = Artifact.open(artifacts["tensorrt-rtx"])
    (tmp_path / "model.engine").write_bytes(bytes(100_000))
    engine: Any = SimpleNamespace(
        engine=engine_info(), spec=opened.spec, manifest=opened.manifest, model_path=tmp_path / "model.engine"
    )
    row = 4 * HYBRID["hidden_size"]
    assert weight_traffic(engine) == WeightTraffic(100_000 - HYBRID["vocab_size"] * row, row)


def test_a_tied_embedding_is_only_looked_up_where_the_head_is_another(tagger: Path, tmp_path: Path) -> None:
    opened = Artifact.open(tagger)
    (tmp_path / "model.engine").write_bytes(bytes(100_000))
    engine: Any = SimpleNamespace(
        engine=engine_info(),
        spec=dataclasses.replace(opened.spec, tie_word_embeddings=True),
        manifest=opened.manifest,
        model_path=tmp_path / "model.engine",
    )
    row = 4 * HYBRID["hidden_size"]
    assert weight_traffic(engine) == WeightTraffic(100_000 - HYBRID["vocab_size"] * row, row)


def test_tables_are_known_through_what_leaves_their_rows_alone() -> None:
    def stored(name: str, rows: int, columns: int) -> ir.Value:
        tensor = ir.tensor(torch.zeros(rows, columns, dtype=torch.int8).numpy(), name=name)
        return ir.Value(name=name, const_value=tensor, shape=ir.Shape([rows, columns]))

    ids, x = ir.Value(name="ids"), ir.Value(name="x")
    table, scales, both, weight = stored("t", 100, 8), stored("s", 100, 2), stored("b", 50, 4), stored("w", 8, 8)
    tape = ir.tape.Tape()
    viewed = tape.op("Reshape", [table, ids])
    widened = tape.op("Cast", [scales], {"to": 1})
    tape.op("GatherBlockQuantized", [viewed, ids, widened], domain="com.microsoft")
    tape.op("Gather", [both, ids])
    tape.op("MatMulNBits", [x, tape.op("Reshape", [both, ids])], domain="com.microsoft")
    tape.op("MatMul", [x, weight])
    graph = ir.Graph([ids, x], [], nodes=tape.nodes, initializers=[table, scales, both, weight])
    assert graph_traffic(ir.Model(graph, ir_version=10)) == WeightTraffic(shared=50 * 4 + 8 * 8, row=8 + 2)


def test_local_layers_read_their_window_and_global_ones_all(loaded: Any) -> None:
    row = 2 * HYBRID["num_key_value_heads"] * HYBRID["head_dim"] * 4
    geometry = loaded.session.geometry
    assert cache_bytes(geometry, 5, 1) == 4 * 5 * row
    assert cache_bytes(geometry, 100, 3) == 3 * (3 * 8 + 100) * row
    assert step_bytes(WEIGHTS, geometry, 2, 100, 102) == 1020 + 2 * (3 * 8 + 101) * row


# The machine


def test_bandwidth_is_measured_with_the_session_s_threads(small_buffer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before, used = torch.get_num_threads(), []
    speed = bandwidth.ReadBandwidth(threads=before + 2)
    one_pass = speed._pass
    monkeypatch.setattr(speed, "_pass", lambda: used.append(torch.get_num_threads()) or one_pass())
    assert speed.measure() > 0
    assert used == [before + 2] * 5
    assert torch.get_num_threads() == before
    assert speed.host_bytes == 1 << 16


def test_caches_that_processors_share_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "_CPUS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    for cpu, shared in ((0, "0-1"), (1, "0-1"), (2, "2-3")):
        for index, size in ((2, "1024K"), (3, "32768K")):
            folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            (folder / "size").write_text(f"{size}\n")
            (folder / "shared_cpu_list").write_text(f"{shared}\n")
    assert bandwidth.last_level_caches() == 64 << 20
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {7})
    assert bandwidth.last_level_caches() == 0


def test_peak_memory_is_the_mark_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for process, kib in (("self", 500), ("42", 700)):
        (tmp_path / process).mkdir()
        (tmp_path / process / "status").write_text(f"VmPeak:\t  900 kB\nVmHWM:\t  {kib} kB\nVmRSS:\t  400 kB\n")
    monkeypatch.setattr(memory, "_PROCESSES", tmp_path)
    assert memory.peak_memory(less=1024) == 499 * 1024
    assert memory.peak_memory(42) == 700 * 1024
    assert memory.peak_memory(43) is None
    assert memory.device_memory("cpu") is None


# What is reported


def result_of(case: Case, *rates: float) -> Result:
    result = Result(case, step_bytes=1e8)
    for rate in rates:
        seconds = case.batch * (case.tokens if case.kind == PREFILL else case.tokens - 1) / rate
        result.rates.append(rate)
        result.first_tokens.append(0.25)
        result.bandwidths.append(1e10)
        result.session_seconds.append(seconds / 2)
        result.session_shares.append(0.5)
        if case.kind == DECODE:
            result.gaps += [seconds / (case.tokens - 1)] * (case.tokens - 1)
            result.steps += [seconds / (case.tokens - 1) / 2] * (case.tokens - 1)
    result.peak_memory = 1_500_000_000
    return result


@pytest.fixture
def report() -> BenchReport:
    left = LeftOut(Case(DECODE, 64, 1, 4096), "4160 tokens a row do not fit")
    results = [
        result_of(Case(PREFILL, 512, 1), 100.0, 90.0, 130.0),
        result_of(Case(DECODE, 64, 1), 20.0, 25.0, 30.0),
        result_of(Case(DECODE, 64, 4, 256), 40.0, 41.0, 42.0),
    ]
    return BenchReport(
        model="exaone4 1.28B",
        parameters=1_280_000_000,
        head="causal-lm",
        target="ort-cpu",
        precision="float32",
        size=5_000_000,
        max_length=512,
        device="cpu",
        threads=2,
        repetitions=3,
        prefill_chunk_size=512,
        load_seconds=1.5,
        verify_seconds=0.5,
        weights=4_000,
        results=results,
        left_out=[left],
        versions={},
    )


def test_the_table_has_llama_bench_s_form(report: BenchReport) -> None:
    table, notes = as_table(report).render("markdown").split("\n\n")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert lines[0][:7] == ["model", "size", "target", "precision", "threads", "test", "t/s"]
    assert {len(line) for line in lines} == {12}
    start = ["exaone4 1.28B", "4.8 MiB", "ort-cpu", "float32", "2"]
    assert lines[2] == [*start, "pp512", "100.0 (90.00 to 130.0)", "250.0", "-", "50%", "-", "1.40 GiB"]
    assert lines[3][5:] == ["tg64", "25.00 (20.00 to 30.00)", "-", "40.00 / 50.00", "50%", "25%", "1.40 GiB"]
    # 4 rows of 1e10 / 1e8 steps a second are 400 tokens.
    assert lines[4][5:7] == ["tg64 @ d256 b4", "41.00 (40.00 to 42.00)"]
    assert lines[4][10] == "10%"
    assert notes.splitlines()[-2:] == [
        "load 1.50 s, hashes 0.50 s; weights read per step 3.9 KiB; read bandwidth 9.31 (9.31 to 9.31) GiB/s.",
        "does not fit: tg64 @ d4096: 4160 tokens a row do not fit.",
    ]


def test_the_report_is_json(report: BenchReport) -> None:
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    prefill, decode, batched = content["tests"]
    assert prefill["tokens_per_second"] == {"median": 100, "lowest": 90, "highest": 130, "values": [100, 90, 130]}
    assert decode["time_per_output_token"] == pytest.approx({"p50": 1 / 25, "p95": 1 / 20})
    assert decode["session_step"] == pytest.approx({"p50": 1 / 50, "p95": 1 / 40})
    assert decode["bound_tokens_per_second"]["median"] == 100
    assert batched["share_of_bound"]["values"] == pytest.approx([0.1, 0.1025, 0.105])
    assert content["not_fitting"] == [{"name": "tg64 @ d4096", "reason": "4160 tokens a row do not fit"}]
    assert content["peak_memory_bytes"] == 1_500_000_000


def test_a_model_card_takes_the_printed_report(report: BenchReport, artifacts: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(report.to_dict()))
    fields = CardFields(bench=read_result(path, "bench"))
    card = model_card(Artifact.open(artifacts["ort-cpu"]).manifest, "org/model", fields)
    assert "| pp512 | 100.0 |" in card and "| tg64 @ d256 b4 | 41.0 |" in card
    with pytest.raises(ConfigError, match="has no 'baseline'; give what exaone-export parity printed with --json"):
        read_result(path, "parity")


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(20, 0, -1)]
    assert (percentile(values, 0.50), percentile(values, 0.95)) == (10, 19)
    assert percentile([7.0], 0.95) == 7


@pytest.mark.parametrize(("suffix", "head"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_the_plot_is_drawn(report: BenchReport, tmp_path: Path, suffix: str, head: bytes) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"decode{suffix}"
    plot(report, path)
    assert path.read_bytes().startswith(head)
    assert suffix != ".svg" or "4 rows, bandwidth bound (9.3 GiB/s)" in path.read_text()
    report.results[:] = report.results[:1]
    with pytest.raises(PromptError, match="no decode fits the artifact"):
        plot(report, path)


def test_a_plot_without_matplotlib_names_the_extra(
    report: BenchReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_package(monkeypatch, "matplotlib")
    with pytest.raises(MissingExtraError, match=r"pip install 'exaone-export\[plot\]'"):
        plot(report, tmp_path / "decode.png")


# All of it


def test_bench_measures_what_fits_and_names_the_rest(artifacts: dict[str, Path], small_buffer: None) -> None:
    numbers: dict[str, Any] = {"prompt": 20, "new": 3, "batches": [1, 2], "threads": 1}
    report = bench(artifacts["ort-cpu"], depths=[0, 253, 254], repetitions=1, **numbers)
    names = ["pp20", "tg3", "tg3 @ d253", "pp20 b2", "tg3 b2", "tg3 @ d253 b2"]
    assert [result.case.name for result in report.results] == names
    assert [left.case.name for left in report.left_out] == ["tg3 @ d254", "tg3 @ d254 b2"]
    assert (report.model, report.target, report.precision, report.threads) == ("exaone4 0.0M", "ort-cpu", "float32", 1)
    data = artifacts["ort-cpu"] / "model.onnx.data"
    assert report.size == data.stat().st_size + (artifacts["ort-cpu"] / "model.onnx").stat().st_size
    assert 0 < report.weights < data.stat().st_size
    assert {"torch", "transformers"} <= report.versions.keys()
    with pytest.raises(PromptError, match="no test fits: pp257 would be the first, and 258 tokens a row do not fit"):
        bench(artifacts["ort-cpu"], depths=[256], repetitions=1, **(numbers | {"prompt": 257}))


def test_of_a_head_that_gives_no_next_tokens_the_call_alone_is_measured(tagger: Path, small_buffer: None) -> None:
    numbers: dict[str, Any] = {"prompt": 64, "new": 3, "batches": [1, 2], "threads": 1, "repetitions": 1}
    report = bench(tagger, **numbers)
    assert [result.case.name for result in report.results] == ["pp64", "pp64 b2"]
    assert not report.left_out
    assert not report.decodes
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (content["model"], content["head"]) == ("exaone4 token-classification 0.0M", "token-classification")
    lines = as_table(report).render("markdown").splitlines()
    columns = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert columns[5:] == ["test", "t/s", "call ms", "in session", "peak"]
    assert "no decode test: a model for token-classification generates no tokens" in lines[-2]
    with pytest.raises(PromptError, match=r"65 tokens a row do not fit .* or pass a smaller --prompt or --batch\."):
        bench(tagger, **(numbers | {"prompt": 65}))


def test_what_is_to_be_drawn_is_known_before_anything_is_measured(
    tagger: Path, artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exaone_export.runtime.bench.run.open_model", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(PromptError) as caught:
        bench(tagger, prompt=8, needs_decode=True)
    assert str(caught.value) == (
        "a plot shows decoding, and Exaone4ForTokenClassification generates no tokens; leave --plot out."
    )
    with pytest.raises(PromptError, match="no decode fits the artifact; pass a smaller --depth or --new"):
        bench(artifacts["ort-cpu"], prompt=8, depths=[4096], needs_decode=True)
