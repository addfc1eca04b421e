import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import oracle
from families import make
from hcnr import NeuronFisher
from hcnr.errors import ModelError


class Classifier(nn.Module):
    """A module of no known family: linear layers on flat vectors."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def exact_scores(model, x, y, axis):
    """method.md (1) by one backward pass per sample."""
    weights = {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    totals = {name: torch.zeros(1, dtype=torch.float64) for name in weights}
    for row, label in zip(x, y, strict=True):
        loss = nn.functional.cross_entropy(model(row[None]), label[None], reduction="sum")
        for name, g in zip(
            weights, torch.autograd.grad(loss, tuple(weights.values())), strict=True
        ):
            totals[name] = totals[name] + g.double().pow(2).sum(1 if axis == "output" else 0)
    return {name: total / len(x) for name, total in totals.items()}


@pytest.mark.parametrize("axis", ["output", "input"])
def test_any_module_over_several_batches(axis):
    model, x, y = Classifier(), torch.randn(11, 5), torch.randint(3, (11,))
    exact = exact_scores(model, x, y, axis)
    with NeuronFisher(model, axis=axis) as fisher:
        for part in (slice(0, 4), slice(4, 11)):
            nn.functional.cross_entropy(model(x[part]), y[part], reduction="sum").backward()
    assert list(fisher.scores) == ["first", "second"]
    for name, scores in fisher.scores.items():
        assert oracle.relative(scores, exact[name]) <= 1e-5
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_squaring_the_batch_gradient_would_be_another_quantity():
    model, x, y = Classifier(), torch.randn(11, 5), torch.randint(3, (11,))
    exact = exact_scores(model, x, y, "output")["first"]
    loss = nn.functional.cross_entropy(model(x), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, (model.first.weight,))
    assert oracle.relative(gradient.pow(2).sum(1) / 11, exact) > 0.05


def test_reset_forgets_and_targets_choose():
    model, x = Classifier(), torch.randn(4, 5)
    with NeuronFisher(model, targets="first") as fisher:
        model(x).sum().backward()
        once = fisher.scores["first"]
        fisher.reset()
        with pytest.raises(ModelError, match="first received no gradient"):
            _ = fisher.scores
        model(x).sum().backward()
    assert list(fisher.scores) == ["first"]
    torch.testing.assert_close(fisher.scores["first"], once)


def test_attention_mask_marks_padding_wherever_it_comes_from():
    model = make("llama")
    ids = torch.randint(3, 60, (3, 9))
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    mask[2, 2:] = 0

    def run(**arguments):
        with NeuronFisher(model, targets=["down_proj"]) as fisher:
            fisher.attention_mask = arguments.pop("set_mask", None)
            hidden = model(input_ids=ids, **arguments).logits
            (hidden * mask[..., None]).pow(2).sum().backward()
        return next(iter(fisher.scores.values()))

    torch.testing.assert_close(run(attention_mask=mask), run(set_mask=mask, attention_mask=mask))
    garbage = ids.clone()
    garbage[mask == 0] = 61
    same = run(attention_mask=mask)
    ids = garbage
    torch.testing.assert_close(run(attention_mask=mask), same)


def test_a_mask_of_other_shape_is_refused():
    model = make("llama")
    with NeuronFisher(model), pytest.raises(ModelError, match=r"\[2, 1, 4, 4\].*\[batch, tokens\]"):
        model(torch.ones(2, 4, dtype=torch.long), attention_mask=torch.zeros(2, 1, 4, 4))


class Recurrent(nn.Module):
    """Two layers that a sample of tokens `[B, T, 5]` passes several times."""

    def __init__(self, times, checkpointing=False):
        super().__init__()
        self.wide, self.back = nn.Linear(5, 7), nn.Linear(7, 5)
        self.times, self.checkpointing = times, checkpointing

    def step(self, x):
        return x + torch.tanh(self.back(torch.tanh(self.wide(x))))

    def forward(self, x, attention_mask=None):
        for _ in range(self.times):
            x = (
                checkpoint(self.step, x, use_reentrant=False)
                if self.checkpointing
                else self.step(x)
            )
        return self.wide(x)  # once more than `back`


MASKS = {
    "right": [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]],
    "left": [[0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]],
    "holes": [[1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]],
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("side", MASKS)
def test_a_matrix_used_several_times_is_exact(side, axis, checkpointing):
    """The gradient of a sample is the sum over the uses, which is squared as one."""
    model, x = Recurrent(3, checkpointing), torch.randn(3, 4, 5).requires_grad_()
    mask = torch.tensor(MASKS[side])
    exact = {"wide": torch.zeros(1).double(), "back": torch.zeros(1).double()}
    double = copy.deepcopy(model).double()
    for row, real in zip(x.detach().double(), mask.bool(), strict=True):
        weights = [double.wide.weight, double.back.weight]
        loss = double(row[real][None]).pow(2).sum()
        for name, g in zip(exact, torch.autograd.grad(loss, weights), strict=True):
            exact[name] = exact[name] + g.pow(2).sum(1 if axis == "output" else 0) / 3
    with NeuronFisher(model, axis=axis) as fisher:
        for part in (slice(0, 2), slice(2, 3)):
            loss = model(x[part], attention_mask=mask[part]).pow(2).sum(-1)
            (loss * mask[part]).sum().backward()
            assert not fisher._uses._kept  # rows go with the last use
    for name, scores in fisher.scores.items():
        assert oracle.relative(scores, exact[name]) <= 1e-5


def test_a_use_that_the_loss_does_not_see_adds_nothing():
    class Once(Classifier):
        def forward(self, x):
            return self.first(x)

    model, x = Aside(), torch.randn(4, 5)
    with NeuronFisher(model, targets=["first"]) as fisher:
        model(x).pow(2).sum().backward()
        model(x + 2).pow(2).sum().backward()
    alone = Once()
    alone.load_state_dict(model.state_dict())
    with NeuronFisher(alone, targets=["first"]) as expected:
        for rows in (x, x + 2):
            alone(rows).pow(2).sum().backward()
    torch.testing.assert_close(fisher.scores["first"], expected.scores["first"])


class Sometimes(nn.Module):
    """One layer of two that only some samples pass, as a mixture's experts of their own."""

    def __init__(self):
        super().__init__()
        self.always, self.rarely = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x, attention_mask=None):
        x = torch.tanh(self.always(x))
        return self.rarely(x) if x[0, 0, 0] > 0 else x


