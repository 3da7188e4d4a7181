"""The byte-level BPE tokenizer of the tiny checkpoint, trained on its own tasks.

The vocabulary starts with EXAONE's special tokens and all 256 bytes, so any text survives a round trip. Digits stay
single tokens: sums are learned digit by digit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tasks import MAX_LEVEL, TASKS, stream

FOLDER = Path(__file__).parents[1]
VOCAB_SIZE = 1024

# [PAD] is 0, [BOS] 1 and [EOS] 2, as in the published models; a turn ends with [|endofturn|], which is the eos.
CONTROL_TOKENS = (
    "[PAD]", "[BOS]", "[EOS]", "[UNK]", "[|system|]", "[|user|]", "[|assistant|]", "[|tool|]", "[|endofturn|]",
)  # fmt: skip
# Tokens of the reply's text: kept by `skip_special_tokens`, so that a parser of reasoning and tool calls sees them.
TEXT_TOKENS = (
    "<think>", "</think>", "<tool>", "</tool>", "<tool_call>", "</tool_call>", "<tool_result>", "</tool_result>",
)  # fmt: skip

# A digit; a word with the space before it; punctuation with the space before it; other space. onnxruntime-genai knows
# these spellings, and gives the last alternative to std::regex, whose \s is ASCII alone: the other spaces are named.
SPACE = "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
SPLITS = (r"\p{N}", r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|(?:\s|" + "|".join(SPACE) + ")+")


def corpus(examples: int = 20_000) -> Iterator[str]:
    """Texts of the training split, all tasks alike. Greetings are left out: their Korean stays in raw bytes."""
    weights = dict.fromkeys((task for task in TASKS if task != "greeting"), 1.0)
    levels = dict.fromkeys(TASKS, MAX_LEVEL)
    yield from ("Tools you may call:", "Noted.") * 8
    for example in islice(stream(seed=0, weights=weights, levels=levels), examples):
        yield from (str(message["content"]) for message in example.messages)
        yield from (str(tool).replace("'", '"') for tool in example.tools or ())
        yield example.completion


def _keep_text_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Unmark the text tokens as special; the trainer marks all that it is given."""
    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["content"] in CONTROL_TOKENS
    return Tokenizer.from_str(json.dumps(state))


def build() -> PreTrainedTokenizerFast:
    """Train the tokenizer and give it EXAONE's special tokens, padding side and chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(split), behavior="isolated") for split in SPLITS),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, normalized=False) for token in CONTROL_TOKENS + TEXT_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=_keep_text_tokens(tokenizer),
        pad_token="[PAD]",
        bos_token="[BOS]",
        eos_token="[|endofturn|]",
        unk_token="[UNK]",
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        chat_template=(FOLDER / "chat_template.jinja").read_text(encoding="utf-8"),
    )


if __name__ == "__main__":
    build().save_pretrained(FOLDER)
