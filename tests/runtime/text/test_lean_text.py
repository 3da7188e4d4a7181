"""Text needs neither torch nor transformers, and starts in a fraction of a second."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

from tests.conftest import TINY

CODE = """
import json, sys, time
marks = {}

def mark(name, start=[time.perf_counter()]):
    marks[name], start[0] = round(1000 * (time.perf_counter() - start[0]), 1), time.perf_counter()

from exaone_export.runtime.text import AnswerDecoder, AnswerStream, ChatFormat, TextStream, Tokenizer, parse_answer
from exaone_export.runtime.text.chat import left_out_of_answers
mark("import")
tokenizer = Tokenizer.open(sys.argv[1])
mark("tokenizer")
chat = ChatFormat(tokenizer)
mark("start of the template's process")
prompt = chat.encode([{"role": "user", "content": "한국어 hello"}], tools=[{"type": "function"}])
mark("first prompt")
assert tokenizer.decode(prompt).endswith("[|assistant|]\\n<think>\\n\\n</think>\\n\\n")
chat.encode([{"role": "user", "content": "again"}])
mark("next prompt")
said = "<think>흠</think>It is <tool_call>{\\"name\\": \\"now\\"}</tool_call>🙂[|endofturn|]"
stream, parts = TextStream(tokenizer, left_out=left_out_of_answers(tokenizer), stop=["never"]), AnswerStream()
for token in tokenizer.encode(said):
    parts.push(stream.push(token))
parts.push(stream.finish())
parts.finish()
assert parts.answer == parse_answer(AnswerDecoder(tokenizer).decode(tokenizer.encode(said))), parts.answer
assert (parts.answer.thinking, parts.answer.content) == ("흠", "It is 🙂"), parts.answer
mark("answer")
heavy = ("torch", "transformers", "onnxruntime", "onnx", "onnx_ir", "jinja2", "huggingface_hub", "safetensors")
assert not [name for name in heavy if name in sys.modules], sorted(sys.modules)
print(json.dumps(marks))
"""


def test_text_without_torch_and_transformers(record_property: Callable[[str, object], None]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(TINY)], check=True, timeout=120, stdout=subprocess.PIPE, text=True
    )
    marks = json.loads(done.stdout)
    record_property("milliseconds", marks)  # how long is told, and depends on what else the machine does
    sys.stdout.write(f"milliseconds: {marks}\n")
    assert len(marks) == 6
