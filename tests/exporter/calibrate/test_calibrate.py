"""Calibration: the ranges are what transformers' modules take in, and a scales file that cannot be right is refused."""

from __future__ import annotations

import json
import os
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import Exaone4ForCausalLM

from exaone_export.cli.main import cli
from exaone_export.errors import ArtifactError, CalibrationError, CheckpointError
from exaone_export.exporter.calibrate import data as calibration_data
from exaone_export.exporter.calibrate.data import read_prompts
from exaone_export.exporter.calibrate.run import calibrate
from exaone_export.exporter.calibrate.scales.file import ScalesFile
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.evaluate.data import read_held_out
from exaone_export.exporter.reference import layer_stream
from exaone_export.model.tensors import PROJECTIONS, input_sizes
from exaone_export.runtime.mirror.text.chat import ChatFormat
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.targets.precision import PRECISIONS
from tests.conftest import TINY, SaveModel, random_model
from tests.exporter.calibrate.calibration_models import CHAT, LINES, TOOLS, make_chatter, write_lines


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(TINY)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "data.jsonl", *LINES)


@pytest.fixture(scope="module")
def random_chatter(save_model: SaveModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random hybrid in bfloat16 that has the tiny checkpoint's tokenizer."""
    return make_chatter(save_model, tmp_path_factory.mktemp("chatter") / "model")


@pytest.fixture(scope="module")
def scales(random_chatter: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scales") / "scales.safetensors"
    calibrate(random_chatter, path, data=data)
    return path


def transformers_inputs(folder: Path, prompts: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """By layer and part, the largest magnitude of each channel of what transformers' own modules take in."""
    model = Exaone4ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    watched: list[dict[str, list[torch.Tensor]]] = []
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        seen: dict[str, list[torch.Tensor]] = {part: [] for part in PROJECTIONS}
        modules = {
            "qkv": (attention.q_proj, attention.k_proj, attention.v_proj),
            "output": (attention.o_proj,),
            "gate_up": (mlp.gate_proj, mlp.up_proj),
            "down": (mlp.down_proj,),
        }
        for part, projections in modules.items():
            for projection in projections:
                projection.register_forward_pre_hook(
                    lambda _module, inputs, found=seen[part]: found.append(inputs[0][0].abs().amax(0))
                )
        watched.append(seen)
    with torch.inference_mode():
        for prompt in prompts:
            model(prompt)
    return [{part: torch.stack(found).amax(0) for part, found in seen.items()} for seen in watched]


@pytest.mark.parametrize("which", ["tiny", "random"])
def test_ranges_are_what_the_modules_of_transformers_take_in(
    which: str, random_chatter: Path, data: Path, tokenizer: Any, tmp_path: Path
) -> None:
    folder = TINY if which == "tiny" else random_chatter
    made = calibrate(folder, tmp_path / "scales.safetensors", data=data, seq_length=60)
    prompts = read_prompts(data, tokenizer, samples=128, seq_length=60)
    expected = transformers_inputs(folder, prompts)
    spec = Checkpoint.open(folder).spec
    read = ScalesFile.read(tmp_path / "scales.safetensors", spec)
    assert len(made.ranges) == len(read.ranges) == len(expected) == spec.num_hidden_layers
    for got, again, layer in zip(made.ranges, read.ranges, expected, strict=True):
        assert list(got) == list(again) == list(PROJECTIONS)
        for part, channels in layer.items():
            torch.testing.assert_close(got[part].channel_maximum, channels, rtol=1e-4, atol=1e-5)
            assert got[part].range == pytest.approx(channels.max().item(), rel=1e-4)
            assert again[part].range == got[part].range
            assert torch.equal(again[part].channel_maximum, got[part].channel_maximum)


def test_the_file_says_where_it_comes_from(random_chatter: Path, scales: Path, data: Path) -> None:
    checkpoint = Checkpoint.open(random_chatter)
    read = ScalesFile.read(scales, checkpoint.spec)
    assert read.source == {"name": "model", "revision": None, "fingerprint": checkpoint.fingerprint()}
    assert read.data.sha256 == calibration_data.hash_of(data)
    assert read.data.samples == len(LINES)
    assert read.sha256 == calibration_data.hash_of(scales)
    assert read.to_dict()["data"]["tokens"] == read.data.tokens
    for precision in PRECISIONS.values():
        if precision.activations:
            read.check_fits(checkpoint, precision.activations)


def test_one_layer_is_in_memory_at_a_time(
    random_chatter: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, alive, loaded = layer_stream._load_layer, [], []

    def watched(*arguments: Any) -> Any:
        assert [weight for weight in alive if weight() is not None] == []
        layer = load(*arguments)
        loaded.append(layer)  # whoever holds on to a layer holds no weights
        alive.extend(weakref.ref(weight) for weight in layer.parameters())
        return layer

    monkeypatch.setattr(layer_stream, "_load_layer", watched)
    calibrate(random_chatter, tmp_path / "scales.safetensors", data=data)
    assert len(loaded) == 4
    assert len(alive) == 4 * len(list(loaded[0].parameters()))
    assert [weight for weight in alive if weight() is not None] == []


def test_the_same_input_gives_the_same_bytes(random_chatter: Path, data: Path, scales: Path, tmp_path: Path) -> None:
    calibrate(random_chatter, tmp_path / "again.safetensors", data=data)
    assert (tmp_path / "again.safetensors").read_bytes() == scales.read_bytes()


def test_progress_is_told_of_every_layer_and_prompt(random_chatter: Path, data: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    calibrate(random_chatter, tmp_path / "s", data=data, samples=2, progress=lambda *step: told.append(step))
    assert told == [("calibrate", done, 8) for done in range(1, 9)]


# What the data file may say.


def test_texts_and_chats_become_what_the_tokenizer_and_the_template_make_of_them(data: Path, tokenizer: Any) -> None:
    prompts = read_prompts(data, tokenizer, samples=128, seq_length=512)
    chat = ChatFormat(tokenizer)
    assert prompts[0].tolist() == [tokenizer(LINES[0]["text"])["input_ids"]]
    assert torch.equal(prompts[1], chat.encode(CHAT)["input_ids"])
    answered = chat.encode(LINES[2]["messages"], add_generation_prompt=False)["input_ids"]
    assert torch.equal(prompts[2], answered)
    with_tools = chat.encode(CHAT, tools=TOOLS, enable_thinking=True)["input_ids"]
    assert torch.equal(prompts[3], with_tools)
    assert all(prompt.dtype == torch.int64 for prompt in prompts)


def test_prompts_are_cut_where_they_should_be(data: Path, tokenizer: Any) -> None:
    whole = read_prompts(data, tokenizer, samples=128, seq_length=512)
    cut = read_prompts(data, tokenizer, samples=128, seq_length=9)
    assert [prompt.tolist() for prompt in cut] == [prompt[:, :9].tolist() for prompt in whole]
    assert [prompt.shape[1] for prompt in read_prompts(data, tokenizer, samples=3, seq_length=9)] == [9, 9, 9]
    for most, lengths in {1: [1], 9: [9], 20: [9, 9, 2], 1000: [9, 9, 9, 9]}.items():
        found = read_prompts(data, tokenizer, samples=128, seq_length=9, max_tokens=most)
        assert [prompt.shape[1] for prompt in found] == lengths


def test_a_prompt_is_no_longer_than_the_model_allows(random_chatter: Path, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "long.jsonl", {"text": "word " * 700})
    made = calibrate(random_chatter, tmp_path / "scales.safetensors", data=lines, seq_length=9999)
    assert made.data.tokens == made.data.seq_length == 512


@pytest.mark.parametrize("limits", [{"samples": 0}, {"seq_length": 0}, {"max_tokens": 0}, {"samples": -1}])
def test_a_limit_below_one_is_refused(limits: dict[str, int], data: Path, tokenizer: Any) -> None:
    with pytest.raises(CalibrationError, match=r"must be 1 or more\.$"):
        read_prompts(data, tokenizer, **{"samples": 4, "seq_length": 9, **limits})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({}, "has neither of the keys 'text' and 'messages'"),
        ({"prompt": "x"}, "has neither of the keys"),
        ({"text": "x", "messages": CHAT}, "has both of the keys"),
        ("no JSON", "is not valid JSON"),
        ('{"text": "cut', "is not valid JSON"),
        ('{"text": NaN}', "contains NaN"),
        ('{"text": "a", "text": "b"}', "gives the key 'text' twice"),
        ('["text"]', "holds a list"),
        ('{"text": "x", "deep": ' + "[" * 5000 + "]" * 5000 + "}", "is nested deeper than"),
        ({"text": 5}, "has a 'text' that is not a string"),
        ({"text": ""}, "has no tokens"),
        ('{"text": "\\ud800"}', "has a 'text' that cannot be encoded: the prompt holds half of a surrogate pair"),
        ({"messages": []}, "has 'messages' that are not a list of objects with a 'role'"),
        ({"messages": "hi"}, "has 'messages' that are not a list"),
        ({"messages": [*CHAT, "hi"]}, "has 'messages' that are not a list"),
        ({"messages": [{"content": "hi"}]}, "has 'messages' that are not a list"),
        ({"messages": [{"role": "alien", "content": "hi"}]}, "cannot be rendered by the chat template (Unknown"),
        ({"messages": [{"role": "assistant", "content": [1]}]}, "cannot be rendered by the chat template"),
        ({"messages": CHAT, "tools": 5}, "cannot be rendered by the chat template"),
        ({"messages": CHAT, "tools": ["add"]}, "cannot be rendered by the chat template"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "cannot be rendered by the chat template"),
        ({"messages": CHAT, "enable_thinking": "yes"}, "has an 'enable_thinking' that is neither true nor false"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(line: object, words: str, tokenizer: Any, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", {"text": "fine"}, "", line, {"text": "never read"})
    with pytest.raises(CalibrationError) as caught:
        read_prompts(path, tokenizer, samples=128, seq_length=64)
    message = str(caught.value)
    assert message.startswith(f"line 3 of {path} {words}")
    assert message.endswith(".")
    assert "\n" not in message
    assert len(read_prompts(path, tokenizer, samples=1, seq_length=64)) == 1  # what is not wanted is not read


def test_bytes_that_are_no_utf_8_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(CalibrationError, match=r"^line 1 of .* is not valid JSON"):
        read_prompts(tmp_path / "data.jsonl", tokenizer, samples=1, seq_length=64)


def test_a_line_that_is_too_long_is_refused(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps({"text": "x" * 100})
    path = write_lines(tmp_path / "data.jsonl", {"text": "fine"}, line)
    monkeypatch.setattr(calibration_data, "MAX_LINE_BYTES", len(line) + 1)  # its end counts too
    assert len(read_prompts(path, tokenizer, samples=9, seq_length=64)) == 2
    monkeypatch.setattr(calibration_data, "MAX_LINE_BYTES", len(line))
    with pytest.raises(CalibrationError, match=rf"^line 2 of .* is longer than {len(line)} bytes; break it"):
        read_prompts(path, tokenizer, samples=9, seq_length=64)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tokenizer: Any, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", {"text": "fine"})
    os.truncate(path, calibration_data.MAX_DATA_BYTES + 1)  # sparse
    message = rf"data\.jsonl has {calibration_data.MAX_DATA_BYTES + 1} bytes, and at most .* are read; give a file of"
    for read in (
        lambda: calibration_data.hash_of(path),
        lambda: read_prompts(path, tokenizer, samples=1, seq_length=64),
        lambda: read_held_out(path, tokenizer, seq_length=64, max_length=64, samples=1),
        lambda: calibrate(TINY, tmp_path / "out", data=path),
    ):
        with pytest.raises(CalibrationError, match=message):
            read()


def test_a_file_without_lines_a_folder_and_no_file_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n  \n")
    with pytest.raises(CalibrationError, match=r"empty\.jsonl has no line; write one JSON object a line"):
        read_prompts(tmp_path / "empty.jsonl", tokenizer, samples=1, seq_length=64)
    for path in (tmp_path, tmp_path / "missing.jsonl"):
        with pytest.raises(CalibrationError, match="is not a file; give a JSONL file"):
            read_prompts(path, tokenizer, samples=1, seq_length=64)


def test_a_chat_needs_a_chat_template(tmp_path: Path) -> None:
    plain = load_tokenizer(TINY)
    plain.chat_template = None
    path = write_lines(tmp_path / "data.jsonl", {"text": "fine"}, {"messages": CHAT})
    with pytest.raises(ArtifactError, match="has no chat template"):
        read_prompts(path, plain, samples=9, seq_length=64)


def test_a_tokenizer_of_another_model_is_refused(random_hybrid: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(random_hybrid, folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, folder)
    with pytest.raises(CalibrationError, match=r"^the tokenizer gives token \d+, and the model knows 97; give"):
        calibrate(folder, tmp_path / "scales.safetensors", data=data)
    assert not (tmp_path / "scales.safetensors").exists()


def test_a_checkpoint_that_is_not_finite_gives_no_scales(
    random_chatter: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where a weight is NaN nor where finite weights overflow on the way."""
    model = random_model(vocab_size=843)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight *= 1e30
        model.model.layers[1].mlp.gate_proj.weight *= 1e30
    shutil.copytree(random_chatter, tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(CalibrationError, match=r"^the range of layer 1's down projection is not finite"):
        calibrate(tmp_path / "model", tmp_path / "scales.safetensors", data=data)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"model\.layers\.0\.mlp\.up_proj\.weight"):
        calibrate(tmp_path / "model", tmp_path / "scales.safetensors", data=data)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# What a scales file may hold.

Tensors = dict[str, torch.Tensor]
About = dict[str, Any]


@pytest.fixture
def damage(scales: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a copy with tensors or the header's text changed."""

    def write(change: Callable[[Tensors, About], object]) -> Path:
        with safe_open(scales, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            about = json.loads(file.metadata()["exaone_export"])
        change(tensors, about)
        save_file(tensors, tmp_path / "damaged.safetensors", {"exaone_export": json.dumps(about)})
        return tmp_path / "damaged.safetensors"

    return write


def test_a_copy_without_damage_is_read(damage: Callable[..., Path], random_chatter: Path) -> None:
    ScalesFile.read(damage(lambda _tensors, _about: None), Checkpoint.open(random_chatter).spec)


RANGE, CHANNELS = "layers.2.down.range", "layers.2.down.channel_maximum"
WHERE = "layer 2's down projection"


def put(tensors: Tensors, found: float, channels: float | None = None) -> None:
    tensors[RANGE] = torch.tensor(found)
    if channels is not None:
        tensors[CHANNELS] = torch.full_like(tensors[CHANNELS], channels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors, _: tensors.pop(RANGE), f"lacks the range of {WHERE}"),
        (lambda tensors, _: tensors.pop(CHANNELS), f"lacks the channel maximum of {WHERE}"),
        (lambda tensors, _: put(tensors, 0.0), f"the range of {WHERE} is 0, and it must be above 0"),
        (lambda tensors, _: put(tensors, 0.0, 0.0), f"the range of {WHERE} is 0"),
        (lambda tensors, _: put(tensors, -3.0), f"the range of {WHERE} is -3"),
        (lambda tensors, _: put(tensors, torch.nan), f"the range of {WHERE} is not finite"),
        (lambda tensors, _: put(tensors, torch.inf), f"the range of {WHERE} is not finite"),
        (lambda tensors, _: tensors[CHANNELS][3:4].fill_(torch.nan), f"the range of {WHERE} is not finite"),
        (lambda tensors, _: put(tensors, 1.0), f"the range of {WHERE} is 1, and its method takes the largest"),
        (lambda tensors, _: tensors[RANGE].mul_(1.01), f"the range of {WHERE} is"),
        (lambda tensors, _: tensors[RANGE].mul_(0.5), f"{WHERE} is"),
        (lambda tensors, _: tensors[CHANNELS][5:6].fill_(-1), f"the range of {WHERE} is"),
        (lambda tensors, _: tensors.update({RANGE: torch.ones(1)}), "is F32 [1] in place of F32 []"),
        (lambda tensors, _: tensors.update({CHANNELS: torch.ones(47)}), "is F32 [47] in place of F32 [48]"),
        (
            lambda tensors, _: tensors.update({CHANNELS: tensors[CHANNELS].half()}),
            "is F16 [48] in place of F32 [48]",
        ),
        (lambda tensors, _: tensors.update({CHANNELS: tensors[CHANNELS].double()}), "is F64"),
        (lambda tensors, _: tensors.update(extra=torch.ones(1)), "has 'extra', which the model has no place for"),
        (
            lambda tensors, _: tensors.update({"layers.4.down.range": torch.ones(())}),
            "has 'layers.4.down.range', which the model has no place for",
        ),
        (lambda _, about: about.update(schema_version=1), "has schema version 1, and this program reads 2"),
        (lambda _, about: about.update(schema_version=True), "has schema version True"),
        (lambda _, about: about.pop("schema_version"), "has schema version None"),
        (lambda _, about: about.pop("method"), "has no key 'method'"),
        (lambda _, about: about.update(more=1), "has an unknown key 'more'"),
        (lambda _, about: about.update(formats=[]), "cannot be used: formats must be given unless"),
        (lambda _, about: about.update(formats="int8"), "has 'int8' at formats, which is not array"),
        (lambda _, about: about["source"].pop("fingerprint"), "has no key 'source.fingerprint'"),
        (lambda _, about: about["source"].update(fingerprint=None), "has None at source.fingerprint, which is not str"),
        (lambda _, about: about["data"].update(tokens=0), "has 0 at data.tokens, which is not int >= 1"),
        (lambda _, about: about["data"].update(tokens=1.5), "has 1.5 at data.tokens, which is not int"),
        (lambda _, about: about.update(data=None), "has None at data, which is not object"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(
    change: Callable[[Tensors, About], object], words: str, damage: Callable[..., Path], random_chatter: Path
) -> None:
    spec = Checkpoint.open(random_chatter).spec
    with pytest.raises(CalibrationError) as caught:
        ScalesFile.read(damage(change), spec)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")


def test_scales_of_another_checkpoint_are_refused(
    scales: Path, random_chatter: Path, save_model: SaveModel, damage: Callable[..., Path]
) -> None:
    checkpoint = Checkpoint.open(random_chatter)
    other = Checkpoint.open(save_model(seed=1, vocab_size=843, dtype="bfloat16"))
    assert input_sizes(other.spec) == input_sizes(checkpoint.spec)
    found = ScalesFile.read(scales, other.spec)
    with pytest.raises(CalibrationError, match=r"^the scales were made from model, .*fingerprints differ"):
        found.check_fits(other, "int8")
    with pytest.raises(CalibrationError, match=r"is F32 .* so it is of another model"):
        ScalesFile.read(scales, Checkpoint.open(TINY).spec)
    only_int8 = ScalesFile.read(damage(lambda _, about: about.update(formats=["int8"])), checkpoint.spec)
    only_int8.check_fits(checkpoint, "int8")
    with pytest.raises(CalibrationError, match=r"^the scales are for int8, and the precision needs float8_e4m3fn"):
        only_int8.check_fits(checkpoint, "float8_e4m3fn")


def test_what_is_no_scales_file_is_refused(random_chatter: Path, tmp_path: Path) -> None:
    spec = Checkpoint.open(random_chatter).spec
    with pytest.raises(CalibrationError, match="is not a scales file; make it again with: exaone-export calibrate"):
        ScalesFile.read(random_chatter / "model.safetensors", spec)
    with pytest.raises(CalibrationError, match="is not a regular file; make it again"):
        ScalesFile.read(tmp_path, spec)
    with pytest.raises(CalibrationError, match="does not exist; make it again"):
        ScalesFile.read(tmp_path / "missing", spec)
    (tmp_path / "text").write_text("not a tensor in sight")
    with pytest.raises(CalibrationError, match="ends within its header; make it again"):
        ScalesFile.read(tmp_path / "text", spec)


def test_a_file_that_was_cut_off_is_refused(scales: Path, random_chatter: Path, tmp_path: Path) -> None:
    spec, data = Checkpoint.open(random_chatter).spec, scales.read_bytes()
    cut = tmp_path / "cut.safetensors"
    header = 8 + int.from_bytes(data[:8], "little")
    for size in (0, 5, 8, 100, header - 1):
        cut.write_bytes(data[:size])
        with pytest.raises(CalibrationError, match="ends within its header; make it again with"):
            ScalesFile.read(cut, spec)
    for size in (header, header + 10, (header + len(data)) // 2, len(data) - 1, len(data) + 1):
        cut.write_bytes((data + b"\0")[:size])
        with pytest.raises(CalibrationError, match=f"has {size} bytes where its header needs {len(data)}; make it"):
            ScalesFile.read(cut, spec)


@pytest.mark.parametrize("seed", range(3))
def test_a_bit_that_falls_over_changes_no_range(
    seed: int, scales: Path, random_chatter: Path, tmp_path: Path, generator: torch.Generator
) -> None:
    """Of the file and the checkpoint together, what is not refused has the ranges that were measured."""
    checkpoint, data = Checkpoint.open(random_chatter), scales.read_bytes()
    measured = ScalesFile.read(scales, checkpoint.spec)
    flipped = tmp_path / "flipped.safetensors"
    generator.manual_seed(seed)
    header = 8 + int.from_bytes(data[:8], "little")
    refused = 0
    for number in range(40):  # half of them in the header
        first, last = (0, header) if number % 2 else (header, len(data))
        bit = int(torch.randint(8 * first, 8 * last, (), generator=generator))
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        flipped.write_bytes(changed)
        try:
            found = ScalesFile.read(flipped, checkpoint.spec)
            found.check_fits(checkpoint, "int8")
        except CalibrationError:
            refused += 1
            continue
        for layer, expected in zip(found.ranges, measured.ranges, strict=True):
            assert {part: one.range for part, one in layer.items()} == {
                part: one.range for part, one in expected.items()
            }
    assert refused > 10


def test_every_bit_of_a_range_counts(scales: Path, random_chatter: Path, tmp_path: Path) -> None:
    spec, data = Checkpoint.open(random_chatter).spec, scales.read_bytes()
    table = json.loads(data[8 : (start := 8 + int.from_bytes(data[:8], "little"))])
    first, last = (8 * (start + offset) for offset in table[RANGE]["data_offsets"])
    for bit in range(first, last):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / "flipped").write_bytes(changed)
        with pytest.raises(CalibrationError, match=WHERE):
            ScalesFile.read(tmp_path / "flipped", spec)


def test_a_range_that_cannot_be_right_is_not_written(scales: Path, random_chatter: Path, tmp_path: Path) -> None:
    found = ScalesFile.read(scales, Checkpoint.open(random_chatter).spec)
    for wrong in (0.0, -1.0, torch.nan, torch.inf, 1e9):
        first = {**found.ranges[0], "output": replace(found.ranges[0]["output"], range=wrong)}
        with pytest.raises(CalibrationError, match="the range of layer 0's output projection"):
            replace(found, ranges=(first, *found.ranges[1:])).write(tmp_path / "scales.safetensors")
    assert not list(tmp_path.iterdir())


# How it is written.


def test_a_file_that_stands_there_is_kept_unless_it_may_be_replaced(
    random_chatter: Path, scales: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scales.safetensors"
    out.write_text("mine")
    with pytest.raises(CalibrationError, match="exists already; pass --overwrite"):
        calibrate(random_chatter, out, data=data)
    with pytest.raises(CalibrationError, match="is not a scales file, and would be lost"):
        calibrate(random_chatter, out, data=data, overwrite=True)
    assert out.read_text() == "mine"
    changed = bytearray(scales.read_bytes())
    changed[-1] ^= 1
    out.write_bytes(changed)
    calibrate(random_chatter, out, data=data, overwrite=True)
    assert out.read_bytes() == scales.read_bytes()
    with pytest.raises(CalibrationError, match="is a folder; give the path of a file"):
        calibrate(random_chatter, tmp_path, data=data, overwrite=True)
    with pytest.raises(CalibrationError, match="nowhere is not a folder; make it"):
        calibrate(random_chatter, tmp_path / "nowhere" / "scales.safetensors", data=data)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_file_that_is_a_mount_point_is_refused_before_the_work(
    tmp_path: Path, mount: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("source", "scales.safetensors"):
        (tmp_path / name).touch()
    out = mount(tmp_path / "scales.safetensors", "--bind", str(tmp_path / "source"))
    monkeypatch.setattr(Checkpoint, "open", lambda *_: pytest.fail("the model was downloaded"))
    with pytest.raises(CalibrationError, match=r"scales\.safetensors is a mount point; choose another destination"):
        calibrate("someone/model", out, data=tmp_path / "data", overwrite=True)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    interruption: Any,
    where: str,
    scales: Path,
    random_chatter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = ScalesFile.read(scales, Checkpoint.open(random_chatter).spec)
    out = tmp_path / "scales.safetensors"
    out.touch()

    def interrupt(*_arguments: Any, **_keywords: Any) -> None:
        raise interruption

    monkeypatch.setattr(os, where, interrupt)
    expected: Any = KeyboardInterrupt if interruption is KeyboardInterrupt else CalibrationError
    with pytest.raises(expected):
        found.write(out, overwrite=True)
    assert out.read_bytes() == b""
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_name_may_be_as_long_as_names_can_be(scales: Path, random_chatter: Path, tmp_path: Path) -> None:
    found = ScalesFile.read(scales, Checkpoint.open(random_chatter).spec)
    found.write(tmp_path / ("s" * 255))
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


# The command.


def test_the_command_says_what_it_wrote(random_chatter: Path, data: Path, scales: Path, tmp_path: Path) -> None:
    out = tmp_path / "scales.safetensors"
    arguments = ["calibrate", str(random_chatter), str(out), "--data", str(data)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == scales.read_bytes()
    found = ScalesFile.read(out, Checkpoint.open(random_chatter).spec)
    lines = result.stdout.splitlines()
    assert lines[0].split(maxsplit=1) == ["data", f"4 samples, {found.data.tokens} tokens"]
    assert [line.split()[0] for line in lines[1:] if line] == [*PROJECTIONS, "slice", "plain", "tool", "wrote", "next"]
    assert lines[-2].startswith(f"wrote  {out}, ")
    command = f"exaone-export export {random_chatter} OUT --calibration {out} --target tensorrt --precision int8"
    assert lines[-1] == f"next   {command}"
    assert "calibrate" in result.stderr
    down = [parts["down"].range for parts in found.ranges]
    assert lines[4].endswith(f"largest magnitude {min(down):.3g} to {max(down):.3g}, by layer")

    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 2
    assert again.stderr == f"error: {out} exists already; pass --overwrite to replace it.\n"
    assert again.stdout == ""
    as_json = CliRunner().invoke(cli, [*arguments, "--overwrite", "--json", "--seq-length", "9", "--samples", "3"])
    assert as_json.exit_code == 0, as_json.output
    answer = json.loads(as_json.stdout)
    assert answer["data"]["tokens"] == 27
    assert answer["sha256"] == calibration_data.hash_of(out)
    assert [list(layer) for layer in answer["ranges"]] == [list(PROJECTIONS)] * 4


def test_the_command_wants_data() -> None:
    result = CliRunner().invoke(cli, ["calibrate", str(TINY), "scales.safetensors"])
    assert result.exit_code == 2
    assert "missing option '--data'" in result.stderr