@pytest.mark.parametrize("axis", ["output", "input"])
def test_samples_that_do_not_pass_a_matrix_count_as_zeros(axis):
    torch.manual_seed(0)
    model, x = Sometimes(), torch.randn(9, 4, 5)
    exact = {"always": torch.zeros(5).double(), "rarely": torch.zeros(5).double()}
    passed = 0
    for sample in x:
        loss = model(sample[None]).pow(2).sum()
        weights = [model.always.weight, model.rarely.weight]
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        passed += gradients[1] is not None
        for name, g in zip(exact, gradients, strict=True):
            if g is not None:
                exact[name] += g.double().pow(2).sum(1 if axis == "output" else 0) / len(x)
    assert 0 < passed < len(x)
    with NeuronFisher(model, axis=axis) as fisher:
        for sample in x:
            model(sample[None]).pow(2).sum().backward()
    assert fisher.samples == len(x)
    for name, scores in fisher.scores.items():
        assert oracle.relative(scores, exact[name]) <= 1e-5, name


def test_several_forward_passes_before_their_backward_passes_count_once():
    model, x = Classifier(), torch.randn(6, 5)
    with NeuronFisher(model) as fisher:
        (model(x[:2]).pow(2).sum() + model(x[2:]).pow(2).sum()).backward()
    with NeuronFisher(model) as expected:
        model(x).pow(2).sum().backward()
    assert fisher.samples == 6
    for name, scores in fisher.scores.items():
        torch.testing.assert_close(scores, expected.scores[name])


class Reentrant(Recurrent):
    def forward(self, x, attention_mask=None):
        for _ in range(self.times):
            x = checkpoint(self.step, x, use_reentrant=True)
        return self.wide(x)


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("times", [1, 3])
def test_recomputation_of_the_older_kind_changes_nothing(times):
    """Whose first forward pass sees no gradients, so that all taps are set in the second."""
    model, x = Reentrant(times), torch.randn(3, 4, 5).requires_grad_()
    mask, other = (torch.tensor(MASKS[side]) for side in ("right", "left"))
    kept = mask[..., None]
    with NeuronFisher(model) as fisher:
        loss = (model(x, attention_mask=mask) * kept).pow(2).sum()
        with torch.no_grad():
            # What is evaluated before backward is not what backward is about.
            model(x, attention_mask=other)
        loss.backward()
    plain = Recurrent(times)
    plain.load_state_dict(model.state_dict())
    with NeuronFisher(plain) as expected:
        (plain(x, attention_mask=mask) * kept).pow(2).sum().backward()
    for name, scores in fisher.scores.items():
        torch.testing.assert_close(scores, expected.scores[name])


