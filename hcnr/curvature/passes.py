"""The one engine of passes over a model; what is measured is measured by its consumers.

A pass is one forward (and, where gradients matter, one backward) per micro-batch. Scores,
curvature, gradients, losses and hidden states all run through `Passes`. The model comes out as it
went in.
"""

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from hcnr import ranks
from hcnr.curvature.layouts import TokenLayout
from hcnr.curvature.memory import shrinking, warm_up
from hcnr.curvature.taps import Taps, frozen
from hcnr.data.batches import Batch, collate, part_of, plan_batches
from hcnr.data.tokens import TokenizedSet
from hcnr.errors import HcnrError, ModelError, RankError
from hcnr.models.device_memory import STREAMED, device_of
from hcnr.models.experts import running_as
from hcnr.models.limits import Limits
from hcnr.models.model import eval_mode
from hcnr.models.targets import transformer_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""
T = TypeVar("T")


class Totals(NamedTuple):
    """What one pass over samples adds up to.

    Attributes:
        tokens: real tokens, padding left out.
        samples: how many.
        losses: sum of their losses.
    """

    tokens: int
    samples: int
    losses: float

    @property
    def loss(self) -> float:
        """Mean over the samples of their losses, method.md, section 1."""
        return self.losses / self.samples

    def over_ranks(self) -> "Totals":
        """The same of all processes' samples; losses are added in the order of ranks."""
        first, *rest = ranks.gathered("losses", self)
        for totals in rest:
            first = Totals(
                first.tokens + totals.tokens,
                first.samples + totals.samples,
                first.losses + totals.losses,
            )
        return first


@dataclass(frozen=True)
class Attempt:
    """Passes with one budget of tokens, which are given up where memory runs out.

    Attributes:
        model: to be run, in measuring state.
        data: tokenised samples.
        token_budget: padded tokens of one micro-batch.
        progress: told after each micro-batch.
    """

    model: "PreTrainedModel"
    data: TokenizedSet
    token_budget: int
    progress: Progress | None = None

    def batches(self, parts: int = 1) -> Iterator[Batch]:
        """Micro-batches of all samples; tells progress after each.

        In several processes of this one's share, and progress as if the others were as far.

        Args:
            parts: samples of a batch stand in the order of `part_of` so many parts.
        """
        done, count = 0, len(self.data)
        chosen = ranks.share(range(count), self.data.lengths)
        for batch in micro_batches(self.model, self.data, chosen, self.token_budget, parts):
            yield batch
            done = min(done + len(batch) * ranks.size(), count)
            if self.progress is not None:
                self.progress(done, count)

    def forward(self, taps: Taps | None = None) -> Totals:
        """One forward per micro-batch of all samples, without gradients.

        Args:
            taps: open ones, told each batch's layout; None where only losses matter.

        Raises:
            ModelError: a loss is not finite.
        """
        return self._run(self.batches(), taps, backward=False)

    def backward(self, taps: Taps | None = None, batches: Iterable[Batch] | None = None) -> Totals:
        """One forward and one backward of the summed losses per micro-batch.

        Args:
            taps: open ones, told each batch's layout; None where others listen.
            batches: from `batches`, which is the default.

        Raises:
            ModelError: a loss is not finite.
        """
        device = device_of(self.model)
        if device.type == "cuda":
            warm_up(device, self.model.dtype, max(self.data.lengths))
        return self._run(self.batches() if batches is None else batches, taps, backward=True)

    def _run(self, batches: Iterable[Batch], taps: Taps | None, *, backward: bool) -> Totals:
        tokens = samples = 0
        total = 0.0
        for batch in batches:
            layout = TokenLayout(batch.attention_mask)
            if taps is not None:
                taps.begin(layout)
            with torch.set_grad_enabled(backward):
                losses = finite_losses(self.model, batch)
            if taps is not None:
                taps.end()
            if backward:
                losses.sum().backward()
            total += float(losses.detach().sum())
            tokens += layout.tokens
            samples += len(batch)
        return Totals(tokens, samples, total)


