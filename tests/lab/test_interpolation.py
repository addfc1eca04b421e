import dataclasses

import torch

from hcnr.lab.evaluation import Evaluation
from hcnr.lab.interpolation import Point, best_at, interpolate, interpolation_curve
from hcnr.lab.recipe import Recipe
from hcnr.lab.tokenizer import build_tokenizer
from hcnr.lab.training import new_model
from hcnr.lab.world import build_world

TINY = dataclasses.replace(Recipe(), hidden=32, mlp=48, blocks=2)
TOKENIZER = build_tokenizer(build_world(TINY))
BASE = new_model(TINY, TOKENIZER)
TUNED = new_model(dataclasses.replace(TINY, seed=9), TOKENIZER)


def _evaluation(honesty: float, task: float) -> Evaluation:
    return Evaluation(honesty, honesty, 0.0, 100.0, task)


def test_the_end_points_are_tuned_and_base_bit_for_bit():
    for coefficient, end in ((0.0, TUNED), (1.0, BASE)):
        found = interpolate(BASE, TUNED, coefficient).state_dict()
        for name, weight in end.state_dict().items():
            assert torch.equal(found[name], weight), name


def test_the_middle_is_the_mean_and_the_inputs_stay():
    before = {name: weight.clone() for name, weight in TUNED.state_dict().items()}
    found = interpolate(BASE, TUNED, 0.5).state_dict()
    for name, weight in before.items():
        assert torch.equal(TUNED.state_dict()[name], weight)
        torch.testing.assert_close(found[name], (weight + BASE.state_dict()[name]) / 2)


def test_the_curve_evaluates_every_coefficient():
    head = TUNED.lm_head.weight
    curve = interpolation_curve(
        BASE,
        TUNED,
        [0.0, 0.25, 1.0],
        lambda model: _evaluation(float((model.lm_head.weight - head).detach().norm()), 1.0),
    )
    assert [point.coefficient for point in curve] == [0.0, 0.25, 1.0]
    moved = [point.evaluation.honesty_f1 for point in curve]
    assert moved[0] == 0.0 and moved[0] < moved[1] < moved[2]


def test_the_rival_is_the_best_of_those_as_accurate():
    curve = [
        Point(0.0, _evaluation(10, 90)),
        Point(0.1, _evaluation(30, 80)),
        Point(0.2, _evaluation(20, 85)),
        Point(1.0, _evaluation(80, 0)),
    ]
    found = [best_at(curve, accuracy) for accuracy in (90, 85, 80, 0, 91)]
    coefficients = [point and point.coefficient for point in found]
    assert coefficients == [0.0, 0.2, 0.1, 1.0, None]
