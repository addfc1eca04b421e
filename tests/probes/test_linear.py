import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from hcnr.errors import ConfigError, DataError, ModelError
from hcnr.probes.linear import (
    INVERSE_REGULARIZATION,
    assign_folds,
    block_scores,
    interval,
    require_sklearn,
)
from hcnr.stats import auroc, bootstrap_counts

# (score, class, count) of some samples, many of them tied.
SAMPLES = st.lists(
    st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=2, max_size=25
).filter(lambda rows: {y for _, y, count in rows if count} == {True, False})


def looped_auroc(scores, positive):
    """Every pair of a positive and a negative, one by one."""
    won = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, y in zip(scores, positive, strict=True)
        if y
        for b, z in zip(scores, positive, strict=True)
        if not z
    ]
    return sum(won) / len(won)


def planted(n, hidden, distance, *, axis=0, seed=0):
    """Two normal classes whose means are `distance` deviations apart along one axis."""
    generator = np.random.default_rng(seed)
    positive = np.arange(n) % 2 == 0
    states = generator.normal(size=(n, hidden))
    states[:, axis] += distance * positive
    return states, positive


def folds_of(positive, *, folds=5, seed=0):
    return assign_folds(positive, np.arange(len(positive)), folds=folds, seed=seed)


def area(scores, positive):
    return float(auroc(scores, positive))


@given(SAMPLES)
def test_auroc_is_the_share_of_pairs_in_order(rows):
    scores, positive, counts = (np.array(column) for column in zip(*rows, strict=True))
    repeated = np.repeat(np.arange(len(scores)), counts)
    expected = looped_auroc(scores[repeated].tolist(), positive[repeated].tolist())
    assert auroc(scores, positive, counts) == pytest.approx(expected, abs=1e-12)
    weighed = roc_auc_score(positive, scores, sample_weight=counts)
    assert auroc(scores, positive, np.stack([counts, 2 * counts])) == pytest.approx([weighed] * 2)


def test_auroc_of_a_worked_example():
    # Positives 3, 1, 2 and negatives 1, 0: of six pairs five are in order and one is tied.
    scores, positive = np.array([3, 1, 1, 2, 0]), np.array([True, True, False, True, False])
    assert area(scores, positive) == pytest.approx(5.5 / 6)


def test_a_draw_keeps_the_size_of_each_class_and_depends_on_the_seed():
    positive = np.arange(30) % 3 == 0
    counts = bootstrap_counts(positive, draws=400, seed=1)
    assert (counts[:, positive].sum(1) == 10).all()
    assert (counts[:, ~positive].sum(1) == 20).all()
    assert counts.mean(0) == pytest.approx(np.ones(30), abs=0.25)
    assert (counts == bootstrap_counts(positive, draws=400, seed=1)).all()
    assert (counts != bootstrap_counts(positive, draws=400, seed=2)).any()


def test_the_interval_agrees_with_delong():
    states, positive = planted(300, 1, 1.0)
    scores = states[:, 0]
    found = interval(scores, positive, bootstrap_counts(positive, draws=2000, seed=0))
    above, below = scores[positive], scores[~positive]
    of_positives = [np.mean(a > below) for a in above]
    of_negatives = [np.mean(above > b) for b in below]
    error = math.sqrt(np.var(of_positives, ddof=1) / 150 + np.var(of_negatives, ddof=1) / 150)
    assert found.auroc == pytest.approx(looped_auroc(scores, positive))
    assert found.low == pytest.approx(found.auroc - 1.96 * error, abs=0.01)
    assert found.high == pytest.approx(found.auroc + 1.96 * error, abs=0.01)


@given(st.integers(0, 1000), st.integers(2, 6))
def test_folds_never_split_a_group_and_hold_out_everyone_once(seed, folds):
    generator = np.random.default_rng(seed)
    groups = generator.integers(0, 40, size=90)
    positive = generator.random(90) < 0.4
    held_out = assign_folds(positive, groups, folds=folds, seed=seed)
    assert set(held_out) == set(range(folds))
    for group in np.unique(groups):
        assert len(set(held_out[groups == group])) == 1


def test_folds_have_like_class_shares_and_follow_the_seed():
    positive = np.arange(100) < 30
    held_out = folds_of(positive)
    assert [int(positive[held_out == fold].sum()) for fold in range(5)] == [6] * 5
    assert (held_out == folds_of(positive)).all()
    assert (held_out != folds_of(positive, seed=1)).any()


def test_a_class_of_one_question_is_refused():
    positive = np.array([True, True, True, False, False, False])
    with pytest.raises(DataError, match="only one class is left"):
        assign_folds(positive, np.array([0, 0, 0, 1, 2, 3]), folds=3, seed=0)


@pytest.mark.parametrize("distance", [0.8, 2.0])
def test_a_planted_direction_is_found_with_its_known_auroc(distance):
    states, positive = planted(2000, 6, distance)
    scores = block_scores(states, states, positive, folds_of(positive))
    # Two unit normals: P(positive above negative) = Phi(distance / sqrt 2).
    expected = 0.5 * (1 + math.erf(distance / 2))
    counts = bootstrap_counts(positive, draws=500, seed=0)
    found = interval(scores.base, positive, counts)
    assert found.low - 0.01 <= expected <= found.high + 0.01
    assert found.high - found.low < 0.06
    assert scores.converged


