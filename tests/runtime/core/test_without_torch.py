"""Running an artifact on the CPU needs neither torch nor transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from tests.runtime.conftest import tokens

PROMPT, CHUNK, NEW = 21, 7, 24

ANSWER = """
import json, sys
import numpy as np
from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.core.buffers import BufferPool
from exaone_export.runtime.core.row_caches import RowCaches
from exaone_export.runtime.core.steps import Step
from exaone_export.runtime.sessions.opening import open_session

folder, prompt, chunk, new = sys.argv[1], *map(json.loads, sys.argv[2:])
session = open_session(Artifact.open(folder), threads=1)
caches = RowCaches(BufferPool(session.geometry))
caches.allocate(1)

def run(tokens):
    step = Step(np.array([tokens]), list(caches.lengths), [len(tokens)])
    caches.prepare(step.after)
    (logits,) = session.step(step, caches.buffers)
    caches.advance(step.after)
    return int(logits[0, 0].argmax())

for start in range(0, len(prompt), chunk):
    token = run(prompt[start : start + chunk])
answer = [token]
while len(answer) < new:
    answer.append(run(answer[-1:]))
found = [name for name in ("torch", "transformers") if name in sys.modules]
print(json.dumps({"answer": answer, "loaded": found}))
"""


def test_an_answer_by_the_core_alone(artifacts: dict[str, Path]) -> None:
    """Past several windows of 8; also a graph that only appends, whose windows the cache moves."""
    prompt = tokens(1, PROMPT)
    for target in ("ort-cpu", "onnx", "tensorrt-rtx"):
        folder = artifacts[target]
        arguments = [str(folder), *map(json.dumps, (prompt[0].tolist(), CHUNK, NEW))]
        if target != "tensorrt-rtx":
            with ExaoneForCausalLM.from_pretrained(folder, threads=1) as model:
                answer = model.generate(prompt, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
            wanted = answer[0, PROMPT:].tolist()
        done = subprocess.run([sys.executable, "-c", ANSWER, *arguments], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == {"answer": wanted, "loaded": []}, target


def test_the_layers_outputs_need_no_torch() -> None:
    code = (
        "import sys, exaone_export.runtime.parity.layer_outputs, exaone_export.runtime.sessions.opening\n"
        "assert not {'torch', 'transformers', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
