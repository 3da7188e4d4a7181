"""The runner that a model card shows, on numpy, onnxruntime and tokenizers; what follows this line is shown."""

import json
import os
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
import onnxruntime
from tokenizers import Tokenizer

folder, prompt = Path("model"), "Hello"
config = json.loads((folder / "genai_config.json").read_text())["model"]
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
onnxruntime.set_default_logger_severity(3)  # errors alone: it warns of an input that has a default
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
binding = session.io_binding()
types = {"tensor(float)": np.float32, "tensor(int8)": np.int8}
for value in session.get_inputs():
    if value.name.startswith("past_key_values."):  # one buffer is read and written
        shape = [1, *(size if isinstance(size, int) else config["context_length"] for size in value.shape[1:])]
        buffer = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, types[value.type]))
        binding.bind_ortvalue_input(value.name, buffer)
        binding.bind_ortvalue_output(value.name.replace("past_key_values.", "present."), buffer)
held, step = 0, tokenizer.encode(prompt).ids
answer: list[int] = []
while held + len(step) < config["context_length"]:
    binding.bind_cpu_input("input_ids", np.array([step]))
    binding.bind_cpu_input("position_ids", np.arange(held, held + len(step))[None])
    held += len(step)
    binding.bind_cpu_input("attention_mask", np.array([[held]]))  # the count; a mask of ones sums to it
    binding.bind_output("logits")
    session.run_with_iobinding(binding)
    step = [int(binding.get_outputs()[-1].numpy()[0, -1].argmax())]
    if step[0] in config["eos_token_id"]:
        break
    answer += step
print(tokenizer.decode(answer))
