"""Whether an artifact gives PyTorch's distributions and tokens: in one step, token by token, in padded batches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from gpu_suite.artifacts import TINY, vocabulary
from gpu_suite.parts import Found

# Mean divergence from float32, in nats, that an artifact may have.
KL_LIMITS = {"float32": 1e-8, "float16": 1e-4, "bfloat16": 5e-3, "int4": 4e-1}
PROMPT, ANSWER, PADS = 60, 100, (0, 3, 17, 40)
DEPARTS = "the answers depart from PyTorch's"


def reference_logits(model: Path, ids: torch.Tensor, device: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Logits ``[S, V]`` float32 of transformers for ``[1, S]``."""
    from transformers import Exaone4ForCausalLM

    reference = Exaone4ForCausalLM.from_pretrained(model, dtype=dtype).to(device).eval()
    with torch.inference_mode():
        return reference(ids.to(device), use_cache=False).logits[0].float()


def tokens_for(model: Path) -> torch.Tensor:
    """``[1, PROMPT + ANSWER]`` random tokens of a checkpoint."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, vocabulary(model), (1, PROMPT + ANSWER), generator=generator)


def compare(folder: Path, ids: torch.Tensor, wanted: torch.Tensor, limit: float) -> Found:
    """Divergences from ``wanted`` in nats, and whether rows of a padded batch get the tokens that they get alone.

    Args:
        folder: The artifact.
        ids: ``[1, S]``.
        wanted: ``[S, V]`` of `reference_logits`.
        limit: The largest mean divergence.
    """
    from exaone_export.runtime.generation import ExaoneForCausalLM

    with ExaoneForCausalLM.from_pretrained(folder, verify=False) as model, torch.inference_mode():
        found: Found = {
            "kl in one step": divergence(wanted, model(ids).logits[0]),
            "kl token by token": divergence(wanted, token_by_token(model, ids)),
            "padded batch of 4 equals single rows": padded_rows_agree(model),
        }
    worst = max(found["kl in one step"], found["kl token by token"])
    if not (worst <= limit and found["padded batch of 4 equals single rows"]):  # a NaN fails
        found["failed"] = DEPARTS
    return found


def divergence(wanted: torch.Tensor, found: torch.Tensor) -> float:
    """Mean Kullback-Leibler divergence of ``[S, V]`` next-token distributions, in nats."""
    want, got = (logits.double().cpu().log_softmax(-1) for logits in (wanted, found))
    return float((want.exp() * (want - got)).sum(-1).mean())


def token_by_token(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits ``[S, V]`` where all behind the prompt comes as an answer does, one token a step."""
    cache = model.new_cache()
    steps = [ids[:, :PROMPT], *ids[:, PROMPT:].split(1, 1)]
    return torch.cat([model(step, past_key_values=cache).logits[0] for step in steps])


def padded_rows_agree(model: Any) -> bool:
    """Whether rows of a left-padded batch get the tokens that they get alone."""
    words, columns = model.config.vocab_size, PROMPT
    ids = torch.randint(3, words, (len(PADS), columns), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(columns) >= torch.tensor(PADS)[:, None]).long()
    options = {"max_new_tokens": 80, "do_sample": False, "eos_token_id": words, "pad_token_id": 0}
    together = model.generate(ids * mask, attention_mask=mask, **options)[:, columns:].cpu()
    alone = [model.generate(ids[r : r + 1, pad:], **options)[0, columns - pad :].cpu() for r, pad in enumerate(PADS)]
    return torch.equal(together, torch.stack(alone))


def tasks(folder: Path) -> Found:
    """Share of exact replies of the tiny checkpoint, by task; it knows the answers."""
    sys.path.insert(0, str(TINY))
    from transformers import AutoTokenizer

    from evaluate import evaluate
    from exaone_export.runtime.generation import ExaoneForCausalLM

    tokenizer, found = AutoTokenizer.from_pretrained(TINY), Found()
    with ExaoneForCausalLM.from_pretrained(folder, verify=False) as model:
        for task in ("recall", "arithmetic"):
            rows = evaluate(_InFours(model), tokenizer, 24, (task,))
            found[task] = round(sum(row["accuracy"] for row in rows.values()) / len(rows), 3)
    return found if min(found.values()) >= 0.9 else found | {"failed": "the tiny checkpoint answers its tasks wrong"}


class _InFours:
    """A model whose batches are cut to what the engine was built for."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.config = model.config

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any) -> torch.Tensor:
        parts = [
            self._model.generate(input_ids[at : at + 4], attention_mask=attention_mask[at : at + 4], **options).cpu()
            for at in range(0, len(input_ids), 4)
        ]
        longest = max(part.shape[1] for part in parts)
        pad = self.config.pad_token_id or 0
        return torch.cat([torch.nn.functional.pad(part, (0, longest - part.shape[1]), value=pad) for part in parts])
