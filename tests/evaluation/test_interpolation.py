import numpy as np
import pytest
import torch

from families import VOCABULARY, make, perturbed
from hcnr.benchmarks.questions import Question
from hcnr.detectors import open_detector
from hcnr.errors import CheckpointError
from hcnr.evaluation.interpolation import (
    best_rival,
    between,
    check_interpolable,
    floating_parameters,
    interpolated,
)
from hcnr.evaluation.metrics import outcomes
from hcnr.evaluation.scoring import SetScores


def copies(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(left, right):
    return all(torch.equal(left[name].view(torch.uint8), right[name].view(torch.uint8))
               for name in left)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_applied_in_place_and_undone_bit_for_bit(dtype):
    base, tuned = make("llama").to(dtype), perturbed(make("llama")).to(dtype)
    before, honest = copies(tuned), floating_parameters(base)
    places = {name: p.data_ptr() for name, p in tuned.named_parameters()}
    for coefficient in (0.0, 0.3, 1.0):
        with interpolated(tuned, honest, coefficient):
            now = copies(tuned)
            for name, value in now.items():
                exact = (1 - coefficient) * before[name].double()
                exact += coefficient * honest[name].double()
                np.testing.assert_allclose(
                    value.double(), exact, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6
                )
            assert same(now, before) is (coefficient == 0)
            assert same(now, copies(base)) is (coefficient == 1)
        assert same(copies(tuned), before)
    assert places == {name: p.data_ptr() for name, p in tuned.named_parameters()}


def test_undone_after_an_error():
    base, tuned = make("llama"), perturbed(make("llama"))
    before = copies(tuned)
    with pytest.raises(KeyboardInterrupt), interpolated(tuned, floating_parameters(base), 0.5):
        raise KeyboardInterrupt
    assert same(copies(tuned), before)


def test_models_that_do_not_fit():
    with pytest.raises(CheckpointError, match=r"is \[.*\] in the tuned model and (\[|absent)"):
        check_interpolable(make("gpt_neox"), make("llama"))
    assert check_interpolable(make("llama"), make("llama")) == []


def test_another_vocabulary_stays_as_tuned():
    base, tuned = make("llama"), perturbed(make("llama"))
    tuned.resize_token_embeddings(VOCABULARY + 3)
    left = ["model.embed_tokens.weight", "lm_head.weight"]
    assert check_interpolable(base, tuned) == left
    before = copies(tuned)
    with interpolated(tuned, floating_parameters(base), 1.0):
        for name, parameter in tuned.named_parameters():
            wanted = before[name] if name in left else base.get_parameter(name)
            assert torch.equal(parameter, wanted), name
    assert same(before, copies(tuned))


def scores(refused, right):
    """Refusal delta from `refused` of 4 unanswerable questions, accuracy from `right` of 4."""
    detector = open_detector("regex:^no$")
    hard = [Question(str(i), "h", "q", i > 3, (), "p") for i in range(8)]
    easy = [Question(str(i), "t", "q", True, ("yes",), "p") for i in range(4)]
    return SetScores(
        {"h": outcomes(hard, ["no"] * refused + ["x"] * (8 - refused), detector)},
        {"t": outcomes(easy, ["yes"] * right + ["x"] * (4 - right), detector)},
        resamples=0,
    )


CURVE = [(0.0, scores(0, 4)), (0.5, scores(2, 3)), (0.75, scores(2, 3)), (1.0, scores(4, 0))]


@pytest.mark.parametrize(
    ("accuracy", "chosen"), [(100, 0), (75.1, 0), (75, 1), (10, 1), (0, 3), (100.1, None)]
)
def test_the_best_rival_is_at_least_as_accurate(accuracy, chosen):
    assert best_rival(CURVE, accuracy) == chosen


def test_without_a_task_accuracy_there_is_no_rival():
    assert best_rival(CURVE, None) is None


def test_the_grid_is_refined_where_the_model_stands():
    """Half way between the last point that is accurate enough and the next, until it is close."""
    curve = [(1.0, 0.0), (0.0, 95.0), (0.5, 20.0), (0.25, 80.0)]
    assert between(curve, 60.0) == 0.375
    assert between([*curve, (0.375, 60.5)], 60.0) is None
    assert between([*curve, (0.375, 50.0)], 60.0) == 0.3125
    assert between([*curve, (0.375, None)], 60.0) == 0.3125
    assert between(curve, 96.0) is None
    assert between([(0.0, 95.0), (1.0, 96.0)], 10.0) is None