def test_a_context_that_is_opened_again_goes_on():
    model, x = Recurrent(2), torch.randn(4, 3, 5)
    with NeuronFisher(model) as expected:
        for part in x.split(2):
            model(part).pow(2).sum().backward()
    fisher = NeuronFisher(model)
    for part in x.split(2):
        with fisher:
            model(part).pow(2).sum().backward()
    assert fisher.samples == 4
    for name, scores in fisher.scores.items():
        torch.testing.assert_close(scores, expected.scores[name])


def test_a_second_backward_pass_is_refused():
    model = Classifier()
    with NeuronFisher(model, targets=["first"]), pytest.raises(ModelError, match="more gradients"):
        loss = model(torch.randn(2, 5)).sum()
        loss.backward(retain_graph=True)
        loss.backward()


class Aside(Classifier):
    """Two uses of a matrix, of which the loss sees one."""

    def forward(self, x):
        self.first(x + 1)
        return self.first(x)


class AsideAgain(Classifier):
    """The same, recomputed in backward by taps that were not there before."""

    def forward(self, x):
        def both(x):
            self.first(x + 1)
            return self.first(x)

        return checkpoint(both, x.requires_grad_(True), use_reentrant=True)


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        (lambda: Recurrent(2), False),
        (lambda: Recurrent(2), True),
        (Aside, True),
        (Aside, False),
        (AsideAgain, False),
    ],
)
def test_a_second_backward_pass_over_several_uses_is_refused_too(kind, read):
    """Also where the scores were read between the two."""
    model = kind()
    targets = ["wide"] if isinstance(model, Recurrent) else ["first"]
    with NeuronFisher(model, targets=targets) as fisher:
        loss = model(torch.randn(2, 3, 5)).pow(2).sum()
        loss.backward(retain_graph=True)
        before = {n: scores.clone() for n, scores in fisher.scores.items()} if read else {}
        with pytest.raises(ModelError, match="more gradients"):
            loss.backward()
    assert all(torch.equal(fisher.scores[name], before[name]) for name in before)


def test_uses_that_wait_are_kept_where_a_context_is_opened_again():
    torch.manual_seed(0)
    model, x = Aside(), torch.randn(4, 5)
    fisher = NeuronFisher(model, targets=["first"])
    for part in x.split(2):
        with fisher:
            model(part).pow(2).sum().backward()
    with NeuronFisher(model, targets=["first"]) as expected:
        model(x).pow(2).sum().backward()
    torch.testing.assert_close(fisher.scores["first"], expected.scores["first"])


def test_rows_that_belong_to_no_sample_are_refused():
    class Routed(Classifier):
        def forward(self, x, attention_mask=None):
            return self.first(x[:, :3].reshape(-1, 5)[:5])

    model = Routed()
    mask = torch.ones(2, 4)
    with (
        NeuronFisher(model, targets=["first"]),
        pytest.raises(ModelError, match="5 rows while the batch has 2 x 4 tokens"),
    ):
        model(torch.randn(2, 4, 5), attention_mask=mask).sum().backward()


@pytest.mark.parametrize("axis", ["output", "input"])
def test_backward_inside_autocast_keeps_fp32_scores(axis):
    model, x = Classifier(), torch.randn(3, 70, 5)
    with NeuronFisher(model, axis=axis) as fisher:
        model(x).pow(2).sum().backward()
        exact = fisher.scores
        fisher.reset()
        with torch.autocast("cpu", torch.bfloat16):
            model(x).float().pow(2).sum().backward()
    for name, scores in fisher.scores.items():
        assert scores.dtype == torch.float32
        assert oracle.relative(scores, exact[name].double()) < 0.05


class Flattened(Classifier):
    """Sees the tokens of all samples as one flat batch, as many encoders do."""

    def forward(self, x, rows=None):
        flat = x.reshape(-1, x.shape[-1])[:rows]
        return self.second(torch.tanh(self.first(flat)))


def test_a_module_that_flattens_its_tokens_still_has_samples():
    model, x = Flattened(), torch.randn(3, 6, 5)
    exact = torch.zeros(7, dtype=torch.float64)
    for sample in x:
        (gradient,) = torch.autograd.grad(model(sample[None]).pow(2).sum(), (model.first.weight,))
        exact += gradient.double().pow(2).sum(1) / 3
    with NeuronFisher(model, targets=["first"]) as fisher:
        model(x).pow(2).sum().backward()
    assert oracle.relative(fisher.scores["first"], exact) <= 1e-5


def test_rows_that_are_no_multiple_of_the_batch_are_refused():
    model = Flattened()
    with (
        NeuronFisher(model, targets=["first"]),
        pytest.raises(ModelError, match="17 rows while the batch has 3 samples"),
    ):
        model(torch.randn(3, 6, 5), rows=17)


