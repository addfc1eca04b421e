"""Which rows of a tensor belong to which sample: padded batches, and rows routed to an expert.

And what the matrices that read one tensor share of it.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hcnr.errors import ModelError
from hcnr_kernels import token_gram
from hcnr_kernels.chunks import round_up


class RowsError(ModelError):
    """The rows of a layer cannot be attributed to the samples of a batch of several."""

    def __init__(self, name: str, found: str, batch: str, cure: str | None = None) -> None:
        """Name a layer, the rows that it handles, and what the batch has.

        Args:
            name: of the matrix.
            found: its rows in words.
            batch: the batch in words.
            cure: what follows `--ignore`; the name when None.
        """
        self.name, self.found, self.batch = name, found, batch
        super().__init__(
            f"{name} handles {found} while the batch has {batch}: its rows cannot be attributed "
            "to samples; measure every sample alone with --token-budget 1, or leave it out with "
            f"--ignore '{cure or name}'"
        )


class TokenLayout:
    """Where the real tokens of a padded batch stand, and which sample owns them.

    Tensors `[B, T, d]` are read as rows `[R, d]`, see `rows`: sample b owns those from
    `cu_seqlens[b]` on, `seqused[b]` of them, or up to `cu_seqlens[b + 1]` where `seqused` is None.

    Attributes:
        cu_seqlens: int32 `[B + 1]`.
        seqused: int32 `[B]`, or None.
        samples: B.
        tokens: number of real tokens n.
        max_seqlen: tokens of the longest sample.
        mean_seqlen: `sum T_b^2 / sum T_b`, the length that decides the cost per token.
        shape: `(B, T)`.
        mask: bool `[B, T]`, true at real tokens.
    """

    def __init__(self, mask: Tensor) -> None:
        """Read the layout off `mask`, `[B, T]`, non-zero at real tokens, wherever they are."""
        real = mask != 0
        lengths = real.sum(1)
        first = (real.cumsum(1) == 0).sum(1)
        behind = first + lengths
        positions = torch.arange(mask.shape[1], device=mask.device)
        span = (positions >= first[:, None]) & (positions < behind[:, None])
        one_piece = (span == real).all(1)
        on_host, pieces = torch.stack((lengths, one_piece.long())).tolist()
        self.samples = mask.shape[0]
        self.tokens = sum(on_host)
        self.max_seqlen = max(on_host, default=0)
        self.mean_seqlen = sum(t * t for t in on_host) / max(self.tokens, 1)
        self.shape = tuple(mask.shape)
        self.mask = real
        self._padded = self.tokens < mask.numel()
        self._gathered = not all(pieces)
        self.seqused: Tensor | None = None
        if self._gathered:
            starts = lengths.cumsum(0) - lengths
            end = self.tokens
        else:
            starts = torch.arange(self.samples, device=mask.device) * mask.shape[1] + first
            end = mask.numel()
            if self._padded:
                self.seqused = lengths.to(torch.int32)
        self.cu_seqlens = nn.functional.pad(starts, (0, 1), value=end).to(torch.int32)

    @classmethod
    def dense(cls, x: Tensor, samples: int | None, name: str) -> "TokenLayout":
        """Layout without padding for the input `x` `[..., d]` of layer `name`.

        Raises:
            ModelError: the rows of `x` are no multiple of the batch size.
        """
        rows = x.numel() // max(x.shape[-1], 1)
        if samples is None:
            samples = x.shape[0] if x.dim() > 1 else 1
        if samples == 0 or rows % samples:
            raise RowsError(name, f"{rows} rows", f"{samples} samples")
        # Made on the host: nothing is asked of a GPU for it.
        layout = cls(torch.ones(samples, rows // samples, dtype=torch.bool))
        layout.cu_seqlens = layout.cu_seqlens.to(x.device)
        return layout

    def fitting(self, x: Tensor, name: str) -> "TokenLayout":
        """This layout, or that of another number of rows where they can but be one sample's.

        Models put tokens of their own before a prompt (CPM-Ant) or stack several streams of one
        (ProphetNet): of a sample that is alone, without padding, all rows are its own.

        Args:
            x: what a layer reads, `[..., d]`.
            name: of its matrix, for messages.
        """
        rows = x.numel() // max(x.shape[-1], 1)
        if rows == self.shape[0] * self.shape[1] or self.samples != 1 or self._padded:
            return self
        return TokenLayout.dense(x, 1, name)

    @functools.cached_property
    def _real(self) -> Tensor:
        """Places of the real tokens among all `B * T`."""
        return self.mask.flatten().nonzero().squeeze(1)

    def rows(self, tensor: Tensor, name: str) -> Tensor:
        """Return `tensor` `[B, T, d]` (or `[B * T, d]`) as the rows that the offsets speak of.

        A view, padding included, as long as the tokens of each sample stand together; otherwise a
        copy of the real rows. Raises ModelError when the leading dimensions are not those of the
        batch, as for routed experts, whose rows belong to no sample in order.
        """
        flat = tensor.reshape(-1, tensor.shape[-1])
        if flat.shape[0] != self.shape[0] * self.shape[1]:
            batch = f"{self.shape[0]} x {self.shape[1]} tokens"
            raise RowsError(name, f"{flat.shape[0]} rows", batch)
        return flat.index_select(0, self._real) if self._gathered else flat

    def real(self, rows: Tensor) -> Tensor:
        """Return the real tokens among `rows`, `[n, d]`; a copy where there is padding."""
        return rows.index_select(0, self._real) if self._padded and not self._gathered else rows

    def owners(self) -> Tensor:
        """Sample of each real token, int64 `[tokens]`, ascending."""
        return _owners(self.cu_seqlens, self.seqused)


class RoutedLayout:
    """Where the real tokens stand among the rows that a mixture routes to one expert.

    The expert's rows are some of a batch's, in the batch's order, so that each sample's stand
    together. Attributes and methods are those of `TokenLayout`; padding is never among `rows`.
    """

    def __init__(self, whole: TokenLayout, tokens: Tensor, total: int, name: str) -> None:
        """Find the samples of routed rows.

        Args:
            whole: layout of the batch `[B, T]`.
            tokens: places of the expert's rows among the `B * T`, int64 `[n]`, ascending.
            total: rows of the mixture's input.
            name: of the matrix, for messages.

        Raises:
            ModelError: the mixture does not read the batch row by row.
        """
        samples, length = whole.shape
        if total != samples * length:
            raise RowsError(name, f"{total} rows", f"{samples} x {length} tokens")
        self._read = len(tokens)
        self._kept = whole.mask.to(tokens.device).flatten()[tokens].nonzero().squeeze(1)
        owners = tokens[self._kept] // max(length, 1)
        lengths = torch.bincount(owners, minlength=samples)
        self.cu_seqlens = nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        self.seqused: Tensor | None = None
        self.samples = samples
        on_host = lengths.tolist()
        self.tokens = sum(on_host)
        self.max_seqlen = max(on_host, default=0)
        self.mean_seqlen = sum(t * t for t in on_host) / max(self.tokens, 1)

    def rows(self, tensor: Tensor, name: str) -> Tensor:
        """Return the real rows `[tokens, d]` of what the expert reads or writes."""
        flat = tensor.reshape(-1, tensor.shape[-1])
        if flat.shape[0] != self._read:
            raise ModelError(
                f"{name} handles {flat.shape[0]} rows, and {self._read} were routed to it; leave "
                f"it out with --ignore '{name}'"
            )
        return flat.index_select(0, self._kept)

    def real(self, rows: Tensor) -> Tensor:
        """Return `rows`, which hold no padding."""
        return rows

    def owners(self) -> Tensor:
        """Sample of each real token, int64 `[tokens]`, ascending."""
        return _owners(self.cu_seqlens, self.seqused)


def _owners(cu_seqlens: Tensor, seqused: Tensor | None) -> Tensor:
    lengths = cu_seqlens.diff() if seqused is None else seqused
    samples = torch.arange(len(lengths), device=lengths.device)
    return samples.repeat_interleave(lengths.long())


class Joined(NamedTuple):
    """Rows of several uses of a matrix in one forward pass, sample after sample.

    Attributes:
        x: inputs `[n, in]`.
        g: output gradients `[n, out]`.
        cu_seqlens: int32 `[B + 1]`.
        max_seqlen: rows of the longest sample, all its uses together.
    """

    x: Tensor
    g: Tensor
    cu_seqlens: Tensor
    max_seqlen: int


class Use(NamedTuple):
    """What a matrix read and what its output's gradient was, in one of its uses."""

    layout: TokenLayout | RoutedLayout
    x: Tensor
    g: Tensor


