"""Passes over a model: per-neuron Fisher scores, and the curvature that compensation needs.

Each pass is one forward (and, where gradients matter, one backward) per micro-batch. The model
comes out as it went in.
"""

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hcnr.batches import Batch, collate, plan_batches
from hcnr.errors import ModelError
from hcnr.limits import Limits
from hcnr.model import eval_mode, transformer_blocks
from hcnr.neuron_fisher import NeuronFisher
from hcnr.taps import SharedInput, Taps, TokenLayout, frozen
from hcnr.tokens import TokenizedSet
from hcnr_kernels import gram_, symmetrize_

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Axis = Literal["output", "input"]
Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""
T = TypeVar("T")


class Scores(NamedTuple):
    """Fisher scores of one data set, on the CPU.

    `mean[matrix]` is float32 `[d']`, method.md (1). `halves[matrix]` is float32 `[2, d']`, the
    same over the samples with even and with odd index: `mean` is their weighted mean. A single
    sample has no halves.
    """

    mean: dict[str, Tensor]
    halves: dict[str, Tensor]


def sample_losses(model: "PreTrainedModel", batch: Batch) -> Tensor:
    """Mean negative log-likelihood of each sample's response tokens, method.md 1.

    Logits are formed only at positions that predict some sample's response.

    Returns:
        float32 `[B]`.
    """
    predicts = batch.response_mask[:, 1:]
    positions = predicts.any(0).nonzero().squeeze(1)
    arguments: dict[str, Tensor] = {}
    accepted = inspect.signature(model.forward).parameters
    if "position_ids" in accepted:
        arguments["position_ids"] = batch.position_ids
    if "logits_to_keep" in accepted:
        arguments["logits_to_keep"] = positions
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
        **arguments,
    ).logits
    if "logits_to_keep" not in accepted:
        logits = logits[:, positions]
    labels = batch.input_ids[:, 1:][:, positions]
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), reduction="none"
    ).view_as(labels)
    mask = predicts[:, positions]
    return (losses * mask).sum(1) / mask.sum(1)


@contextlib.contextmanager
def prepared(model: "PreTrainedModel", *, gradient_checkpointing: bool = False) -> Iterator[None]:
    """Put `model` into measuring state inside: inference mode of every layer, frozen weights.

    The gradient enters at the embedding's output. With `gradient_checkpointing` every transformer
    block recomputes its activations in backward, while its dropout stays off. Everything is put
    back at the end.
    """
    with contextlib.ExitStack() as stack:
        # A caller's no_grad, inference_mode or autocast must not reach the passes.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {parameter.device.type for parameter in model.parameters()}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(eval_mode(model))
        if gradient_checkpointing and (blocks := transformer_blocks(model)):
            for block in model.get_submodule(blocks).children():
                stack.enter_context(_recomputing(block))
        handle = model.get_input_embeddings().register_forward_hook(_enter_gradient)
        stack.callback(handle.remove)
        stack.enter_context(frozen(model))
        yield


@contextlib.contextmanager
def _recomputing(block: nn.Module) -> Iterator[None]:
    """Run `block` under activation checkpointing inside.

    transformers' own switch asks for training mode, which would turn dropout on.
    """
    own = vars(block).get("forward")  # set on the instance by some wrappers
    block.forward = functools.partial(
        checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
    )
    try:
        yield
    finally:
        if own is None:
            del block.forward
        else:
            block.forward = own


def _enter_gradient(module: nn.Module, args: object, output: Tensor) -> None:
    if torch.is_grad_enabled() and not output.requires_grad:
        output.requires_grad_(True)


def score(
    model: "PreTrainedModel",
    matrices: Mapping[str, nn.Linear],
    data: TokenizedSet,
    *,
    axis: Axis,
    token_budget: int,
    gradient_checkpointing: bool = False,
    padding_side: Literal["left", "right"] = "right",
    progress: Progress | None = None,
) -> Scores:
    """Fisher scores of every matrix on `data`, method.md (1).

    Args:
        model: the model to take gradients at; unchanged afterwards.
        matrices: layers of `model` by name.
        data: tokenised samples.
        axis: neuron axis.
        token_budget: padded tokens of one micro-batch; halved when memory runs out.
        gradient_checkpointing: recompute each block in backward instead of keeping it.
        padding_side: where short samples are padded.
        progress: called after each micro-batch.

    Raises:
        ModelError: a loss is not finite, or one sample does not fit in memory.
    """
    count = len(data.samples)
    parts = [range(half, count, 2) for half in range(min(2, count))]

    def run(budget: int) -> Scores:
        found: list[dict[str, Tensor]] = []
        done = 0
        for indices in parts:
            with NeuronFisher(model, matrices, axis=axis) as fisher:
                for batch in micro_batches(model, data, indices, budget, padding_side):
                    finite_losses(model, batch).sum().backward()
                    done += len(batch)
                    tell(progress, done, data)
            found.append({name: scores.cpu() for name, scores in fisher.scores.items()})
        if len(found) == 1:
            return Scores(found[0], {})
        even, odd = found
        share = len(parts[0]) / count
        return Scores(
            {name: even[name] * share + odd[name] * (1 - share) for name in matrices},
            {name: torch.stack((even[name], odd[name])) for name in matrices},
        )

    with prepared(model, gradient_checkpointing=gradient_checkpointing):
        return shrinking(run, token_budget, data)