def test_rows_of_a_sample_that_is_alone_are_its_own():
    """Tokens of the model's own before a prompt, as CPM-Ant puts there."""

    class Prefixed(Recurrent):
        def forward(self, x, attention_mask=None):
            return super().forward(torch.cat([torch.ones_like(x), x], 1))[:, x.shape[1] :]

    model, x = Prefixed(1), torch.randn(3, 4, 5)
    exact = torch.zeros(5, dtype=torch.float64)
    with NeuronFisher(model, targets=["back"]) as fisher:
        for sample in x:
            loss = model(sample[None], attention_mask=torch.ones(1, 4)).pow(2).sum()
            loss.backward()
    for sample in x:
        (gradient,) = torch.autograd.grad(model(sample[None]).pow(2).sum(), (model.back.weight,))
        exact += gradient.double().pow(2).sum(1) / 3
    assert oracle.relative(fisher.scores["back"], exact) <= 1e-5
    padding = torch.tensor([[1, 1, 1, 0]])
    for batch, mask in ((x, torch.ones(3, 4)), (x[:1], padding)):
        with (
            NeuronFisher(model, targets=["back"]),
            pytest.raises(ModelError, match=r"x 4 tokens: .* alone with --token-budget 1, or"),
        ):
            model(batch, attention_mask=mask).sum().backward()


def test_unknown_axis_and_no_match():
    with pytest.raises(ModelError, match="'rows'"):
        NeuronFisher(Classifier(), axis="rows")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelError, match="candidates are first, second"):
        NeuronFisher(Classifier(), targets=["q_proj"])


@pytest.mark.parametrize("axis", ["output", "input"])
def test_parts_of_a_batch_with_holes_are_summed_apart(axis):
    """Real tokens that padding parts are gathered, so that rows are no longer where they were."""
    mask = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 0, 1]])
    model, x = nn.Sequential(nn.Linear(6, 5)), torch.randn(5, 4, 6)

    def scores(rows, sizes=None):
        with NeuronFisher(model, axis=axis, parts=2) as fisher:
            fisher.attention_mask, fisher.part_sizes = mask[rows], sizes
            (model(x[rows]).square() * mask[rows][..., None]).sum().backward()
        return fisher

    both = scores(slice(0, 5), (2, 3))
    assert both.samples == 5
    for part, rows in enumerate((slice(0, 2), slice(2, 5))):
        alone = scores(rows)
        want = alone.scores["0"].double()
        assert oracle.relative(both.scores_of(part, alone.samples)["0"], want) <= 1e-5
    whole = scores(slice(0, 5), (0, 5)).scores["0"]
    assert oracle.relative(whole, both.scores["0"].double()) <= 1e-5


def test_part_sizes_are_those_of_the_next_forward_pass():
    model, x = nn.Sequential(nn.Linear(6, 5)), torch.randn(3, 4, 6)
    with NeuronFisher(model, parts=2) as fisher:
        fisher.part_sizes = (1, 2)
        first = model(x)
        second = model(x)  # all of the first part
        second.square().sum().backward()
        first.square().sum().backward()
    parts = [fisher.scores_of(part, 1)["0"] for part in range(2)]
    with NeuronFisher(model) as whole:
        model(x).square().sum().backward()
    torch.testing.assert_close(parts[0] + parts[1], 6 * whole.scores["0"])
    with NeuronFisher(model) as last:
        model(x[1:]).square().sum().backward()
    torch.testing.assert_close(parts[1], 2 * last.scores["0"])


def test_part_sizes_end_with_the_context():
    model, x = nn.Sequential(nn.Linear(6, 5)), torch.randn(3, 4, 6)
    fisher = NeuronFisher(model, parts=2)
    for sizes in ((1, 2), None):
        with fisher:
            fisher.part_sizes = sizes
            model(x).square().sum().backward()
    with NeuronFisher(model) as last:
        model(x[1:]).square().sum().backward()
    torch.testing.assert_close(fisher.scores_of(1, 2)["0"], last.scores["0"])


@pytest.mark.parametrize("sizes", [(1, 1), (2, 2), (1, 1, 1)])
def test_part_sizes_that_are_not_those_of_the_batch_are_refused(sizes):
    """Otherwise samples would be left out of the sums without a word."""
    model, x = nn.Sequential(nn.Linear(6, 5)), torch.randn(3, 4, 6)
    with NeuronFisher(model, parts=2) as fisher:
        fisher.part_sizes = sizes
        with pytest.raises(ModelError, match=r"part_sizes is .* at most 2 parts .* samples, 3;"):
            model(x).square().sum().backward()
