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
PROMPT, ANSWER, TAIL, PADS = 60, 100, 24, (0, 3, 17, 40)
HEAD_LIMIT = 5e-2
"""In float16, of other outputs than next tokens' logits, as a share of their standard deviation."""
DEPARTS = "the answers depart from PyTorch's"


def reference_logits(model: Path, ids: torch.Tensor, device: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Logits ``[S, V]`` float32 of transformers for ``[1, S]``."""
    from transformers import Exaone4ForCausalLM

    reference = Exaone4ForCausalLM.from_pretrained(model, dtype=dtype).to(device).eval()
    with torch.inference_mode():
        return reference(ids.to(device), use_cache=False).logits[0].float()


def family_logits(model: Path, ids: torch.Tensor) -> torch.Tensor:
    """As `reference_logits`, of any family, as transformers or, for EXAONE 3, its Llama computes it on the CPU."""
    from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
    from exaone_export.exporter.reference.side import transformers_side

    with transformers_side(Checkpoint.open(model)) as side, torch.inference_mode():
        logits: torch.Tensor = side.outputs(ids[0])["logits"]
    return logits.float()


def tokens_for(model: Path) -> torch.Tensor:
    """``[1, PROMPT + ANSWER]`` random tokens of a checkpoint."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, vocabulary(model), (1, PROMPT + ANSWER), generator=generator)


def compare(folder: Path, ids: torch.Tensor, wanted: torch.Tensor, limit: float) -> Found:
    """Mean divergences in nats: from ``wanted`` in one step and token by token, and of a padded batch from its rows.

    Args:
        folder: The artifact.
        ids: ``[1, S]``.
        wanted: ``[S, V]`` of `reference_logits`.
        limit: The largest mean divergence.
    """
    from exaone_export import ExaoneForCausalLM

    with ExaoneForCausalLM.from_pretrained(folder, verify=False) as model, torch.inference_mode():
        found: Found = {
            "kl in one step": divergence(wanted, model(ids).logits[0]),
            "kl token by token": divergence(wanted, token_by_token(model, ids)[0]),
            "kl of a padded batch to its rows alone": padded_divergence(model),
        }
    if not all(value <= limit for value in found.values()):  # a NaN fails
        found["failed"] = DEPARTS
    return found


def divergence(wanted: torch.Tensor, found: torch.Tensor) -> float:
    """Mean Kullback-Leibler divergence of ``[S, V]`` next-token distributions, in nats."""
    from exaone_export.runtime.parity.divergence import divergences

    return divergences(wanted.cpu(), found.cpu())[0].mean().item()


def token_by_token(
    model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None, prompt: int = PROMPT
) -> torch.Tensor:
    """Logits ``[B, S, V]`` where all behind the prompt comes as an answer does, one token a step."""
    cache, logits = model.new_cache(), []
    for step in (ids[:, :prompt], *ids[:, prompt:].split(1, 1)):
        columns = cache.get_seq_length() + step.shape[1]
        seen = None if mask is None else mask[:, :columns]
        logits.append(model(step, attention_mask=seen, past_key_values=cache).logits)
    return torch.cat(logits, 1)


def padded_divergence(model: Any) -> float:
    """Mean divergence of the rows of a left-padded batch, answers included, from the same rows alone, in nats."""
    ids = torch.randint(
        3, model.config.vocab_size, (len(PADS), PROMPT + TAIL), generator=torch.Generator().manual_seed(1)
    )
    mask = (torch.arange(PROMPT + TAIL) >= torch.tensor(PADS)[:, None]).long()
    together = token_by_token(model, ids * mask, mask)
    found = [
        divergence(token_by_token(model, ids[r : r + 1, pad:], prompt=PROMPT - pad)[0], together[r, pad:])
        for r, pad in enumerate(PADS)
    ]
    return sum(found) / len(found)


def compare_head(model: Path, folder: Path, limit: float = HEAD_LIMIT) -> Found:
    """Largest difference from transformers in float32 of a batch padded on either side.

    Args:
        model: A checkpoint whose head gives no next tokens.
        folder: Its artifact.
        limit: The largest difference, as a share of the standard deviation of transformers' outputs.
    """
    import transformers

    from exaone_export.artifact.reader import Artifact
    from exaone_export.runtime.mirror.heads import open_model

    ids = torch.randint(3, vocabulary(model), (len(PADS), PROMPT), generator=torch.Generator().manual_seed(1))
    found = Found()
    with open_model(Artifact.open(folder, verify=False)) as ours, torch.inference_mode():
        theirs = getattr(transformers, ours.config.architectures[0]).from_pretrained(model, dtype=torch.float32).eval()
        for side, columns in (("left", torch.arange(PROMPT)), ("right", torch.arange(PROMPT).flip(0))):
            mask = (columns >= torch.tensor(PADS)[:, None]).long()
            wanted, got = (each(ids * mask, attention_mask=mask) for each in (theirs, ours))
            for name in ("last_hidden_state", "logits", "start_logits", "end_logits"):
                if name in wanted:
                    want, given = (output[name].float().cpu() for output in (wanted, got))
                    if want.shape[:2] == mask.shape:
                        want, given = want[mask == 1], given[mask == 1]
                    found[f"{name}, padded {side}"] = float((given - want).abs().max() / want.std())
    if not all(value <= limit for value in found.values()):  # a NaN fails
        found["failed"] = DEPARTS
    return found


def tasks(folder: Path) -> Found:
    """Share of exact replies of the tiny checkpoint, by task; it knows the answers."""
    sys.path.insert(0, str(TINY / "training"))
    from transformers import AutoTokenizer

    from evaluate import evaluate
    from exaone_export import ExaoneForCausalLM

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
