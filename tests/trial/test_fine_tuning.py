import copy
import dataclasses

import pytest
import torch

from experiments.trial import fine_tuning
from experiments.trial.fine_tuning import LARGEST_NORM, fine_tune
from hcnr.curvature.passes import sample_losses
from hcnr.data.batches import collate
from hcnr.data.samples import Sample
from hcnr.data.tokens import tokenize
from hcnr.demo.recipe import Recipe
from hcnr.demo.tokenizer import build_tokenizer
from hcnr.demo.training import new_model
from hcnr.demo.world import build_world
from pairs import bits

TINY = dataclasses.replace(Recipe(), hidden=32, mlp=48, blocks=2)
WORLD = build_world(TINY)
TOKENIZER = build_tokenizer(WORLD)
MODEL = new_model(TINY, TOKENIZER).eval()
SAMPLES = tokenize([Sample(one.prompt, one.response) for one in WORLD.honesty[:20]], TOKENIZER)


def loss(model) -> float:
    batch = collate(SAMPLES.samples, range(len(SAMPLES)), pad_token_id=0)
    with torch.no_grad():
        return float(sample_losses(model, batch).mean())


def last(**changes):
    settings = {"rate": 1e-2, "epochs": [3], "seed": 1, **changes}
    (*_, found) = fine_tune(MODEL, SAMPLES.samples, **settings)
    return found


def test_it_lowers_the_loss_and_leaves_the_given_model_alone():
    before, start = bits(MODEL), loss(MODEL)
    assert loss(last().model) < 0.7 * start
    assert bits(MODEL) == before
    assert all(parameter.grad is None for parameter in MODEL.parameters())


def test_the_same_seed_gives_the_same_bits_and_another_gives_others():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    assert bits(last().model) == bits(last().model)
    assert torch.equal(torch.rand(2), expected)
    assert bits(last().model) != bits(last(seed=2).model)


def test_fewer_epochs_are_the_beginning_of_more():
    seen = {}
    for shown in fine_tune(MODEL, SAMPLES.samples, rate=1e-2, epochs=[3, 1], seed=1):
        seen[shown.epochs] = bits(shown.model), shown.seconds
    assert list(seen) == [1, 3]
    assert seen[1][0] == bits(last(epochs=[1]).model)
    assert seen[3][0] == bits(last().model)
    assert 0 < seen[1][1] < seen[3][1]


def test_a_step_is_adamw_on_the_mean_of_the_samples_losses():
    """One step of Adam from rest moves every weight by its rate, against the gradient's sign."""
    model = last(epochs=[1], rate=1e-3, batch_size=len(SAMPLES)).model
    losses = sample_losses(MODEL, collate(SAMPLES.samples, range(len(SAMPLES)), pad_token_id=0))
    name = "model.layers.0.mlp.up_proj.weight"
    weight = MODEL.get_parameter(name)
    (gradient,) = torch.autograd.grad(losses.mean(), weight)
    moved = model.get_parameter(name) - weight
    large = gradient.abs() > 1e-4
    assert large.any()
    torch.testing.assert_close(
        moved[large], -1e-3 * gradient.sign()[large], rtol=1e-2, atol=0, check_stride=False
    )


def by_hand(limit: float, epochs: int = 3, size: int = 8) -> tuple[dict, list[float]]:
    """Weights after plain steps whose gradients are scaled to a norm, and the norms before."""
    model = copy.deepcopy(MODEL)
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.0)
    generator, norms = torch.Generator().manual_seed(1), []
    for _ in range(epochs):
        order = torch.randperm(len(SAMPLES), generator=generator).tolist()
        for first in range(0, len(order), size):
            batch = collate(SAMPLES.samples, order[first : first + size], pad_token_id=0)
            gradients = torch.autograd.grad(sample_losses(model, batch).mean(), weights)
            norm = torch.cat([one.flatten() for one in gradients]).norm()
            norms.append(float(norm))
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient * min(1.0, limit / float(norm))
            optimizer.step()
    return model.state_dict(), norms


def distance(one: dict, other: dict) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("limit", [LARGEST_NORM, 3.0])
def test_gradients_above_a_norm_are_scaled_down_to_it(
    monkeypatch: pytest.MonkeyPatch, limit: float
):
    assert LARGEST_NORM == 1.0
    monkeypatch.setattr(fine_tuning, "LARGEST_NORM", limit)
    expected, norms = by_hand(limit)
    # The first limit is below all norms, the second between them.
    assert max(norms) > limit and (min(norms) < limit) == (limit == 3.0)
    found = last(batch_size=8).model.state_dict()
    assert distance(found, expected) < 1e-4
    unclipped, _ = by_hand(1e9)
    assert distance(found, unclipped) > 1e-3


def test_every_epoch_sees_all_samples_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def watched(data, chosen, **settings):
        seen.append(list(chosen))
        return collate(data, chosen, **settings)

    monkeypatch.setattr(fine_tuning, "collate", watched)
    last(batch_size=8)
    assert [len(one) for one in seen] == [8, 8, 4] * 3
    orders = [[*seen[i], *seen[i + 1], *seen[i + 2]] for i in (0, 3, 6)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in [*orders, range(20)]}) == 4


def test_it_works_where_gradients_are_off_and_shows_models_in_inference_mode():
    with torch.no_grad():
        found = last(epochs=[1])
    assert not found.model.training
    assert loss(found.model) < loss(MODEL)


@pytest.mark.parametrize("epochs", [[], [0]])
def test_no_epochs_no_model(epochs: list[int]):
    assert list(fine_tune(MODEL, SAMPLES.samples, rate=1e-2, epochs=epochs)) == []
