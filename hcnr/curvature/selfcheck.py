"""Before measuring: taps must see what autograd sees, and batch mates must not matter.

A tap takes a matrix for `y = W x + b` on the tensor that its module is called with. Layers that
do something else, or whose weight is used without calling them, would be measured wrongly and
silently; so would models that mix the samples of a batch. Two short samples tell.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from hcnr.curvature.fisher import NeuronFisher
from hcnr.curvature.layouts import RowsError, SharedInput, TokenLayout
from hcnr.curvature.memory import shrinking
from hcnr.curvature.passes import finite_losses, micro_batches, prepared, refuse_unread
from hcnr.curvature.routes import Routes
from hcnr.curvature.taps import Taps
from hcnr.curvature.unmeasured import refuse_shared, without_samples
from hcnr.data.batches import Batch
from hcnr.data.tokens import TokenizedSet
from hcnr.errors import ModelError
from hcnr.kinds import Axis
from hcnr.models.device_memory import STREAMED, out_of_memory
from hcnr.models.linear import Expert, as_matrix, ignoring_all
from hcnr.models.loading import cause_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 0.01
"""Relative difference from which two ways are two results, in float32."""
TOLERANCE_LOW = 0.2
"""The same in dtypes of 16 bits, whose kernels round differently from batch to batch."""
FLOOR, FLOOR_LOW = 1e-4, 0.05
"""Share of the largest gradient norm of all layers below which a layer's own is rounding: that of
queries and keys is where all tokens of a sample are alike. Scores are squares of gradients."""

ROUTES, ROUTES_LOW = 0.02, 0.25
"""Share of a mixture's tokens that rounding may route to other experts from batch to batch: chosen,
not measured on a trained mixture yet. A model whose samples reroute fewer of each other's tokens,
and do nothing else to each other, is not found out."""


def check_model(
    model: "PreTrainedModel",
    matrices: Mapping[str, nn.Linear],
    data: TokenizedSet,
    *,
    axis: Axis,
    token_budget: int,
    gradient_checkpointing: bool = False,
) -> None:
    """Compare taps with autograd, and two samples alone with the same two in one batch.

    Args:
        model: the model that will be measured; unchanged afterwards.
        matrices: its layers by name.
        data: tokenised samples, of which the two shortest of different lengths are used.
        axis: the neuron axis.
        token_budget: as for measuring; where it makes every sample a batch of its own, batches
            are not compared.
        gradient_checkpointing: as for measuring.

    Raises:
        ModelError: naming a layer, what is wrong with it and how to leave it out; or not even two
            short samples fit in memory.
    """
    refuse_shared(model, matrices)
    two = _two_samples(data)
    lengths = [len(sample) for sample in two.samples]
    everything = range(len(two))
    compared = len(two) > 1 and 2 * min(data.lengths) <= token_budget
    # Where every sample is measured alone, a batch of two tells nothing.
    budget = 2 * max(lengths) if compared else 1

    def run(_: int) -> None:
        with _or_whole(model):
            for batch in micro_batches(model, two, everything, budget):
                _explained(model, matrices, batch)
            if compared:
                _check_batches(model, matrices, two, axis)

    # Where blocks are read when they run, weights get gradients when their block is read again.
    again = STREAMED in vars(model)
    with prepared(model, gradient_checkpointing=gradient_checkpointing, whole_again=again):
        # Two short samples that do not fit are told as one that does not.
        shrinking(run, 1, two)


@contextlib.contextmanager
def _or_whole(model: "PreTrainedModel") -> Iterator[None]:
    """Where blocks are read when they run, what is wrong may be that: a refusal says so."""
    try:
        yield
    except ModelError as error:
        cure = "leave --device-map out"
        if STREAMED not in vars(model) or isinstance(error, RowsError) or cure in str(error):
            raise
        raise ModelError(f"{error}; or {cure}: blocks are run one by one with it") from error


def _check_batches(
    model: "PreTrainedModel",
    matrices: Mapping[str, nn.Linear],
    two: TokenizedSet,
    axis: Axis,
) -> None:
    """Compare the scores of two samples alone with those of the same two in one batch.

    Tokens of a mixture that another rounding routes to other experts follow their first route.
    """

    def scores(budget: int) -> dict[str, Tensor]:
        with NeuronFisher(model, matrices, axis=axis) as fisher:
            for batch in micro_batches(model, two, range(len(two)), budget):
                routes.begin(batch)
                finite_losses(model, batch).sum().backward()
        return fisher.scores

    with Routes(model) as routes:
        alone = scores(1)
        routes.mode = "follow"
        batched = scores(2 * max(two.lengths))
        if routes.share > _limits(model).routes:
            raise ModelError(
                f"{routes.share:.0%} of the tokens of two samples are routed to other experts in "
                "one batch than in two: the model lets samples or their padding see each other; "
                "measure every sample alone with --token-budget 1"
            )
        if routes.changed:
            routes.mode = "hold"
            alone = scores(1)
    limits = _limits(model)
    differences = {name: _difference(alone[name], batched[name]) for name in matrices}
    for name, error in _relative(differences, limits.floor**2).items():
        if error > limits.tolerance:
            raise ModelError(
                f"the scores of {name} on two samples differ by {error:.0%} between one batch and "
                "two: the model lets samples or their padding see each other; measure every sample "
                f"alone with --token-budget 1, or leave the layer out with --ignore '{name}'"
            )


def _two_samples(data: TokenizedSet) -> TokenizedSet:
    """The shortest sample and the next longer one, or the next one where all are as long."""
    order = sorted(range(len(data)), key=lambda i: (len(data.samples[i]), i))
    longer = [i for i in order if len(data.samples[i]) > len(data.samples[order[0]])]
    chosen = [order[0], *(longer or order[1:])[:1]]
    return TokenizedSet(tuple(data.samples[i] for i in chosen), data.counts, data.sha256)


def _explained(model: "PreTrainedModel", matrices: Mapping[str, nn.Linear], batch: Batch) -> None:
    """`_check_gradients`; an error of torch is traced back to the layer whose tap causes it.

    A refusal of rows names all layers that it is about.
    """
    try:
        _check_gradients(model, matrices, batch)
    except RowsError as error:
        cure = ignoring_all(without_samples(model, matrices, batch), matrices)
        raise RowsError(error.name, error.rows, error.batch, cure) from error
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        refuse_unread(model, error)
        for name, layer in matrices.items():
            try:
                _check_gradients(model, {name: layer}, batch)
            except RuntimeError as own:
                raise ModelError(
                    f"{name} ({type(layer).__name__}) cannot be measured: {cause_of(own)}; leave "
                    f"it out with --ignore '{name}'"
                ) from own
        raise ModelError(f"the model cannot be measured: {cause_of(error)}") from error


def _check_gradients(
    model: "PreTrainedModel", matrices: Mapping[str, nn.Linear], batch: Batch
) -> None:
    """Compare `sum_t g_t x_t^T` of every matrix with the weight gradient that autograd forms.

    Each weight's gradients are let go as soon as they are compared.
    """
    tapped: dict[str, Tensor] = {}
    differences: dict[str, _Difference | None] = {}

    def consume(name: str, shared: SharedInput, x: Tensor, g: Tensor) -> None:
        x, g = (shared.layout.real(rows).float() for rows in (x, g))
        gradient = g.T @ x
        tapped[name] = tapped[name] + gradient if name in tapped else gradient

    def compare(name: str) -> Callable[[Tensor], None]:
        def hook(weight: Tensor) -> None:
            assert weight.grad is not None
            gradient, weight.grad = weight.grad, None
            mine = tapped.pop(name, None)
            gradient = as_matrix(matrices[name], gradient).float()
            differences[name] = None if mine is None else _difference(gradient, mine)

        return hook

    with contextlib.ExitStack() as stack:
        for name, layer in matrices.items():
            stack.enter_context(_heard(model, name, layer, compare(name)))
        routes = stack.enter_context(Routes(model))
        routes.begin(batch)
        with Taps(matrices, on_gradient=consume, model=model) as taps:
            taps.begin(TokenLayout(batch.attention_mask))
            losses = finite_losses(model, batch)
            taps.end()
            losses.sum().backward()
        routes.mode = "follow"
        _check_experts(model, matrices, batch, losses.detach())
    limits = _limits(model)
    errors = _relative(
        {name: one for name, one in differences.items() if one is not None}, limits.floor
    )
    wrong = [n for n in matrices if (e := errors.get(n)) is None or e > limits.tolerance]
    for name in wrong:
        layer = matrices[name]
        more = "it" if len(wrong) == 1 else f"it and {len(wrong) - 1} more of such"
        cure = f"leave {more} out with --ignore '{ignoring_all(wrong, matrices)}'"
        if name not in differences:
            raise ModelError(f"{name} took no part in the model's forward pass; {cure}")
        if name not in errors:
            raise ModelError(
                f"the weight of {name} is used without calling its layer, so what it reads and "
                f"writes cannot be seen; {cure}"
            )
        raise ModelError(
            f"{name} ({type(layer).__name__}) is no plain y = W x + b: its gradient by what it "
            f"reads and writes is {errors[name]:.0%} off the true one; {cure}"
        )


@contextlib.contextmanager
def _heard(
    model: "PreTrainedModel", name: str, layer: nn.Linear, tell: Callable[[Tensor], None]
) -> Iterator[None]:
    """Inside, autograd forms the gradient of a weight and tells of it; it is kept nowhere.

    Args:
        model: that holds it.
        name: of the matrix.
        layer: of the matrix.
        tell: called with the weight once it has its gradient.
    """
    streamed = vars(model).get(STREAMED)
    unit = None if streamed is None else streamed.unit_of(f"{name}.weight")
    if streamed is None or unit is None:
        weight = layer.weight
        kept, weight.grad = weight.grad, None
        weight.requires_grad_(True)
        handle = weight.register_post_accumulate_grad_hook(tell)
        try:
            yield
        finally:
            handle.remove()
            weight.requires_grad_(False)
            weight.grad = kept
        return

    def loaded(which: str) -> None:
        # Another object whenever it is read; only what is read in backward gets a gradient.
        if which != unit or not torch.is_grad_enabled():
            return
        if isinstance(layer, Expert):
            own = layer.owner.get_parameter(layer.name).data[layer.index]
            layer.weight = nn.Parameter(own)
        layer.weight.requires_grad_(True).register_post_accumulate_grad_hook(accumulated)

    empty = layer.weight

    def accumulated(weight: Tensor) -> None:
        tell(weight)
        let_go()

    def let_go() -> None:
        # A slice would keep all experts of its block.
        if isinstance(layer, Expert):
            layer.weight = empty

    streamed.watchers.append(loaded)
    try:
        yield
    finally:
        streamed.watchers.remove(loaded)
        let_go()
        layer.weight.requires_grad_(False)


def _check_experts(
    model: "PreTrainedModel", matrices: Mapping[str, nn.Module], batch: Batch, tapped: Tensor
) -> None:
    """Compare losses with experts run one by one, as measured, with the model's own."""
    name = next((name for name, layer in matrices.items() if isinstance(layer, Expert)), None)
    if name is None:
        return
    with torch.no_grad():
        own = finite_losses(model, batch)
    error = float((own - tapped).norm() / own.norm())
    if error > _limits(model).tolerance:
        experts = name.rpartition(".")[0].rpartition(".")[0]
        raise ModelError(
            f"the experts of {experts} ({type(matrices[name].owner).__name__}) compute something "
            f"else one by one: the losses of two samples differ by {error:.0%}; leave them out "
            f"with --ignore '{experts.rpartition('.')[2]}.*'"
        )


class _Difference(NamedTuple):
    """Norms of what is expected, and of what was found less that."""

    size: float
    value: float


def _difference(expected: Tensor, actual: Tensor) -> _Difference:
    return _Difference(
        float(expected.double().norm()), float((expected.double() - actual.double()).norm())
    )


def _relative(differences: Mapping[str, _Difference], floor: float) -> dict[str, float]:
    """Differences as shares of the expected norms, which count as `floor` of the largest at least.

    0 where nothing is expected and nothing found.
    """
    least = floor * max((one.size for one in differences.values()), default=0.0)
    shares = {}
    for name, difference in differences.items():
        size = max(difference.size, least)
        shares[name] = (
            difference.value / size if size > 0 else (math.inf if difference.value > 0 else 0.0)
        )
    return shares


class _Limits(NamedTuple):
    """What counts as rounding in a dtype: see the constants above."""

    tolerance: float
    floor: float
    routes: float


def _limits(model: "PreTrainedModel") -> _Limits:
    if model.dtype in (torch.float32, torch.float64):
        return _Limits(TOLERANCE, FLOOR, ROUTES)
    return _Limits(TOLERANCE_LOW, FLOOR_LOW, ROUTES_LOW)