def joined(uses: Sequence[Use]) -> Joined:
    """Put the rows of several uses together, padding left out.

    A weight's gradient of a sample is the sum over its uses: that of one product over all rows.
    """
    owners = torch.cat([use.layout.owners() for use in uses])
    order = owners.argsort(stable=True)
    x, g = (
        torch.cat([use.layout.real(rows) for use, rows in zip(uses, part, strict=True)])[order]
        for part in ([use.x for use in uses], [use.g for use in uses])
    )
    lengths = torch.bincount(owners, minlength=uses[0].layout.samples)
    offsets = nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    return Joined(x, g, offsets, max(lengths.tolist(), default=0))


class SharedInput:
    """What the matrices that read one tensor share: its rows and their token Gram."""

    def __init__(
        self,
        layout: TokenLayout | RoutedLayout,
        leader: str,
        forward: int,
        uses: Mapping[str, int],
    ) -> None:
        """Start a group for the tensor that matrix `leader` reads first in a forward pass.

        `uses` counts how often each matrix is used in it, and is complete at its end.
        """
        self.layout = layout
        self.leader = leader
        self.forward = forward
        self.uses = uses
        self.users = 0
        self._served = 0
        self._rows: Tensor | None = None
        self._gram: Tensor | None = None

    @property
    def has_gram(self) -> bool:
        """Whether the token Gram has been paid for already."""
        return self._gram is not None

    def rows(self, x: Tensor, name: str) -> Tensor:
        """Rows `[R, in]` of the shared tensor; `x` is read on the first call only."""
        if self._rows is None:
            self._rows = self.layout.rows(x, name)
        return self._rows

    def gram(self, rows: Tensor) -> Tensor:
        """Token Grams `X_b X_b^T` of the shared tensor, float32 `[R, L]`, built once."""
        if self._gram is None:
            layout = self.layout
            self._gram = token_gram(
                rows,
                layout.cu_seqlens,
                # Whole vectors a row: what reads the Gram is faster for it.
                max_seqlen=round_up(layout.max_seqlen, 16),
                seqused=layout.seqused,
            )
        return self._gram

    def served(self) -> None:
        """Note that one of the users is done; the last one frees what was shared."""
        self._served += 1
        if self._served == self.users:
            self._rows = self._gram = None
