"""Whatever a checkpoint's other files say, the tokens are those of tokenizer.json."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from transformers import AutoTokenizer

from exaone_export.errors import ArtifactError, PromptError
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.runtime.text.tokenizer import Tokenizer, check_vocabulary
from tests.conftest import TINY
from tests.watched import unread

pytestmark = pytest.mark.hostile

TEXT = "Buy:\n\n- 2 apples\n- 3 pears, e\u0301 \u00e9 한국어"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, made / name)
    return made


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "name", ["GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "LlamaTokenizer", "PreTrainedTokenizerFast", None]
)
def test_the_class_that_is_named_changes_nothing(folder: Path, name: str | None) -> None:
    edit(folder / "tokenizer_config.json", tokenizer_class=name, add_prefix_space=True, add_bos_token=True)
    expected = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids
    assert load_tokenizer(folder)(TEXT)["input_ids"] == Tokenizer.open(folder).encode(TEXT) == expected


def test_a_class_of_transformers_would_change_the_tokens(folder: Path) -> None:
    """What the tests above are about; once this fails, transformers reads the file as it is."""
    edit(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    assert AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"] != load_tokenizer(folder)(TEXT)["input_ids"]


@pytest.mark.parametrize(
    "config", ["{", '{"model_type": "exaone4", "sliding_window_pattern": "LLLG"}', '{"tokenizer_class": 3}', None]
)
def test_the_models_config_is_not_read(folder: Path, config: str | None) -> None:
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(config)
    assert load_tokenizer(folder)(TEXT)["input_ids"] == load_tokenizer(TINY)(TEXT)["input_ids"]


def test_it_is_transformers_own_where_that_reads_the_file_as_it_is(folder: Path) -> None:
    edit(
        folder / "tokenizer_config.json",
        additional_special_tokens=["<extra>", "<think>"],
        image_token="<image>",
        model_max_length=77,
        added_tokens_decoder={"8": {"content": "[|endofturn|]", "lstrip": True, "special": True}},
    )
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert {i: repr(t) for i, t in ours.added_tokens_decoder.items()} == {
        i: repr(t) for i, t in theirs.added_tokens_decoder.items()
    }
    assert ours.all_special_ids == theirs.all_special_ids and len(ours) == len(theirs) == 845
    assert ours.model_max_length == 77 and ours.chat_template == theirs.chat_template
    text = "<extra> a <image>[|endofturn|]"
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]


def test_special_tokens_of_an_older_form(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    names = {"eos_token": {"content": "[EOS]", "lstrip": False}, "additional_special_tokens": ["[|tool|]"]}
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.eos_token == theirs.eos_token == "[EOS]" and ours.pad_token is None
    assert ours.all_special_ids == theirs.all_special_ids


def test_what_is_saved_is_read_again_here_and_by_transformers(folder: Path, tmp_path: Path) -> None:
    ours = load_tokenizer(folder)
    ours.save_pretrained(tmp_path / "saved")
    for tokenizer in (load_tokenizer(tmp_path / "saved"), AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert tokenizer(TEXT)["input_ids"] == ours(TEXT)["input_ids"]
        assert tokenizer.chat_template == ours.chat_template


@pytest.mark.parametrize(
    "key", ["vocab", "merges", "tokenizer_object", "gguf_file", "name_or_path", "fast_tokenizer_files"]
)
def test_no_other_value_of_the_tokenizer_config_is_used(folder: Path, tmp_path: Path, key: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    value = [str(outside / "secret")] if key.endswith("s") else str(outside / "secret")
    edit(folder / "tokenizer_config.json", **{key: value, "init_inputs": [1, 2], "backend": "mistral-common"})
    with unread(outside):
        try:
            tokens = load_tokenizer(folder)(TEXT)["input_ids"]
            assert Tokenizer.open(folder).encode(TEXT) == tokens
        except ArtifactError as error:
            assert re.search(f"(names a file in|has text in the key) '?{key}", str(error))
        else:
            assert tokens == load_tokenizer(TINY)(TEXT)["input_ids"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("tokenizer.json", None, "has no tokenizer.json, without which no text can be tokenized; copy that of the"),
        ("tokenizer.json", "{}", "holds no tokenizer that can be read"),
        ("tokenizer.json", "{", "holds no tokenizer that can be read"),
        ("tokenizer_config.json", "[]", "holds a list, not an object"),
        ("tokenizer_config.json", '{"auto_map": {}}', "names Python code in auto_map"),
        ("tokenizer_config.json", '{"eos_token": [1]}', "holds no tokenizer that can be read"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}', "holds no tokenizer that can be read"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "holds no tokenizer that can be read"),
        ("tokenizer_config.json", '{"eos_token": {"content": 3}}', "holds no tokenizer that can be read"),
        ("tokenizer_config.json", '{"model_input_names": 3}', "holds no tokenizer that can be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(folder: Path, name: str, content: str | None, sentence: str) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    for opened in (load_tokenizer, Tokenizer.open):
        if opened == Tokenizer.open and "model_input_names" in (content or ""):
            continue  # the names of transformers' own arguments
        with pytest.raises(ArtifactError, match=sentence) as caught:
            opened(folder)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_template_that_is_not_utf_8_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"caf\xe9")
    for opened in (load_tokenizer, Tokenizer.open):
        with pytest.raises(ArtifactError, match=r"chat_template.jinja holds the byte 0xe9 at offset 3"):
            opened(folder)


def test_a_token_that_the_model_has_not_is_named_with_its_cause(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", additional_special_tokens=["<extra>"])
    tokenizer = load_tokenizer(folder)
    ids = tokenizer("a <extra> b", return_tensors="pt")["input_ids"]
    check_vocabulary(tokenizer, ids, 844)
    check_vocabulary(tokenizer, torch.zeros(1, 0, dtype=torch.int64), 844)
    with pytest.raises(
        PromptError, match=r"^the prompt holds '<extra>', token 843 .* embeddings for 0 to 842: the token"
    ):
        check_vocabulary(tokenizer, ids, 843)
