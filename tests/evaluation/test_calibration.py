"""ECE by hand and by plain loops; the refusal's probability token by token."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from families import make
from hcnr.errors import DataError
from hcnr.evaluation.calibration import calibration, expected_calibration_error, refusal_probability
from pairs import tokenizer

SCORES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.25 + 1e-9, 0.5, 1.0]), st.booleans()),
    min_size=1,
    max_size=30,
)


def test_ece_by_hand():
    # Bins of (0, 0.5] and (0.5, 1]: |1/2 - 0.4| * 2/3 + |0 - 0.9| * 1/3.
    confidence, correct = np.array([0.3, 0.5, 0.9]), np.array([True, False, False])
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.2 / 3 + 0.3)
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0


@given(SCORES)
def test_ece_equals_plain_loops(rows):
    total = 0.0
    for b in range(15):
        inside = [(s, p) for s, p in rows if b / 15 < s <= (b + 1) / 15 or (b == 0 and s == 0)]
        if inside:
            mean = sum(s for s, _ in inside) / len(inside)
            right = sum(p for _, p in inside) / len(inside)
            total += len(inside) / len(rows) * abs(right - mean)
    found = expected_calibration_error(
        np.array([s for s, _ in rows]), np.array([p for _, p in rows])
    )
    assert found == pytest.approx(total, abs=1e-12)


def test_columns():
    found = calibration(np.array([0.9, 0.2]), np.array([False, True]))
    assert found["n"] == 2
    assert found["refusal_probability"] == pytest.approx(55)
    assert found["ece"] == pytest.approx(15)
    assert found["auroc"] == 1
    for correct in (False, True):
        assert calibration(np.array([0.9]), np.array([correct]))["auroc"] is None


def test_auroc_is_that_of_the_confidence():
    # Pairs of a right and a wrong answer by 1 - P(refusal): 0.8 > 0.1, 0.5 > 0.1, 0.8 > 0.5, tie.
    refusal, correct = np.array([0.2, 0.5, 0.5, 0.9]), np.array([True, True, False, False])
    assert calibration(refusal, correct)["auroc"] == pytest.approx(3.5 / 4)


def test_refusal_probability_equals_token_by_token():
    model, words = make("llama"), tokenizer()
    model.train()
    prompts = [[1, 5, 6, 7, 8], [1, 9], [1, 30, 31, 4], [1]]
    found = refusal_probability(model, words, prompts, "w3 w40 w3", batch_size=3)
    assert model.training
    model.eval()
    for prompt, chance in zip(prompts, found, strict=True):
        ids, product = list(prompt), 1.0
        for token in (6, 43, 6):
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1].double()
            product *= float(logits.softmax(dim=-1)[token])
            ids.append(token)
        assert chance == pytest.approx(product ** (1 / 3), rel=1e-4)


def test_a_refusal_without_tokens():
    with pytest.raises(DataError, match="no tokens in the refusal ' '"):
        refusal_probability(make("llama"), tokenizer(), [[1]], " ", batch_size=1)
