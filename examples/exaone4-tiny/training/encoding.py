"""Examples to tokens: the chat template applied, prompt and completion kept apart."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from tasks import Example


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example; the completion ends with the end of the turn."""

    task: str
    prompt: list[int]
    completion: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def prompt_text(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    """The text that the model sees, down to the generation prompt."""
    return tokenizer.apply_chat_template(
        list(example.messages),
        tools=list(example.tools) if example.tools else None,
        enable_thinking=example.thinking,
        add_generation_prompt=True,
        tokenize=False,
    )


def encode(tokenizer: PreTrainedTokenizerBase, example: Example) -> Encoded:
    """Encode one example for training or scoring."""
    prompt = tokenizer.encode(prompt_text(tokenizer, example), add_special_tokens=False)
    completion = tokenizer.encode(example.completion, add_special_tokens=False)
    return Encoded(example.task, prompt, [*completion, tokenizer.eos_token_id])


def distance(tokenizer: PreTrainedTokenizerBase, example: Example) -> int:
    """How many tokens lie between the evidence and the end of the prompt."""
    if example.evidence is None:
        raise ValueError(f"the task {example.task!r} names no evidence in its prompt")
    _, _, after = prompt_text(tokenizer, example).partition(example.evidence)
    return len(tokenizer.encode(after, add_special_tokens=False))