def test_shuffled_labels_are_not_found():
    states, positive = planted(400, 20, 2.0)
    shuffled = positive[np.random.default_rng(3).permutation(400)]
    counts = bootstrap_counts(shuffled, draws=500, seed=0)
    scores = block_scores(states, states, shuffled, folds_of(shuffled))
    found = interval(scores.base, shuffled, counts)
    assert found.low < 0.5 < found.high


def test_equal_models_have_equal_probes():
    states, positive = planted(100, 8, 1.0)
    found = block_scores(states, states.copy(), positive, folds_of(positive))
    assert (found.base == found.transfer).all()
    assert (found.base == found.tuned).all()
    assert found.cosine == pytest.approx(1.0, abs=1e-12)


def test_a_boundary_that_turned_is_lost_in_transfer_and_found_on_tuned():
    base, positive = planted(600, 6, 3.0, axis=0, seed=0)
    tuned, _ = planted(600, 6, 3.0, axis=1, seed=1)
    found = block_scores(base, tuned, positive, folds_of(positive))
    assert area(found.base, positive) > 0.95
    assert area(found.tuned, positive) > 0.95
    assert abs(area(found.transfer, positive) - 0.5) < 0.1
    assert found.cosine is not None
    assert abs(found.cosine) < 0.3
    mirrored = block_scores(base, -base, positive, folds_of(positive))
    assert area(mirrored.transfer, positive) < 0.05
    assert mirrored.cosine == pytest.approx(-1.0, abs=1e-6)


def newton_probe(states, positive):
    """Balanced L2 logistic regression by Newton's method: weight, intercept, mean, deviation."""
    mean, deviation = states.mean(0), states.std(0)
    x = np.column_stack([(states - mean) / deviation, np.ones(len(states))])
    share = np.where(positive, positive.mean(), 1 - positive.mean())
    weights = INVERSE_REGULARIZATION * 0.5 / share
    penalty = np.append(np.ones(states.shape[1]), 0.0)
    solution = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ solution))
        gradient = x.T @ (weights * (p - positive)) + penalty * solution
        hessian = (x * (weights * p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        solution -= np.linalg.solve(hessian, gradient)
    return solution[:-1], solution[-1], mean, deviation


def test_scores_and_cosine_agree_with_a_second_implementation():
    base, positive = planted(90, 5, 1.5)
    positive = positive | (np.arange(90) % 9 == 1)  # unequal classes
    tuned = (base + 0.7 * np.random.default_rng(5).normal(size=base.shape)) * [1, 2, 4, 8, 16] + 3
    held_out = folds_of(positive, folds=3)
    found = block_scores(base.astype(np.float32), tuned.astype(np.float32), positive, held_out)
    cosines = []
    for fold in range(3):
        train, test = held_out != fold, held_out == fold
        directions = []
        for states, pairs in (
            (base, ((base, found.base), (tuned, found.transfer))),
            (tuned, ((tuned, found.tuned),)),
        ):
            weight, intercept, mean, deviation = newton_probe(states[train], positive[train])
            for asked, scores in pairs:
                expected = (asked[test] - mean) / deviation @ weight + intercept
                assert scores[test] == pytest.approx(expected, rel=1e-4, abs=1e-4)
            directions.append(weight / deviation)
        one, other = directions
        cosines.append(one @ other / math.sqrt((one @ one) * (other @ other)))
    assert found.cosine == pytest.approx(np.mean(cosines), abs=1e-5)


def test_no_score_depends_on_its_own_fold():
    states, positive = planted(60, 4, 1.0)
    held_out = folds_of(positive)
    changed = np.where(held_out == 2, ~positive, positive)
    before, after = (block_scores(states, states, y, held_out) for y in (positive, changed))
    assert (before.base[held_out == 2] == after.base[held_out == 2]).all()
    assert (before.base[held_out != 2] != after.base[held_out != 2]).any()


def test_constant_states_have_no_direction_and_chance_scores():
    positive = np.arange(20) % 2 == 0
    found = block_scores(np.ones((20, 3)), np.ones((20, 3)), positive, folds_of(positive))
    assert found.cosine is None
    assert area(found.base, positive) == pytest.approx(0.5)


def test_malformed_states_are_refused():
    states, positive = planted(20, 3, 1.0)
    held_out = folds_of(positive)
    with pytest.raises(DataError, match=r"\[20, 3\] on base and \[19, 3\] on tuned"):
        block_scores(states, states[1:], positive, held_out)
    broken = states.copy()
    broken[4, 1] = np.nan
    with pytest.raises(ModelError, match="tuned hold NaN or infinity"):
        block_scores(states, broken, positive, held_out)


def test_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"pip install 'hcnr\[evaluate\]'"):
        require_sklearn()