@dataclass(frozen=True)
class Passes:
    """How a model is run over a data set.

    Attributes:
        model: unchanged afterwards.
        data: tokenised samples.
        token_budget: padded tokens of one micro-batch; halved when memory runs out.
        gradient_checkpointing: recompute each block in backward instead of keeping it.
        progress: called after each micro-batch.
    """

    model: "PreTrainedModel"
    data: TokenizedSet
    token_budget: int
    gradient_checkpointing: bool = False
    progress: Progress | None = None

    def run(self, measure: Callable[[Attempt], T], *, held: int = 0) -> T:
        """Call `measure` with the model in measuring state, again with less while memory runs out.

        In several processes each begins again for itself: what they sum up is to be added by
        `hcnr.ranks` after this, never in `measure`. What fails in one fails in all.

        Args:
            measure: called with passes of one budget.
            held: bytes of what it sums up beside the model.

        Raises:
            ModelError: one sample does not fit in memory, or as `measure`.
        """

        def attempt(budget: int) -> T:
            try:
                return measure(Attempt(self.model, self.data, budget, self.progress))
            except RuntimeError as error:
                refuse_unread(self.model, error)
                raise

        with prepared(self.model, gradient_checkpointing=self.gradient_checkpointing):
            try:
                result = shrinking(attempt, self.token_budget, self.data, held=held)
            except RankError:
                raise
            except HcnrError as error:
                ranks.agreed(error)
                raise
            ranks.agreed(None)
            return result


def refuse_unread(model: nn.Module, error: RuntimeError) -> None:
    """Say what an error is about where weights are used that were not read.

    Raises:
        ModelError: the model is read block by block, and `error` is about what has no values.
    """
    if STREAMED in vars(model) and "meta" in str(error):
        raise ModelError(
            f"{type(model).__name__} uses tensors outside of the modules that hold them, so they "
            f"cannot be read when their block runs ({str(error).splitlines()[0]}); leave "
            "--device-map out"
        ) from error


def mean_loss(model: "PreTrainedModel", data: TokenizedSet, *, token_budget: int) -> float:
    """Mean over the samples of their losses, method.md, section 1, from forward passes alone.

    Raises:
        ModelError: a loss is not finite, or one sample does not fit in memory.
    """
    passes = Passes(model, data, token_budget)
    return passes.run(lambda attempt: attempt.forward()).over_ranks().loss


def sample_losses(model: "PreTrainedModel", batch: Batch) -> Tensor:
    """Mean negative log-likelihood of each sample's response tokens, method.md, section 1.

    Logits are formed at positions that predict a response token and at no others; where a model
    cannot choose them sample by sample, at positions that predict some sample's.

    Returns:
        float32 `[B]`.
    """
    predicts = batch.response_mask[:, 1:]
    rows = _predicting_logits(model, batch, nn.functional.pad(predicts, (0, 1), value=False))
    labels = batch.input_ids[:, 1:][predicts]
    losses = nn.functional.cross_entropy(rows.float(), labels, reduction="none")
    by_sample = losses.new_zeros(predicts.shape).masked_scatter(predicts, losses)
    return by_sample.sum(1) / predicts.sum(1)


def _predicting_logits(model: "PreTrainedModel", batch: Batch, predicts: Tensor) -> Tensor:
    """Logits `[n, V]` at the n positions of `predicts`, bool `[B, T]`, sample after sample."""
    accepted = inspect.signature(model.forward).parameters
    arguments: dict[str, Tensor] = {}
    if batch.left_padded and "position_ids" in accepted:
        arguments["position_ids"] = batch.position_ids
    kept = predicts
    if "logits_to_keep" in accepted:
        if not takes_masks(model):
            some = predicts.any(0)
            kept = predicts[:, some]
            arguments["logits_to_keep"] = some.nonzero().squeeze(1)
        else:
            arguments["logits_to_keep"] = predicts
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
        **arguments,
    ).logits
    return logits if logits.dim() == 2 else logits[kept]


def takes_masks(model: nn.Module) -> bool:
    """Whether `logits_to_keep` of a model may be a mask `[B, T]`.

    Models of transformers whose module has `slice_logits_to_keep` take one. What older ones and
    wrappers make of a mask is not known, so the class that defines `forward` is asked.
    """
    own = next(kind for kind in type(model).__mro__ if "forward" in vars(kind))
    return hasattr(sys.modules.get(own.__module__), "slice_logits_to_keep")


