"""`forward` against transformers' logits, position by position."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from exaone_export.errors import PromptError, UnsupportedOptionError
from exaone_export.runtime.core.buffers import BufferPool
from exaone_export.runtime.mirror.cache import CACHE_NAME, HybridCache
from exaone_export.runtime.mirror.causal_lm import new_output
from tests.runtime.conftest import MAX_LENGTH, VOCAB, left_padded, tokens

WINDOW = 8
CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def sequence(reference: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """82 tokens and transformers' logits ``[82, V]``."""
    input_ids = tokens(1, 82)
    with torch.no_grad():
        return input_ids, reference(input_ids).logits[0]


def test_prompts_on_both_sides_of_the_windows(model: Any, sequence: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Every length of a prompt, with every length of an answer, is run in tests/parity/test_window_boundary.py."""
    input_ids, expected = sequence
    for prompt in (1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 3 * WINDOW + 1, 40):
        out = model(input_ids[:, :prompt], logits_to_keep=1)
        found = [out.logits[0]]
        for position in range(prompt, prompt + 40):
            next_id = input_ids[:, position : position + 1]
            out = model(next_id, past_key_values=out.past_key_values, logits_to_keep=1)
            found.append(out.logits[0])
        torch.testing.assert_close(torch.cat(found), expected[prompt - 1 : prompt + 40], **CLOSE)


@pytest.mark.parametrize("chunk", [1, 3, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 512])
def test_every_chunk_size(model: Any, sequence: tuple[torch.Tensor, torch.Tensor], chunk: int) -> None:
    model.prefill_chunk_size = chunk
    torch.testing.assert_close(model(sequence[0]).logits[0], sequence[1], **CLOSE)


def test_left_padding_does_not_matter(model: Any, sequence: tuple[torch.Tensor, torch.Tensor]) -> None:
    pads = list(range(WINDOW + 4))
    columns = 30 + len(pads)
    mask = (torch.arange(columns) >= torch.tensor(pads)[:, None]).long()
    input_ids = torch.zeros_like(mask)
    for row, pad in enumerate(pads):
        input_ids[row, pad:] = sequence[0][0, : columns - pad]
    out = model(input_ids, attention_mask=mask)
    for row, pad in enumerate(pads):
        torch.testing.assert_close(out.logits[row, pad:], sequence[1][: columns - pad], **CLOSE)
        assert not out.logits[row, :pad].any()
    mask = torch.cat((mask, torch.ones(len(pads), 2)), 1)
    more = torch.stack([sequence[0][0, columns - pad : columns - pad + 2] for pad in pads])
    out = model(more, attention_mask=mask, past_key_values=out.past_key_values)
    for row, pad in enumerate(pads):
        torch.testing.assert_close(out.logits[row], sequence[1][columns - pad : columns - pad + 2], **CLOSE)


def test_chunks_of_padding_alone(model: Any, reference: Any) -> None:
    input_ids, mask = left_padded(30, [16, 29, 20])
    with torch.no_grad():
        expected = reference(input_ids, attention_mask=mask).logits
    found = model(input_ids, attention_mask=mask).logits
    torch.testing.assert_close(found, expected * mask[..., None], **CLOSE)


def test_what_stands_in_unused_rows_does_not_matter(model: Any) -> None:
    input_ids, mask = left_padded(20, [0, 13, 19])
    found = []
    anything = 1e4 if model.session.geometry.finite_rows else torch.nan
    for filler in (0.0, anything):
        cache = model.new_cache()
        cache.allocate(3)
        for tensors in cache.buffers.sets:
            for tensor in tensors:
                tensor[:] = filler
        out = model(input_ids, attention_mask=mask, past_key_values=cache)
        longer = torch.cat((mask, torch.ones(3, 1)), 1)
        found.append(out.logits)
        found.append(model(tokens(3, 1, seed=9), attention_mask=longer, past_key_values=cache).logits)
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])


def test_logits_to_keep(model: Any) -> None:
    input_ids, mask = left_padded(20, [0, 3])
    every = model(input_ids, attention_mask=mask).logits
    columns = torch.tensor([19, 0, -2])
    by_row = torch.tensor([[5, 4], [19, 7]])
    marked = torch.zeros(2, 20, dtype=torch.bool)
    marked[0, 4] = marked[1, 9] = marked[1, 10] = True
    for wanted, expected in (
        (1, every[:, -1:]),
        (9, every[:, -9:]),
        (40, every),
        (0, every),
        (columns, every[:, columns]),
        (by_row, torch.stack((every[0, by_row[0]], every[1, by_row[1]]))),
        (marked, every[marked]),
    ):
        found = model(input_ids, attention_mask=mask, logits_to_keep=wanted).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(PromptError, match="outside 0 to 19"):
        model(input_ids, attention_mask=mask, logits_to_keep=torch.tensor([20]))


def test_rolled_back_is_as_never_run(model: Any, sequence: tuple[torch.Tensor, torch.Tensor]) -> None:
    input_ids, expected = sequence
    out = model(input_ids[:, :33], logits_to_keep=1)
    for end in range(36, 80, 3):
        start = out.past_key_values.get_seq_length()
        wrong = torch.cat((input_ids[:, start:end], tokens(1, 5, seed=end)), 1)[:, :8]
        model(wrong, past_key_values=out.past_key_values)
        out.past_key_values.crop(-wrong.shape[1])
        out = model(input_ids[:, start:end], past_key_values=out.past_key_values)
        torch.testing.assert_close(out.logits[0], expected[start:end], **CLOSE)


def test_a_copy_of_a_cache_goes_its_own_way(model: Any, sequence: tuple[torch.Tensor, torch.Tensor]) -> None:
    input_ids, expected = sequence
    cache = model(input_ids[:, :40], logits_to_keep=1).past_key_values
    twin = copy.deepcopy(cache)
    model(tokens(1, 20, seed=4), past_key_values=cache)
    found = model(input_ids[:, 40:60], past_key_values=twin).logits[0]
    torch.testing.assert_close(found, expected[40:60], **CLOSE)


def test_logits_given_away_do_not_change(model: Any) -> None:
    first = model(tokens(1, 20), logits_to_keep=1)
    before = first.logits.clone()
    for seed in range(3):
        model(tokens(1, 1, seed=seed), past_key_values=first.past_key_values)
    assert torch.equal(first.logits, before)


def test_a_cache_that_is_held_is_not_overwritten(model: Any) -> None:
    held = model(tokens(1, 20), logits_to_keep=1).past_key_values
    before = [layer.keys for layer in held.layers]
    for seed in range(3):
        model(tokens(1, 30, seed=seed), logits_to_keep=1)
    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(held.layers, before, strict=True))


def test_the_cache_is_not_copied_in_a_step(model: Any) -> None:
    out = model(tokens(1, 20), logits_to_keep=1)
    address = model.session.geometry.memory.address
    addresses = {address(t) for tensors in out.past_key_values.buffers.sets for t in tensors}
    model(tokens(1, 1), past_key_values=out.past_key_values)
    assert {address(t) for tensors in out.past_key_values.buffers.sets for t in tensors} == addresses


def test_capacity(model: Any) -> None:
    full = tokens(1, MAX_LENGTH)
    cache = model(full[:, :-1], logits_to_keep=1).past_key_values
    last = model(full[:, -1:], past_key_values=cache).logits
    whole = model(full, logits_to_keep=1).logits
    torch.testing.assert_close(last, whole, **CLOSE)
    with pytest.raises(PromptError, match=f"come to {MAX_LENGTH + 1} tokens, and the artifact holds {MAX_LENGTH}"):
        model(full[:, -1:], past_key_values=cache)
    with pytest.raises(PromptError, match=f"--max-length {MAX_LENGTH + 1} or more"):
        model(tokens(1, MAX_LENGTH + 1))
    assert cache.get_seq_length() == MAX_LENGTH


def test_padding_takes_no_room(model: Any) -> None:
    input_ids, mask = left_padded(MAX_LENGTH + 5, [5, 9])
    model(input_ids, attention_mask=mask, logits_to_keep=1)


@pytest.mark.parametrize(
    ("input_ids", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.int64), "a prompt has at least one token"),
        (torch.tensor([[VOCAB]]), f"holds token {VOCAB}, and the vocabulary is 0 to {VOCAB - 1}"),
        (torch.tensor([[5, -100]]), "holds token -100"),
        (torch.tensor([[0.5]]), "must be an integer tensor"),
        (torch.tensor([1]), "must be an integer tensor"),
        (None, "must be an integer tensor"),
    ],
)
def test_tokens_that_cannot_be_run(model: Any, input_ids: torch.Tensor | None, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        model(input_ids)


def test_a_cache_of_another_kind_is_refused(model: Any) -> None:
    from transformers import DynamicCache

    with pytest.raises(UnsupportedOptionError, match="past_key_values is a DynamicCache of another model"):
        model(tokens(1, 3), past_key_values=DynamicCache())
    other = HybridCache(BufferPool(dataclasses.replace(model.new_cache().geometry, head_dim=8)))
    with pytest.raises(UnsupportedOptionError, match="past_key_values is a HybridCache of another model"):
        model(tokens(1, 3), past_key_values=other)


@pytest.mark.parametrize(
    "argument",
    [
        {"inputs_embeds": torch.zeros(1, 3, 32)},
        {"labels": torch.zeros(1, 3)},
        {"output_attentions": True},
        {"output_hidden_states": True},
        {"token_type_ids": torch.zeros(1, 3)},
        {"is_causal": True},
    ],
)
def test_arguments_refused_by_name(model: Any, argument: dict[str, Any]) -> None:
    (name,) = argument
    with pytest.raises(UnsupportedOptionError, match=f"^{name} is not "):
        model(tokens(1, 3), **argument)


def test_the_forms_of_the_output(model: Any) -> None:
    input_ids = tokens(1, 3)
    assert model(input_ids, use_cache=False).past_key_values is None
    logits, cache = model(input_ids, return_dict=False)
    assert logits.shape == (1, 3, VOCAB) and cache.get_seq_length() == 3
    assert model(input_ids.int()).logits.dtype == torch.float32


@pytest.mark.parametrize("has_cache", [False, True])
def test_an_output_is_what_transformers_makes(has_cache: bool) -> None:
    logits = torch.ones(1, 1, 4)
    cache: Any = object() if has_cache else None
    found = new_output(logits, cache)
    right = CausalLMOutputWithPast(logits=logits, **{CACHE_NAME: cache})
    assert type(found) is CausalLMOutputWithPast
    assert list(vars(found).items()) == list(vars(right).items())  # the same objects: a tensor is equal to itself alone
    assert list(found.items()) == list(right.items())
    assert list(found.keys()) == ["logits", CACHE_NAME][: 1 + has_cache]
    assert len(found) == len(right.to_tuple()) == 1 + has_cache
    assert [each is other for each, other in zip(found.to_tuple(), right.to_tuple(), strict=True)] == [True] * len(
        right
    )
    assert found[0] is found["logits"] is found.logits is logits
    assert found[-1] is found[list(found)[-1]] is (cache or logits)
    assert found.loss is None
    assert found.hidden_states is None
    assert ("loss" in found, CACHE_NAME in found) == (False, has_cache)
    changed = dataclasses.replace(found, loss=logits)
    assert list(changed) == ["loss", *found]
    found.loss = logits
    assert found["loss"] is logits


def test_an_output_can_be_copied_and_pickled() -> None:
    output = new_output(torch.arange(4.0)[None, None], None)
    for twin in (pickle.loads(pickle.dumps(output)), copy.deepcopy(output), copy.copy(output)):
        assert type(twin) is CausalLMOutputWithPast
        assert list(twin) == ["logits"]
        assert twin.logits.tolist() == [[[0, 1, 2, 3]]]
        assert vars(twin).keys() == vars(output).keys()
    leaves, structure = torch.utils._pytree.tree_flatten(output)
    assert leaves[0] is output.logits
    assert structure.type is CausalLMOutputWithPast
