"""Templates are rendered without transformers as with it."""

from __future__ import annotations

import importlib.util
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from exaone_export.errors import ArtifactError, ChatTemplateError, ProcessStartError
from exaone_export.runtime.mirror.text.chat import ChatFormat as TensorChatFormat
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.runtime.text import chat_templates
from exaone_export.runtime.text.chat import ChatFormat
from exaone_export.runtime.text.tokenizer import Tokenizer
from tests.conftest import TINY

MESSAGES = [
    {"role": "system", "content": "한국어 <b> & 'q' \U0001f642 \n\t"},
    {"role": "user", "content": "hi", "n": 1.5, "list": [1, None, True]},
    {"role": "assistant", "content": "well", "reasoning": "hm", "tool_calls": [{"name": "add", "arguments": {"a": 1}}]},
    {"role": "tool", "content": "3"},
]
TOOL = {"type": "function", "function": {"name": "add", "description": "é <&>", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "template",
    [
        (TINY / "chat_template.jinja").read_text(),
        "{% for m in messages %}\n  {% if m.role == 'user' %}\n    {{ m.content }}\n  {% endif %}\n{% endfor %}\nend\n",
        "{% for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}{% if m.role == 'user' %}{% continue %}"
        "{% endif %}{{ m.role }} {% endfor %}",
        "{{ messages | tojson }} {{ tools | tojson(indent=2) }} {{ messages[0] | tojson(ensure_ascii=True) }} "
        "{{ messages[1] | tojson(separators=(',', ':'), sort_keys=True) }}",
        "{% for m in messages %}{% generation %}{% set x = m.role %}{{ m.content }}\n{% endgeneration %}"
        " {{ x }}|{% endfor %}",
        "{% set n = namespace(self='a', count=0) %}{% for m in messages %}{% set n.count = n.count + 1 %}{% endfor %}"
        "{{ n.self }}{{ n.count }}{{ dict(a=1, b=[2]) }}{{ dict.fromkeys([1, 2]) }}",
        "{% for m in messages %}{{ m.reasoning_content }} {{ m.thinking }} {{ m.reasoning }}{% endfor %}",
        "{{ bos_token }}{{ documents }}{{ add_generation_prompt }}{{ enable_thinking }}"
        "{{ nothing is defined }}{{ nothing }}",
        "{{ messages[0].content | trim | upper | e }} {{ 'a,b'.split(',') }} {{ range(3) | list }}"
        " {{ lipsum is defined }}",
        "{% macro f(x, y=2) %}{{ x }}{{ y }}{{ caller is defined }}{% endmacro %}{{ f(1) }}"
        "{% call f(3) %}z{% endcall %}",
        "{{ messages[-1].content is string }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
        "a{#- comment -#} b {%- if true -%} c {%- endif %}\n\n{% raw %}{{ x }}{% endraw %}\n",
        "{{ strftime_now('%Y') }}",
    ],
)
@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_the_text_is_that_of_transformers(template: str, tools: Any) -> None:
    given = {"bos_token": "[BOS]", "enable_thinking": True, "add_generation_prompt": True}
    theirs, _ = render_jinja_template(conversations=[MESSAGES], tools=tools, chat_template=template, **given)
    ours = chat_templates.shared().render(conversations=[MESSAGES], tools=tools, chat_template=template, **given)
    assert ours == theirs[0]


def test_the_time_is_now() -> None:
    template = "{{ strftime_now('%Y-%m-%d %H') }}"
    before = datetime.now()
    ours = chat_templates.shared().render(conversations=[[]], chat_template=template)
    assert ours in {each.strftime("%Y-%m-%d %H") for each in (before, datetime.now())}


@pytest.mark.hostile
@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ dict.__class__.mro() }}",
        "{{ dict.mro() }}",
        "{{ namespace(_x=1) }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(a=1) }}",
        "{{ strftime_now.__globals__.json }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ (1).__class__.__base__.__subclasses__() }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{% for x in range(100001) %}{% endfor %}",
    ],
)
def test_what_transformers_refuses_is_refused(template: str) -> None:
    with pytest.raises(Exception):  # noqa: B017 - of a jinja2 type each
        render_jinja_template(conversations=[MESSAGES], chat_template=template)
    with pytest.raises(ChatTemplateError, match=r"^the chat template refuses the messages: "):
        chat_templates.shared().render(conversations=[MESSAGES], chat_template=template)


