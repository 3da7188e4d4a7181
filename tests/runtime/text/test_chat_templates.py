"""A chat template is a stranger's program: it is applied as transformers applies it, under limits."""

from __future__ import annotations

import ctypes
import functools
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exaone_export.errors import ChatTemplateError, ProcessStartError
from exaone_export.runtime.mirror.text.chat import ChatFormat
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.runtime.text import chat_templates
from exaone_export.runtime.text.chat_templates import MAX_CHARACTERS, Templates
from tests.conftest import TINY

pytestmark = pytest.mark.hostile

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def templates() -> Iterator[Templates]:
    made = Templates(seconds=1)
    yield made
    made.close()


def render(templates: Templates, template: str, content: str = "hi") -> str:
    return templates.render(conversations=[[{"role": "user", "content": content}]], chat_template=template)


@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize("thinking", [False, True])
def test_a_prompt_is_the_one_of_transformers(tools: list[dict[str, object]] | None, thinking: bool) -> None:
    tokenizer = load_tokenizer(TINY)
    messages = [
        {"role": "system", "content": "한국어 \U0001f642 \n\t"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "tool_calls": None},
        {"role": "user", "content": "again"},
    ]
    theirs = tokenizer.apply_chat_template(
        messages, tools=tools, enable_thinking=thinking, add_generation_prompt=True, tokenize=False
    )
    assert ChatFormat(tokenizer).render(messages, enable_thinking=thinking, tools=tools) == theirs


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "did not end within 1 sec"),
        ("{{ 10 ** (10 ** 9) }}", "did not end within 1 seconds"),
        ("{{ 'a' * 10 ** 9 }}", "needs more than 64 MiB"),
        ("{% set n = namespace(s='a') %}{% for i in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "more than 64"),
        ("{{ 'a'|center(10 ** 10) }}", "needs more than 64 MiB"),
        ("{{ '%1000000000d' % 1 }}", "needs more than 64 MiB"),
        ("{{ 'a' * 5000000 }}", f"wrote more than {MAX_CHARACTERS} characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recurses without end"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "refuses the messages: access to attribute '__class__'"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "refuses the messages: "),
        ("{% include '/etc/passwd' %}", "refuses the messages: no loader for this environment specified"),
        ("{% import 'os' as os %}", "refuses the messages: no loader for this environment specified"),
        ("{{ raise_exception('no\nsuch role.') }}", "refuses the messages: no such role."),
        ("{{ messages[9].content }}", "refuses the messages: "),
        ("{% if %}", "refuses the messages: "),
    ],
)
def test_what_a_template_may_not(templates: Templates, template: str, message: str) -> None:
    with pytest.raises(ChatTemplateError) as caught:
        render(templates, template)
    text = str(caught.value)
    assert message in text
    assert text.endswith(".")
    assert "\n" not in text


def test_the_next_prompt_is_not_touched(templates: Templates) -> None:
    for template in ("{{ 'a' * 10 ** 9 }}", "{% if %}"):
        with pytest.raises(ChatTemplateError):
            render(templates, template)
        assert render(templates, "{{ messages[0].content }}") == "hi"


def test_long_prompts_fit(templates: Templates) -> None:
    content = "\uac00나다 " * 200_000
    assert render(templates, "<{{ messages[0].content }}>", content) == f"<{content}>"


def test_a_process_that_was_killed_is_replaced(templates: Templates) -> None:
    render(templates, "a")
    assert templates._worker.process is not None
    templates._worker.process.kill()
    templates._worker.process.wait()
    assert render(templates, "b") == "b"


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], Templates]]:
    """Templates below a hard limit of the environment, as ``ulimit`` in a batch job sets it."""
    made: list[Templates] = []

    def make(kind: int, hard: int) -> Templates:
        def limit() -> None:
            ctypes.CDLL(None).prctl(24, 24, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_SYS_RESOURCE: root could raise the limit
            resource.setrlimit(kind, (hard, hard))

        monkeypatch.setattr(subprocess, "Popen", functools.partial(subprocess.Popen, preexec_fn=limit))
        made.append(Templates(seconds=1))
        return made[-1]

    yield make
    for templates in made:
        templates.close()


@pytest.mark.parametrize(
    ("kind", "hard", "template", "message"),
    [
        (resource.RLIMIT_CPU, 3600, "{{ 10 ** (10 ** 9) }}", "did not end within 1 seconds"),
        (resource.RLIMIT_AS, 64 << 30, "{{ 'a' * 10 ** 9 }}", "needs more than 64 MiB"),
    ],
)
def test_a_hard_limit_of_the_environment_is_not_raised(
    limited: Callable[[int, int], Templates], kind: int, hard: int, template: str, message: str
) -> None:
    templates = limited(kind, hard)
    assert render(templates, "{{ messages[0].content }}") == "hi"
    with pytest.raises(ChatTemplateError, match=message):
        render(templates, template)


def test_a_process_whose_time_runs_out_is_replaced(limited: Callable[[int, int], Templates]) -> None:
    templates = limited(resource.RLIMIT_CPU, 3600)
    assert render(templates, "a") == "a"
    assert templates._worker.process is not None
    resource.prlimit(templates._worker.process.pid, resource.RLIMIT_CPU, (4, 4))
    for text in ("b", "c"):
        assert render(templates, text) == text


def test_what_the_process_writes_before_it_ends_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, templates: Templates
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import sys; sys.exit('first\\nno room \\x1b[2J left.\\n')")
    monkeypatch.setattr(chat_templates, "_WORKER", worker)
    with pytest.raises(ProcessStartError) as caught:
        Templates().render(conversations=[[]], chat_template="a")
    assert r"did not start (it wrote: no room \u001b[2J left); run: " in str(caught.value)
    assert str(caught.value).endswith(".")


def test_what_is_no_json(templates: Templates) -> None:
    with pytest.raises(ChatTemplateError, match="the messages are not JSON"):
        templates.render(conversations=[[{"role": "user", "content": object()}]], chat_template="a")
    with pytest.raises(ChatTemplateError, match="there are no messages"):
        ChatFormat(load_tokenizer(TINY)).render([])
