import dataclasses

import torch

from hcnr.demo.evaluation import Evaluation
from hcnr.demo.interpolation import InterpolationPoint, Rivals, best_at, interpolate
from hcnr.demo.recipe import Recipe
from hcnr.demo.tokenizer import build_tokenizer
from hcnr.demo.training import new_model
from hcnr.demo.world import build_world

TINY = dataclasses.replace(Recipe(), hidden=32, mlp=48, blocks=2)
TOKENIZER = build_tokenizer(build_world(TINY))
BASE = new_model(TINY, TOKENIZER)
TUNED = new_model(dataclasses.replace(TINY, seed=9), TOKENIZER)


def _evaluation(honesty: float, task: float) -> Evaluation:
    """A model whose F1 runs the other way and decides nothing."""
    return Evaluation(100 - honesty, honesty, 0.0, 100.0, task)


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


def test_the_scope_of_the_blocks_leaves_the_rest_tuned():
    found = interpolate(BASE, TUNED, 1.0, "blocks").state_dict()
    for name, weight in found.items():
        linear = ".layers." in name and "norm" not in name
        assert torch.equal(weight, (BASE if linear else TUNED).state_dict()[name]), name


def test_matching_refines_where_the_row_needs_it():
    """On a world where the delta rises and the task falls with the way gone, the match is close."""
    head = TUNED.lm_head.weight.detach()
    total = float((BASE.lm_head.weight.detach() - head).norm())

    def evaluate(model) -> Evaluation:
        gone = float((model.lm_head.weight.detach() - head).norm()) / total
        return _evaluation(100 * gone, 100 * (1 - gone))

    rivals = Rivals(BASE, TUNED, evaluate)
    told = []
    rivals.sweep(lambda done, total: told.append((done, total)))
    assert told[-1] == (len(rivals.points), len(rivals.points)) == (26, 26)
    assert {point.scope for point in rivals.points} == {"all", "blocks"}
    point = rivals.match(67.2)
    assert point is not None and point.scope == "all"
    assert 0 <= point.evaluation.task_accuracy - 67.2 <= 1.0
    assert 26 < len(rivals.points) <= 32
    known = len(rivals.points)
    rivals.match(67.2)
    assert len(rivals.points) == known  # close enough already
    everything = rivals.match(-1.0)
    assert everything is not None and everything.coefficient == 1.0
    assert rivals.match(101.0) is None


def test_the_rival_is_the_best_of_those_as_accurate():
    curve = [
        InterpolationPoint(0.0, _evaluation(10, 90)),
        InterpolationPoint(0.1, _evaluation(30, 80)),
        InterpolationPoint(0.2, _evaluation(20, 85)),
        InterpolationPoint(1.0, _evaluation(80, 0)),
    ]
    found = [best_at(curve, accuracy) for accuracy in (90, 85, 80, 0, 91)]
    coefficients = [point and point.coefficient for point in found]
    assert coefficients == [0.0, 0.2, 0.1, 1.0, None]
