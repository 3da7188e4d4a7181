"""Stream a greedy answer of an `ort-cpu` artifact with numpy, onnxruntime and tokenizers alone.

    python examples/minimal_runner.py ARTIFACT PROMPT [MAX_NEW_TOKENS]

PROMPT is a chat prompt, as the artifact's chat_template.jinja renders it.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
import onnxruntime
from tokenizers import Tokenizer

CHUNK = 128  # tokens of a prompt in one step
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}


def check(folder: Path) -> dict:
    """The manifest, after every file was found to have its size and hash."""
    manifest = json.loads((folder / "exaone_export.json").read_bytes())
    for name, expected in manifest["files"].items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                raise SystemExit(f"{name} is not the file that was exported; export the model again.")
    if manifest["target"] != "ort-cpu":
        raise SystemExit(f"the artifact's target is {manifest['target']}; export the model with --target ort-cpu.")
    return manifest


def stop_tokens(folder: Path) -> set[int]:
    """The tokens that end an answer."""
    name = "generation_config.json" if (folder / "generation_config.json").exists() else "config.json"
    stop = json.loads((folder / name).read_text()).get("eos_token_id")
    return set(stop if isinstance(stop, list) else [] if stop is None else [stop])


def generate(folder: Path, prompt: list[int], max_new_tokens: int) -> Iterator[int]:
    """Greedy tokens, one by one, until a stop token or the artifact's length."""
    rows, stops = check(folder)["cache"]["max_length"], stop_tokens(folder)
    onnxruntime.set_default_logger_severity(3)  # errors alone: it warns of an input that has a default
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for value in session.get_inputs():
        if value.name.startswith("past_key_values."):  # one buffer is read and written
            shape = [1, *(size if isinstance(size, int) else rows for size in value.shape[1:])]
            buffer = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, TYPES[value.type]))
            binding.bind_ortvalue_input(value.name, buffer)
            binding.bind_ortvalue_output(value.name.replace("past_key_values.", "present."), buffer)
    held, step = 0, prompt[:CHUNK]
    for _ in range(min(max_new_tokens, rows - len(prompt))):
        while step:
            binding.bind_cpu_input("input_ids", np.array([step]))
            binding.bind_cpu_input("position_ids", np.arange(held, held + len(step))[None])
            held += len(step)
            binding.bind_cpu_input("attention_mask", np.array([[held]]))  # the count; a mask of ones sums to it
            binding.bind_output("logits")
            session.run_with_iobinding(binding)
            step = prompt[held : held + CHUNK]
        token = int(binding.get_outputs()[-1].numpy()[0, -1].argmax())
        if token in stops:
            return
        yield token
        step = [token]


if __name__ == "__main__":
    folder, prompt, most = Path(sys.argv[1]), sys.argv[2], int((*sys.argv, 256)[3])
    tokenizer, answer, shown = Tokenizer.from_file(str(folder / "tokenizer.json")), [], ""
    for token in generate(folder, tokenizer.encode(prompt, add_special_tokens=False).ids, most):
        answer.append(token)
        text = tokenizer.decode(answer)
        if not text.endswith("\ufffd"):  # a character may take several tokens
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print()
