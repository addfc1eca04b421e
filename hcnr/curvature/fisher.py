"""`NeuronFisher`: per-neuron Fisher diagonals of any module with `nn.Linear`s."""

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hcnr import ranks
from hcnr.curvature.layouts import RoutedLayout, SharedInput, Span, TokenLayout, token_grams
from hcnr.curvature.taps import Taps, frozen
from hcnr.curvature.uses import Joined, Use, Uses, joined
from hcnr.errors import ModelError
from hcnr.kinds import Axis
from hcnr.models.device_memory import device_of
from hcnr.models.linear import shape_of
from hcnr.models.targets import target_matrices
from hcnr_kernels import fisher_input_, fisher_output_, gram_is_cheaper


def fused(own: Tensor) -> bool:
    """Whether the kernels of a GPU will read a tensor."""
    return own.is_cuda


class NeuronFisher:
    """Collect per-neuron Fisher scores, method.md (1), while the context is open.

        with NeuronFisher(model, targets=["q_proj", "v_proj"], axis="output") as fisher:
            for batch in loader:
                losses = per_sample_loss(model(**batch), batch)  # [B]
                losses.sum().backward()
        fisher.scores["model.layers.0.self_attn.q_proj"]  # float32 [out], divided by N

    Samples are the leading dimension of the module's first tensor argument. The loss to call
    `backward` on is the SUM of the per-sample losses, so that no sample's gradient is scaled by
    its batch mates. A keyword argument `attention_mask` `[B, T]` of the module's forward marks
    the padding, which then contributes nothing; set `fisher.attention_mask` before the forward
    pass where the module takes its mask in another way.

    While the context is open no parameter requires a gradient (flags come back at the end), so
    no weight gradient is ever formed; batch size, padding side and gradient checkpointing do not
    change the scores beyond rounding. Of a matrix that is used several times in a forward pass the
    rows of all uses are kept until backward has met the last, for a sample's gradient is their sum.

    Attributes:
        attention_mask: mask of the next forward pass, `[B, T]`, or None; consumed by it.
        part_sizes: how many samples of the next forward pass are of each part, those of a part
            together and the parts in order; all of the first where None. Consumed by it.
        matrices: the tapped layers, name -> `nn.Linear`.
        samples: N, those of the forward passes in whose backward pass any of the matrices took
            part; one that takes part in some of them alone (an expert, say) has zeros for others.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Iterable[str] | Mapping[str, nn.Linear] = ("*",),
        *,
        ignore: Iterable[str] = (),
        axis: Axis = "output",
        parts: int = 1,
    ) -> None:
        """Choose the matrices of `model`; nothing is attached before the context is entered.

        Args:
            model: any module; of a causal language model only the blocks are searched.
            targets: glob patterns on matrix names, or the layers themselves by name.
            ignore: glob patterns of matrices to leave out.
            axis: a neuron is a row (`output`) or a column (`input`) of the weight.
            parts: how many sums to keep; `part_sizes` says which samples are whose.

        Raises:
            ModelError: no matrix matched, or the axis is unknown.
        """
        if axis not in ("output", "input"):
            raise ModelError(f"axis is {axis!r}; it must be 'output' or 'input'")
        self.matrices = (
            dict(targets)
            if isinstance(targets, Mapping)
            else target_matrices(model, [targets] if isinstance(targets, str) else targets, ignore)
        )
        self.attention_mask: Tensor | None = None
        self.part_sizes: Sequence[int] | None = None
        self._model = model
        self._axis = axis
        self._parts = parts
        self._forwards: dict[int, Sequence[int]] = {}
        self._open = contextlib.ExitStack()
        self._uses = Uses()
        self.reset()

    def reset(self) -> None:
        """Forget everything collected so far."""
        self._uses.clear()
        self._forwards.clear()
        self._sums = {
            name: torch.zeros(
                self._parts,
                shape_of(layer)[0 if self._axis == "output" else 1],
                dtype=torch.float32,
                device=device_of(self._model) if layer.weight.is_meta else layer.weight.device,
            )
            for name, layer in self.matrices.items()
        }
        self._heard = dict.fromkeys(self.matrices, 0)
        self._met: set[int] = set()
        self.samples = 0

    @property
    def scores(self) -> dict[str, Tensor]:
        """Mean over the samples of the squared gradient norms, float32 `[d']` per matrix.

        Raises:
            ModelError: a matrix received no gradient.
        """
        return {name: total.sum(0) / self.samples for name, total in self._heard_sums().items()}

    def scores_of(self, part: int, samples: int) -> dict[str, Tensor]:
        """`scores` of one part, of which `samples` were measured.

        Raises:
            ModelError: a matrix received no gradient.
        """
        return {name: total[part] / samples for name, total in self._heard_sums().items()}

    def _heard_sums(self) -> dict[str, Tensor]:
        """Sums `[parts, d']` of all matrices."""
        self._finish()
        silent = [name for name, count in self._heard.items() if count == 0]
        if silent:
            raise ModelError(
                f"{silent[0]} received no gradient ({len(silent)} of {len(self._heard)} "
                "matrices): run a forward pass and backward of the summed loss inside the context"
            )
        return self._sums

    def over_ranks(self) -> "NeuronFisher":
        """Add what the other processes of a run collected, in the order of ranks, in float32."""
        self._finish()
        device = next(iter(self._sums.values())).device
        self._sums = ranks.summed("scores", self._sums, device)
        self._heard = ranks.counted("matrices", self._heard)
        self.samples = sum(ranks.gathered("samples", self.samples))
        return self

    def __enter__(self) -> "NeuronFisher":
        # Forward passes are counted anew.
        self._finish()
        self._uses.clear()
        self._forwards.clear()
        self._met.clear()
        self._open.enter_context(frozen(self._model))
        # Not kept as an attribute: a cycle through it would keep the model alive after its use.
        taps = Taps(self.matrices, on_gradient=self._consume, model=self._model)
        self._open.enter_context(taps)
        handle = self._model.register_forward_pre_hook(
            functools.partial(self._announce, taps), with_kwargs=True
        )
        self._open.callback(handle.remove)
        handle = self._model.register_forward_hook(lambda *_: taps.end())
        self._open.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _announce(self, taps: Taps, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Read the padding of the batch that is about to run."""
        mask = self.attention_mask
        if mask is None:
            mask = kwargs.get("attention_mask")
        sizes, self.attention_mask, self.part_sizes = self.part_sizes, None, None
        if not torch.is_grad_enabled():
            # Nothing of it is measured, and what it is about may be recomputed after it.
            return
        self._finish()
        if mask is not None and mask.dim() != 2:
            raise ModelError(
                f"attention_mask has shape {list(mask.shape)}; the padding is read off a mask "
                "[batch, tokens]: set fisher.attention_mask before the forward pass"
            )
        if mask is not None:
            taps.begin(TokenLayout(mask))
        else:
            tensors = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.dim())
            first = next(tensors, None)
            taps.begin(None, None if first is None else first.shape[0])
        if sizes is not None:
            self._forwards[taps.forward] = sizes

    def _consume(self, name: str, shared: SharedInput, x: Tensor, g: Tensor) -> None:
        """Add one batch's scores of one matrix, once backward has met all its uses."""
        if shared.forward not in self._met:
            self._met.add(shared.forward)
            self.samples += shared.layout.samples
        if shared.uses[name] <= 1:
            self._uses.once(name, shared)
            self._heard[name] += 1
            self._add(name, shared, x, g)
        elif uses := self._uses.add(name, shared, x, g):
            self._join(name, shared.forward, uses)

    def _finish(self) -> None:
        """Add what waits for uses that got no gradient, as backward is over."""
        for name, forward, uses in self._uses.rest():
            self._join(name, forward, uses)

    def _spans(
        self, name: str, forward: int, layout: TokenLayout | RoutedLayout | Joined
    ) -> Iterator[tuple[Tensor, Span]]:
        """The sum of each part `[d']`, and the rows of its samples in a forward pass."""
        sums, first = self._sums[name], 0
        sizes = self._forwards.get(forward)
        if sizes is None:
            sizes = (layout.samples,)
        elif len(sizes) > self._parts or sum(sizes) != layout.samples:
            raise ModelError(
                f"part_sizes is {list(sizes)}, expected sizes of at most {self._parts} parts that "
                f"add up to the batch's samples, {layout.samples}; count those of each part"
            )
        for part, count in enumerate(sizes):
            if count:
                yield sums[part], layout.span(first, first + count)
            first += count

    def _join(self, name: str, forward: int, uses: list[Use]) -> None:
        """Add one batch's scores of a matrix that is used several times."""
        self._heard[name] += 1
        rows = joined(uses)
        if len(rows.x):
            self._add_spans(self._spans(name, forward, rows), rows.x, rows.g, {}, None)

    def _add(self, name: str, shared: SharedInput, x: Tensor, g: Tensor) -> None:
        """Add one batch's scores of one matrix; choose the form by the flop rule of (2)."""
        if x.shape[0] == 0:
            return  # an expert that no token was routed to
        layout, spans = shared.layout, list(self._spans(name, shared.forward, shared.layout))
        own = x if self._axis == "input" else g
        # Planes are what a GPU multiplies beside bfloat16.
        split = fused(own) and own.dtype == torch.bfloat16
        options, gram = {}, None
        if self._axis == "input":
            # A GPU forms the Grams of all parts at once: those of one would leave it half idle.
            if (
                len(spans) > 1
                and fused(own)
                and gram_is_cheaper(layout.max_seqlen, x.shape[1], g.shape[1], axis="input")
            ):
                gram = token_grams(layout, g, split=split)
        elif shared.has_gram or gram_is_cheaper(
            layout.mean_seqlen, x.shape[1], g.shape[1], shared=shared.users
        ):
            gram = shared.gram(x, split=split)
        else:
            options = {"form": "direct"}
        self._add_spans(spans, x, g, options, gram)

    def _add_spans(
        self,
        spans: Iterable[tuple[Tensor, Span]],
        x: Tensor,
        g: Tensor,
        options: Mapping[str, Any],
        gram: Tensor | None,
    ) -> None:
        add = fisher_input_ if self._axis == "input" else fisher_output_
        for sums, span in spans:
            add(
                sums,
                x[span.rows],
                g[span.rows],
                span.cu_seqlens,
                seqused=span.seqused,
                max_seqlen=span.max_seqlen,
                token_gram=None if gram is None else gram[..., span.rows, :],
                **options,
            )
