"""Export the tiny checkpoint, prove parity, and answer three chat turns as PyTorch does: `make demo`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "examples" / "exaone4-tiny"
ARTIFACT = ROOT / "build" / "demo" / "exaone4-tiny-ort-cpu"

# The tiny checkpoint knows the tools of its own words.py, by their very schemas.
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
HOMES = (
    "Homes: Mina Busan, Juno Paris, Kai Seoul, Ada Oslo, Ben Lima, Cora Rome, Dan Cairo, Eva Tokyo, Finn Milan, "
    "Gina Porto, Hana Jeju, Ian Bern. The old river passed the quiet mill. The cold train crossed the green bridge. "
    "The bright boat reached the small tower. The slow cloud followed the dark field. The tall lamp faced the soft "
    "garden. The small hill met the old road. The green boat left the cold river. The quiet train touched the bright "
    "hill. The dark cloud reached the tall bridge. Where is Mina?"
)
TURNS: list[tuple[str, str, dict[str, Any]]] = [
    ("plain, said more than three windows ago", HOMES, {}),
    ("thinking", "What is 38 + 47?", {"enable_thinking": True}),
    ("tool call", "What is the weather in Seoul?", {"tools": [WEATHER]}),
]


def run(*arguments: str | Path) -> None:
    """Show a command, run it, and stop the demo where it fails."""
    command = ["exaone-export", *map(str, arguments)]
    print(f"\n$ {' '.join(command)}", flush=True)
    program = Path(sys.executable).with_name("exaone-export")
    if (status := subprocess.run([program, *command[1:]], check=False).returncode) != 0:
        sys.exit(status)


def answer_turns() -> bool:
    """Answer every turn with the artifact and with transformers; True where all tokens are the same."""
    import torch
    from transformers import Exaone4ForCausalLM
    from transformers.utils import logging

    from exaone_export import ChatFormat, ExaoneForCausalLM, load_tokenizer

    logging.disable_progress_bar()
    chat = ChatFormat(load_tokenizer(ARTIFACT))
    theirs = Exaone4ForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    same = True
    with ExaoneForCausalLM.from_pretrained(ARTIFACT) as ours:
        for name, question, options in TURNS:
            prompt = chat.encode([{"role": "user", "content": question}], **options)
            tokens, wanted = (model.generate(**prompt, do_sample=False, max_new_tokens=64) for model in (ours, theirs))
            equal = torch.equal(tokens, wanted)
            text = chat.tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
            verdict = "the tokens of PyTorch" if equal else "NOT the tokens of PyTorch"
            print(f"\n[{name}] {question}\n{text}\n({verdict})")
            same &= equal
    return same


def main() -> None:
    """Run the demo."""
    shutil.rmtree(ARTIFACT.parent, ignore_errors=True)
    run("export", CHECKPOINT, ARTIFACT, "--target", "ort-cpu", "--max-length", "512")
    run("parity", ARTIFACT, CHECKPOINT, "--locate", "--record")
    if not answer_turns():
        sys.exit("the demo failed: an answer is not PyTorch's.")


if __name__ == "__main__":
    main()
