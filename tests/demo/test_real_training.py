import copy
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from families import make
from hcnr.curvature.passes import sample_losses
from hcnr.data.batches import collate
from hcnr.data.samples import Sample
from hcnr.data.tokens import tokenize
from hcnr.demo.real import training
from hcnr.demo.real.training import Schedule, plan_epoch, train
from hcnr.demo.training import rate_at
from pairs import bits, tokenizer

DATA = tokenize(
    [Sample(f"w{i} w{i + 1} " * (1 + i % 3), f"w{i % 5} w{i % 7}") for i in range(14)], tokenizer()
)
SCHEDULE = Schedule(epochs=2, batch=4, rate=1e-2, order="order", threads=1)
STEPS = 8


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def start():
    return make("llama")


@pytest.fixture(scope="module")
def whole(start) -> dict[str, bytes]:
    return trained(start)


def trained(start, schedule: Schedule = SCHEDULE, **settings) -> dict[str, bytes]:
    model = copy.deepcopy(start)
    train(model, DATA, schedule, pad=0, **settings)
    return bits(model)


def stopping(after: int) -> Callable[[int, int, float], None]:
    def progress(step: int, steps: int, loss: float) -> None:
        assert steps == STEPS and loss == loss
        if step == after:
            raise Stopped

    return progress


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("after", range(1, STEPS + 1))
def test_a_training_that_was_stopped_at_any_step_ends_in_the_same_bits(
    start, whole, after: int, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training, "_SAVE_EVERY", every)
    state = tmp_path / "below" / "state.pt"
    with pytest.raises(Stopped):
        trained(start, state=state, progress=stopping(after))
    # What the step itself did is lost, what was saved before it is not.
    saved = (after - 1) // every * every
    assert state.exists() == (saved > 0)
    steps = []
    resumed = trained(start, state=state, progress=lambda step, *_: steps.append(step))
    assert steps == list(range(saved + 1, STEPS + 1))
    assert resumed == whole
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_training_that_is_stopped_twice_ends_in_the_same_bits(
    start, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training, "_SAVE_EVERY", 2)
    state = tmp_path / "state.pt"
    for after in (4, 7):
        with pytest.raises(Stopped):
            trained(start, state=state, progress=stopping(after))
    assert trained(start, state=state) == whole
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_left_by_a_training_that_keeps_its_state(start, whole, tmp_path: Path):
    assert trained(start, state=tmp_path / "state.pt") == whole
    assert list(tmp_path.iterdir()) == []


def test_order_and_seed_decide_and_the_global_generators_do_not(start, whole):
    torch.manual_seed(5)
    random.seed(5)
    expected = torch.rand(2), random.random()
    torch.manual_seed(5)
    random.seed(5)
    assert trained(start) == whole
    assert torch.equal(torch.rand(2), expected[0]) and random.random() == expected[1]
    assert trained(start, Schedule(2, 4, 1e-2, "another", 1)) != whole


def test_it_lowers_the_loss_and_ends_in_inference_mode_with_the_callers_threads(start):
    model, threads = copy.deepcopy(start), torch.get_num_threads()

    def loss() -> float:
        with torch.no_grad():
            batch = collate(DATA.samples, range(len(DATA)), pad_token_id=0)
            return float(sample_losses(model, batch).mean())

    before = loss()
    train(model, DATA, SCHEDULE, pad=0)
    assert loss() < 0.8 * before
    assert not model.training and torch.get_num_threads() == threads
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_step_is_adamw_on_the_mean_loss_of_the_batchs_response_tokens(start, bfloat16: bool):
    """Of one step of Adam from rest the sign is the gradient's, padding or not."""
    model, name = copy.deepcopy(start), "model.layers.0.mlp.up_proj.weight"
    train(model, DATA, Schedule(1, len(DATA), 1e-3, "order", 1), pad=5, bfloat16=bfloat16)
    batch = collate(DATA.samples, range(len(DATA)), pad_token_id=0)
    counts = batch.response_mask.sum(1)
    loss = (sample_losses(start, batch) * counts).sum() / counts.sum()
    weight = start.get_parameter(name)
    (gradient,) = torch.autograd.grad(loss, weight)
    rate = rate_at(0, 1, 1e-3)
    moved = model.get_parameter(name) - weight * (1 - 0.01 * rate)
    large = gradient.abs() > 0.2 * gradient.abs().max()
    assert large.sum() > 20
    torch.testing.assert_close(
        moved[large], -rate * gradient[large].sign(), rtol=1e-2, atol=0, check_stride=False
    )
    assert model.get_parameter(name).dtype == torch.float32


def test_an_epoch_sees_every_sample_once_with_like_lengths_together():
    generator = random.Random(0)
    lengths = [generator.randrange(3, 60) for _ in range(1000)]
    first, second = (list(plan_epoch(lengths, 16, generator)) for _ in range(2))
    for batches in (first, second):
        assert sorted(i for batch in batches for i in batch) == list(range(1000))
        assert sum(len(batch) == 16 for batch in batches) >= 1000 // 16 - 2
        spread = [max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches]
        assert sum(spread) / len(spread) < 8
        middles = [lengths[batch[0]] for batch in batches]
        assert middles != sorted(middles)
    assert first != second
    assert list(plan_epoch(lengths, 16, random.Random("x"))) == list(
        plan_epoch(lengths, 16, random.Random("x"))
    )
