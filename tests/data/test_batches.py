import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hcnr.data.batches import Batch, collate, plan_batches
from hcnr.data.tokens import TokenizedSample
from hcnr.errors import ConfigError, DataError

PAD = 99
SET = [
    TokenizedSample((1, 2, 3), 1),
    TokenizedSample((4, 5, 6, 7, 8), 3),
    TokenizedSample((9, 10), 1),
]


@pytest.mark.parametrize(
    ("lengths", "budget", "planned"),
    [
        ([], 8, []),
        ([3, 5, 5, 1], 10, [[1, 2], [0, 3]]),
        ([3, 5, 5, 1], 9, [[1], [2], [0, 3]]),
        ([4, 4, 4, 4], 16, [[0, 1, 2, 3]]),
        ([4, 4, 4, 4], 15, [[0, 1, 2], [3]]),
        ([20, 1, 2], 8, [[0], [2, 1]]),
        ([2, 2, 2], 1, [[0], [1], [2]]),
    ],
)
def test_plan(lengths, budget, planned):
    assert plan_batches(lengths, budget) == planned


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_plan_invariants(lengths, budget):
    batches = plan_batches(lengths, budget)
    order = [i for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert order == sorted(order, key=lambda i: (-lengths[i], i))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
        # As many as fit: one more sample, none longer, would break the budget.
        assert batch is batches[-1] or (len(batch) + 1) * longest > budget


def test_plan_refuses_what_it_cannot_do():
    with pytest.raises(ConfigError, match="token_budget is 0, expected at least 1"):
        plan_batches([1], 0)
    with pytest.raises(DataError, match="sample 1 has no tokens"):
        plan_batches([1, 0, 2], 8)


def test_collate_right():
    batch = collate(SET, [1, 0], pad_token_id=PAD)
    assert batch.input_ids.tolist() == [[4, 5, 6, 7, 8], [1, 2, 3, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 2, 2]]
    assert batch.response_mask.int().tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]]
    assert batch.cu_seqlens.tolist() == [0, 5, 8]
    assert batch.lengths.tolist() == [5, 3]
    assert batch.indices == (1, 0)
    assert len(batch) == 2


def test_collate_left():
    batch = collate(SET, [2, 1], pad_token_id=PAD, padding_side="left")
    assert batch.input_ids.tolist() == [[PAD, PAD, PAD, 9, 10], [4, 5, 6, 7, 8]]
    assert batch.attention_mask.tolist() == [[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 0, 0, 0, 1], [0, 1, 2, 3, 4]]
    assert batch.response_mask.int().tolist() == [[0, 0, 0, 0, 1], [0, 0, 0, 1, 1]]
    assert batch.cu_seqlens.tolist() == [0, 2, 7]


def test_dtypes():
    batch = collate(SET, [0, 1], pad_token_id=PAD)
    wide = [batch.input_ids, batch.attention_mask, batch.position_ids, batch.lengths]
    assert {tensor.dtype for tensor in wide} == {torch.int64}
    assert batch.response_mask.dtype == torch.bool
    assert batch.cu_seqlens.dtype == torch.int32


@st.composite
def sets(draw):
    lengths = draw(st.lists(st.integers(2, 12), min_size=1, max_size=6))
    samples, token = [], 0
    for length in lengths:
        ids = tuple(range(token, token + length))
        samples.append(TokenizedSample(ids, draw(st.integers(1, length - 1))))
        token += length
    return samples


@settings(deadline=None)
@given(sets(), st.randoms(use_true_random=False))
def test_both_sides_hold_the_same_real_tokens(samples, random):
    indices = list(range(len(samples)))
    random.shuffle(indices)
    for side in ("left", "right"):
        batch = collate(samples, indices, pad_token_id=0, padding_side=side)
        real = batch.attention_mask.bool()
        packed = batch.input_ids[real]
        for row, index in enumerate(indices):
            sample = samples[index]
            own = packed[batch.cu_seqlens[row] : batch.cu_seqlens[row + 1]]
            assert own.tolist() == list(sample.input_ids)
            positions = batch.position_ids[row][real[row]].tolist()
            assert positions == list(range(len(sample)))
            answer = batch.input_ids[row][batch.response_mask[row]].tolist()
            assert answer == list(sample.input_ids[sample.response_start :])
        # Each token with loss is predicted from a real token just before it.
        assert not batch.response_mask[:, 0].any()
        assert real[:, :-1][batch.response_mask[:, 1:]].all()


def test_to_moves_every_tensor():
    moved = collate(SET, [0, 1], pad_token_id=PAD).to("meta")
    tensors = [getattr(moved, field.name) for field in dataclasses.fields(Batch)]
    tensors = [value for value in tensors if isinstance(value, torch.Tensor)]
    assert len(tensors) == 6
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert moved.indices == (0, 1)


def test_collate_refuses_what_it_cannot_do():
    with pytest.raises(DataError, match="no samples, expected at least one"):
        collate(SET, [], pad_token_id=PAD)
    for index in (3, -1):
        with pytest.raises(DataError, match=f"asks for sample {index} of a set of 3"):
            collate(SET, [index], pad_token_id=PAD)
    with pytest.raises(ConfigError, match="padding_side is 'top', expected left or right"):
        collate(SET, [0], pad_token_id=PAD, padding_side="top")  # pyright: ignore