def curvature(
    model: "PreTrainedModel",
    matrices: Mapping[str, nn.Linear],
    data: TokenizedSet,
    *,
    axis: Axis,
    token_budget: int,
    gradient_checkpointing: bool = False,
    padding_side: Literal["left", "right"] = "right",
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Second moments along the neuron axis over real tokens, method.md (5).

    Input axis: `(1/n) sum_t x_t x_t^T`, from forward passes alone; matrices that read one tensor
    share one result (the same object). Output axis: `(1/n) sum_t g_t g_t^T`.

    Returns:
        Matrix name -> float32 `[d', d']`, symmetric, on the model's device.

    Raises:
        ModelError: as `score`.
    """
    if not matrices:
        return {}

    def run(budget: int) -> dict[str, Tensor]:
        grams: dict[str, Tensor] = {}
        leaders: dict[str, str] = {}

        def add(name: str, shared: SharedInput, rows: Tensor) -> None:
            if name not in grams:
                size = rows.shape[1]
                grams[name] = torch.zeros(size, size, dtype=torch.float32, device=rows.device)
            gram_(grams[name], shared.layout.real(rows))

        def on_input(name: str, shared: SharedInput, x: Tensor) -> None:
            leaders[name] = shared.leader
            if name == shared.leader:
                add(name, shared, x)

        def on_gradient(name: str, shared: SharedInput, x: Tensor, g: Tensor) -> None:
            leaders[name] = name
            add(name, shared, g)

        taps = (
            Taps(matrices, on_input=on_input)
            if axis == "input"
            else Taps(matrices, on_gradient=on_gradient)
        )
        done = tokens = 0
        with taps:
            for batch in micro_batches(model, data, range(len(data.samples)), budget, padding_side):
                layout = TokenLayout(batch.attention_mask)
                taps.begin(layout)
                if axis == "input":
                    with torch.no_grad():
                        finite_losses(model, batch)
                    taps.end()
                else:
                    losses = finite_losses(model, batch)
                    taps.end()
                    losses.sum().backward()
                tokens += layout.tokens
                done += len(batch)
                tell(progress, done, data)
        for gram in grams.values():
            symmetrize_(gram).div_(tokens)
        refuse_silent(matrices, leaders)
        return {name: grams[leaders[name]] for name in matrices}

    with prepared(model, gradient_checkpointing=gradient_checkpointing):
        return shrinking(run, token_budget, data)


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


def micro_batches(
    model: "PreTrainedModel",
    data: TokenizedSet,
    indices: Sequence[int],
    token_budget: int,
    padding_side: Literal["left", "right"],
) -> Iterator[Batch]:
    """Micro-batches of `indices`, longest first, on the model's device."""
    lengths = [len(data.samples[i]) for i in indices]
    pad, rows = getattr(model.config, "pad_token_id", None), Limits.of(model).rows
    if not isinstance(pad, int) or not 0 <= pad < (pad + 1 if rows is None else rows):
        pad = 0
    device = next(model.parameters()).device
    for members in plan_batches(lengths, token_budget):
        batch = collate(
            data.samples,
            [indices[i] for i in members],
            pad_token_id=pad,
            padding_side=padding_side,
        )
        yield batch.to(device)


def shrinking(run: Callable[[int], T], token_budget: int, data: TokenizedSet) -> T:
    """Call `run` with the budget; halve it and start over while memory runs out.

    The longest micro-batch comes first, so what is thrown away is usually that one alone.
    """
    longest = max(data.lengths)
    while True:
        try:
            return run(token_budget)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if token_budget <= longest:
                raise ModelError(
                    f"a single sample of {longest} tokens does not fit in memory; use "
                    "--gradient-checkpointing, a smaller --max-length or --dtype bfloat16, and for "
                    "spectral and natural a smaller --memory-budget"
                ) from error
        token_budget = max(token_budget // 2, longest)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on whichever device.

    Only torch's own allocations raise `OutOfMemoryError`. What else takes memory of a GPU says so
    in words: a kernel that is loaded, a library that opens its handle or its workspace.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return any(sign in text.lower() for sign in _NO_MEMORY) or bool(_NO_HANDLE.search(text))


_NO_MEMORY = ("out of memory", "can't allocate memory", "cudaerrormemoryallocation")
_NO_HANDLE = re.compile(r"CU[A-Z]+_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)")
"""A library's handle is made when a thread first multiplies; what fails then is its memory."""


def tell(progress: Progress | None, done: int, data: TokenizedSet) -> None:
    """Report progress to whom it may concern."""
    if progress is not None:
        progress(done, len(data.samples))