def test_prompts_are_the_same_ids_and_tensors() -> None:
    lean, tensors = ChatFormat(Tokenizer.open(TINY)), TensorChatFormat(load_tokenizer(TINY))
    for thinking in (False, True):
        for tools in (None, [TOOL]):
            ids = lean.encode(MESSAGES, enable_thinking=thinking, tools=tools)
            prompt = tensors.encode(MESSAGES, enable_thinking=thinking, tools=tools)
            assert prompt["input_ids"].tolist() == [ids] and prompt["attention_mask"].tolist() == [[1] * len(ids)]
            assert lean.decode(ids) == tensors.decode(prompt["input_ids"])
    assert lean.encode(MESSAGES[:2], add_generation_prompt=False) == lean.encode(MESSAGES[:2])[: -len(_opening(lean))]


def _opening(chat: ChatFormat) -> list[int]:
    return chat.tokenizer.encode("[|assistant|]\n<think>\n\n</think>\n\n", add_special_tokens=False)


def test_a_function_is_a_tool_where_transformers_is() -> None:
    def add(a: int) -> int:
        """Add one.

        Args:
            a: A number.
        """
        return a + 1

    tensors = TensorChatFormat(load_tokenizer(TINY))
    text = tensors.render(MESSAGES[:2], tools=[add])
    assert '"name": "add"' in text and '"description": "A number."' in text
    with pytest.raises(ChatTemplateError, match="the messages are not JSON"):
        ChatFormat(Tokenizer.open(TINY)).render(MESSAGES[:2], tools=[add])  # type: ignore[list-item]


NAMED = {"default": "plain {{ tools }}", "tool_use": "tools {{ tools | length }}", "rag": "found"}


@pytest.mark.parametrize("opened", [Tokenizer.open, load_tokenizer])
def test_one_of_several_templates(opened: Any) -> None:
    tokenizer = opened(TINY)
    tokenizer.chat_template = dict(NAMED)
    message = MESSAGES[1:2]
    assert ChatFormat(tokenizer).render(message) == "plain None"
    assert ChatFormat(tokenizer).render(message, tools=[TOOL]) == "tools 1"
    assert ChatFormat(tokenizer, "rag").render(message, tools=[TOOL]) == "found"
    for tools in (None, [TOOL]):
        theirs = load_tokenizer(TINY)
        theirs.chat_template = dict(NAMED)
        prompt = theirs.apply_chat_template(message, tools=tools, tokenize=False)
        assert ChatFormat(tokenizer).render(message, tools=tools) == prompt
    del tokenizer.chat_template["tool_use"]
    assert ChatFormat(tokenizer).render(message, tools=[TOOL]).startswith("plain [")
    with pytest.raises(
        ArtifactError, match=r"no chat template with the name 'tool_use', and has default, rag; name one"
    ):
        ChatFormat(tokenizer, "tool_use")
    del tokenizer.chat_template["default"]
    with pytest.raises(ArtifactError, match=r"no chat template with the name 'default', and has rag; name one"):
        ChatFormat(tokenizer)


@pytest.mark.parametrize("message", ["hi", None, 3, ["role", "user"]])
def test_a_message_is_an_object(message: Any) -> None:
    with pytest.raises(ChatTemplateError, match=r"is not a message; pass objects with role and content\.$"):
        ChatFormat(Tokenizer.open(TINY)).render([message])


@pytest.mark.hostile
def test_the_process_loads_jinja_and_nothing_of_its_surroundings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('taken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    templates = chat_templates.Templates()
    assert templates.render(conversations=[[]], chat_template="a") == "a"
    assert templates._worker.process is not None
    maps = Path(f"/proc/{templates._worker.process.pid}/maps").read_text()
    assert "torch" not in maps and "numpy" not in maps and "tokenizers" not in maps
    templates.close()


def test_without_jinja_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(
        ProcessStartError, match=r"did not start \(it wrote: .*No module named 'jinja2'\); run: .*jinja2'"
    ):
        chat_templates.Templates().render(conversations=[[]], chat_template="a")
