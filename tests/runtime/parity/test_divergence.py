"""The divergence of long outputs, and what a report says where there is no number."""

from __future__ import annotations

import json
import math

import pytest
import torch

from exaone_export.runtime.parity.compare import LIMITS, Collected, judge
from exaone_export.runtime.parity.divergence import divergences, log_probabilities


def test_the_divergence_is_its_definition_however_many_rows_there_are() -> None:
    generator = torch.Generator().manual_seed(0)
    for rows in (1, 128, 129, 300):
        want, noise = (torch.randn(rows, 11, generator=generator) for _ in range(2))
        found, agreed = divergences(want, want + noise)
        p, q = want.double().softmax(-1), (want + noise).double().softmax(-1)
        torch.testing.assert_close(found, (p * (p / q).log()).sum(-1))
        assert agreed == int((p.argmax(-1) == q.argmax(-1)).sum())


def test_few_rows_are_in_float64_at_a_time() -> None:
    """A prompt of 12,288 tokens over a vocabulary of 102,400 would take ten gigabytes for each of four tensors."""
    logits = torch.zeros(1000, 3)
    parts = list(log_probabilities(logits, logits))
    assert {len(want) for _, want, _ in parts} == {128, 1000 % 128}
    assert sum(len(got) for _, _, got in parts) == 1000


def test_the_divergence_of_nearly_equal_logits_is_not_lost_in_rounding() -> None:
    """Half of each token's step squared, a mean over the vocabulary: what float32 would add to it is larger."""
    generator = torch.Generator().manual_seed(0)
    want = torch.randn(64, 20_000, generator=generator)
    step = torch.full_like(want, 2**-14)
    step[:, ::2] *= -1
    found, _ = divergences(want, want + step)
    torch.testing.assert_close(found, torch.full_like(found, 2**-29), rtol=0.1, atol=0)


def sides(want: torch.Tensor, *others: torch.Tensor) -> dict[str, Collected]:
    made = {"theirs": Collected([{"logits": want}] * len(others), [[]] * len(others))}
    return made | {"ours": Collected([{"logits": other} for other in others], [[]] * len(others))}


def test_equal_outputs_pass_where_all_are_one_number() -> None:
    """A head of zeros, which has no standard deviation to be a share of."""
    want = torch.zeros(4, 3)
    (row,) = judge(sides(want, want.clone()), {"ours": LIMITS["float32"]}).rows
    assert (row.passed, row.logits, row.kl, row.top1) == (True, 0.0, 0.0, 1.0)
    assert not judge(sides(want, want + torch.eye(4, 3) * 1e-6), {"ours": LIMITS["int4"]}).passed


@pytest.mark.parametrize("first", [True, False])
def test_what_is_not_a_number_is_in_the_summary_and_not_in_json(first: bool) -> None:
    want = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    bad = [want * math.nan, want]
    report = judge(sides(want, *(bad if first else bad[::-1])), {"ours": LIMITS["float32"]})
    assert math.isnan(report.rows[0 if first else 1].logits)
    summary = report.summary("ours")
    assert (summary["passed"], summary["logits"], summary["kl"]) == (False, None, None)
    rows = json.loads(json.dumps(report.to_dict(), allow_nan=False))["rows"]
    assert {row["logits"] for row in rows} == {None, 0.0}