def finite_losses(model: "PreTrainedModel", batch: Batch) -> Tensor:
    """`sample_losses`, refused where one is not finite; the sample is named."""
    losses = sample_losses(model, batch)
    finite = losses.isfinite()
    if not finite.all():
        worst = batch.indices[int((~finite).nonzero()[0])]
        raise ModelError(
            f"the loss of sample {worst + 1} is {losses[~finite][0].item()}: the model's "
            "activations overflow; measure with --dtype float32 or bfloat16"
        )
    return losses


@contextlib.contextmanager
def prepared(
    model: "PreTrainedModel", *, gradient_checkpointing: bool = False, whole_again: bool = False
) -> Iterator[None]:
    """Put `model` into measuring state inside: inference mode of every layer, frozen weights.

    The gradient enters at the embedding's output. With `gradient_checkpointing` every transformer
    block recomputes its activations in backward, while its dropout stays off; so it is where blocks
    are read when they run. Everything is put back at the end.

    Args:
        model: to be prepared.
        gradient_checkpointing: recompute blocks.
        whole_again: recompute them in a graph of their own, as functions of their arguments:
            weights that are read then get their gradients then.
    """
    with contextlib.ExitStack() as stack:
        # A caller's no_grad, inference_mode or autocast must not reach the passes.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        kinds = {parameter.device.type for parameter in model.parameters()} - {"meta"}
        for kind in kinds | {device_of(model).type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(eval_mode(model))
        recomputes = gradient_checkpointing or STREAMED in vars(model)
        if STREAMED in vars(model):
            # A block that is left halfway would keep its weights.
            stack.enter_context(set_checkpoint_early_stop(False))
        if recomputes and (blocks := transformer_blocks(model)):
            for block in model.get_submodule(blocks).children():
                stack.enter_context(_recomputing(block, reentrant=whole_again))
        handle = model.get_input_embeddings().register_forward_hook(_enter_gradient)
        stack.callback(handle.remove)
        stack.enter_context(frozen(model))
        yield


def _recomputing(block: nn.Module, *, reentrant: bool) -> contextlib.AbstractContextManager[None]:
    """Run `block` under activation checkpointing inside.

    transformers' own switch asks for training mode, which would turn dropout on.
    """
    options: Any = {"use_reentrant": reentrant, "preserve_rng_state": False}
    forward = block.forward
    if not reentrant:
        return running_as(block, functools.partial(checkpoint, forward, **options))

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)

        form: Any = None

        def flat(*values: Any) -> tuple[Any, ...]:
            nonlocal form
            named = dict(zip(kwargs, values[len(args) :], strict=True))
            # Of what is no tuple (OpenAI GPT's blocks return lists) nothing would get a gradient.
            leaves, form = tree_flatten(forward(*values[: len(args)], **named))
            return tuple(leaves)

        leaves = checkpoint(flat, *args, *kwargs.values(), **options)
        return tree_unflatten(leaves, form)

    return running_as(block, run)


def _enter_gradient(module: nn.Module, args: object, output: Tensor) -> Tensor | None:
    if torch.is_grad_enabled() and not output.requires_grad:
        # Models may scale it in place (CTRL), which a leaf forbids: a copy follows it.
        return output.requires_grad_(True).clone()
    return None


def refuse_silent(matrices: Mapping[str, nn.Linear], heard: Container[str]) -> None:
    """Refuse matrices that nothing was heard of.

    Raises:
        ModelError: naming the first.
    """
    silent = [name for name in matrices if name not in heard]
    if silent:
        raise ModelError(
            f"{silent[0]} took no part in the model's forward pass; leave it out with --ignore "
            f"'{silent[0]}'"
        )


def micro_batches(
    model: "PreTrainedModel",
    data: TokenizedSet,
    indices: Sequence[int],
    token_budget: int,
    parts: int = 1,
) -> Iterator[Batch]:
    """Micro-batches of `indices`, longest first, on the model's device.

    In each, samples stand in the order of `part_of`.
    """
    lengths = [len(data.samples[i]) for i in indices]
    pad, rows = getattr(model.config, "pad_token_id", None), Limits.of(model).rows
    if not isinstance(pad, int) or not 0 <= pad < (pad + 1 if rows is None else rows):
        pad = 0
    device = device_of(model)
    for members in plan_batches(lengths, token_budget):
        ordered = sorted((indices[i] for i in members), key=lambda index: part_of(index, parts))
        batch = collate(data.samples, ordered, pad_token_id=pad)
        yield batch.to(device)
