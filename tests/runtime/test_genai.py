"""onnxruntime-genai opens an artifact as it is, and gives the tokens that the product gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exaone_export import ExaoneForCausalLM
from exaone_export.artifact.genai_config import GENAI_NAME
from exaone_export.artifact.manifest import Manifest, read_manifest
from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError
from exaone_export.exporter.calibrate.run import Options, calibrate
from exaone_export.files.digest import hash_of
from exaone_export.model.published import PUBLISHED
from tests.conftest import TINY
from tests.exporter.calibrate.calibration_models import TEXTS, write_lines

og = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")


def answers(folder: Path, prompts: list[list[int]], count: int, **options: Any) -> list[list[int]]:
    """Greedy tokens by onnxruntime-genai, which pads behind shorter prompts."""
    config = og.Config(str(folder))
    config.overlay('{"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}')
    model = og.Model(config)
    params = og.GeneratorParams(model)
    params.set_search_options(do_sample=False, batch_size=len(prompts), **options)
    generator = og.Generator(model, params)
    longest = max(map(len, prompts))
    generator.append_tokens(np.array([row + [0] * (longest - len(row)) for row in prompts], np.int32))
    made: list[list[int]] = [[] for _ in prompts]
    while not generator.is_done() and len(made[0]) < count:
        generator.generate_next_token()
        for row, token in zip(made, generator.get_next_tokens(), strict=True):
            row.append(int(token))
    return made


def ours(folder: Path, prompt: list[int], count: int) -> list[int]:
    with ExaoneForCausalLM.from_pretrained(folder) as model:
        made = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=count)
    return made[0, len(prompt) :].tolist()


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 97, length).tolist()


FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "hybrid": ("float32", {}),
    "window 5, no group": ("float32", {"sliding_window": 5, "num_key_value_heads": 4, "tie_word_embeddings": True}),
    "no window": ("float32", {"sliding_window": None, "layer_types": ["full_attention"] * 4}),
    "32B, few layers": (
        "float32",
        {
            "num_hidden_layers": 8,
            "layer_types": list(PUBLISHED["32b"].layer_types[:8]),
            "num_attention_heads": PUBLISHED["32b"].num_attention_heads,
            "num_key_value_heads": PUBLISHED["32b"].num_key_value_heads,
        },
    ),
    "int8": ("int8", {}),
    "int4": ("int4", {}),
    "int8-weights": ("int8-weights", {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_its_tokens_are_ours_past_three_windows(form: str, save_model: Any, export_artifact: Any) -> None:
    precision, config = FORMS[form]
    folder = export_artifact(save_model(**config), "ort-cpu", 128, precision)
    prompt = prompt_of(41)
    wanted = ours(folder, prompt, 24)
    assert answers(folder, [prompt], 24)[0][: len(wanted)] == wanted


def test_its_tokens_are_ours_with_an_int8_cache(export_artifact: Any, shared: Any) -> None:
    def calibrated(out: Path) -> None:
        lines = write_lines(out.with_suffix(".jsonl"), *TEXTS)
        calibrate(TINY, out, data=lines, options=Options("int4", cache="int8"))

    scales = shared("scales", "int4, int8 cache", calibrated)
    folder = export_artifact(TINY, "ort-cpu", 256, "int4", cache_precision="int8", calibration=scales)
    prompt = prompt_of(3 * 32 + 9)
    wanted = ours(folder, prompt, 24)
    assert answers(folder, [prompt], 24)[0][: len(wanted)] == wanted


def test_rows_of_different_lengths_are_right(random_hybrid: Path, export_artifact: Any) -> None:
    folder = export_artifact(random_hybrid, "ort-cpu", 128)
    prompts = [prompt_of(30), prompt_of(17, 1), prompt_of(3, 2)]
    for row, prompt in zip(answers(folder, prompts, 12), prompts, strict=True):
        wanted = ours(folder, prompt, 12)
        assert row[: len(wanted)] == wanted


def test_a_shorter_maximum_takes_a_smaller_cache(random_hybrid: Path, export_artifact: Any) -> None:
    folder = export_artifact(random_hybrid, "ort-cpu", 128)
    assert answers(folder, [prompt_of(20)], 8, max_length=40) == answers(folder, [prompt_of(20)], 8)


@pytest.mark.parametrize("target", ["onnx", "tensorrt"])
def test_other_targets_have_no_file_of_it(target: str, random_hybrid: Path, export_artifact: Any) -> None:
    folder = export_artifact(random_hybrid, target)
    assert GENAI_NAME not in read_manifest(folder).files
    assert "next_logits" not in read_manifest(folder).outputs


HOSTILE: dict[str, tuple[tuple[str, ...], Any]] = {
    "another model": (("model", "decoder", "filename"), "/etc/passwd"),
    "a library": (("model", "decoder", "session_options", "custom_ops_library"), "../evil.so"),
    "a provider": (("model", "decoder", "session_options", "provider_options"), [{"QNN": {"backend_path": "x.so"}}]),
    "a profile": (("model", "decoder", "session_options", "enable_profiling"), "/tmp/out"),
    "a folder": (("model", "tokenizer_dir"), ".."),
    "a draft": (("model", "draft"), {"filename": "other.onnx"}),
    "a length": (("search", "max_length"), 1 << 30),
    "a text": (("search", "top_k"), "50"),
    "layers": (("model", "decoder", "num_hidden_layers"), 400),
    "a window": (("model", "decoder", "sliding_window", "window_size"), 9),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_it_says_is_the_manifest_s(what: str, random_hybrid: Path, export_artifact: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(export_artifact(random_hybrid, "ort-cpu"), tmp_path / "artifact")
    path, (keys, value) = folder / GENAI_NAME, HOSTILE[what]
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))
    relist(folder, read_manifest(folder))
    with pytest.raises(ArtifactError, match=GENAI_NAME):
        Artifact.open(folder)


def relist(folder: Path, manifest: Manifest) -> None:
    import msgspec

    path = folder / GENAI_NAME
    files = manifest.files | {GENAI_NAME: {"sha256": hash_of(path), "size": path.stat().st_size}}
    (folder / "exaone_export.json").write_bytes(msgspec.structs.replace(manifest, files=files).to_json())
