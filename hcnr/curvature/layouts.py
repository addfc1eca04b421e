"""Which rows of a tensor are which sample's, and what matrices that read one tensor share."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hcnr.errors import ModelError
from hcnr_kernels import split_token_gram, token_gram
from hcnr_kernels.chunks import round_up


class RowsError(ModelError):
    """The rows of a layer cannot be attributed to the samples of a batch of several."""

    def __init__(self, name: str, rows: str, batch: str, cure: str | None = None) -> None:
        """Name a layer, the rows that it handles, and what the batch has.

        Args:
            name: of the matrix.
            rows: that it handles, in words.
            batch: the batch in words.
            cure: what follows `--ignore`; the name when None.
        """
        self.name, self.rows, self.batch = name, rows, batch
        super().__init__(
            f"{name} handles {rows} while the batch has {batch}: its rows cannot be attributed "
            "to samples; measure every sample alone with --token-budget 1, or leave it out with "
            f"--ignore '{cure or name}'"
        )


class Span(NamedTuple):
    """Rows of samples that follow each other, with what the operators must know of them.

    Attributes:
        rows: where they stand among those of the batch.
        cu_seqlens: int32 `[B + 1]`, counted from the first of these rows.
        seqused: int32 `[B]`, or None.
        max_seqlen: tokens of the longest sample.
    """

    rows: slice
    cu_seqlens: Tensor
    seqused: Tensor | None
    max_seqlen: int

    @classmethod
    def between(
        cls, rows: slice, samples: slice, offsets: Tensor, used: Tensor | None, lengths: list[int]
    ) -> "Span":
        """The span of some samples of a batch, from the batch's offsets and lengths."""
        bounds = offsets[samples.start : samples.stop + 1] - rows.start
        # Behind the last one's rows is padding, if anything.
        bounds = bounds.clamp(max=rows.stop - rows.start)
        longest = max(lengths[samples], default=0)
        return cls(rows, bounds, None if used is None else used[samples], longest)


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
        self._lengths: list[int] = on_host
        self._spans: dict[tuple[int, int], Span] = {}
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

    def span(self, first: int, last: int) -> Span:
        """The rows of samples `first` to `last`, that one left out."""
        if (first, last) not in self._spans:
            width = self.shape[1]
            rows = slice(first * width, last * width)
            if self._gathered:
                rows = slice(sum(self._lengths[:first]), sum(self._lengths[:last]))
            self._spans[first, last] = Span.between(
                rows, slice(first, last), self.cu_seqlens, self.seqused, self._lengths
            )
        return self._spans[first, last]

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
        self._lengths: list[int] = lengths.tolist()
        self.tokens = sum(self._lengths)
        self.max_seqlen = max(self._lengths, default=0)
        self.mean_seqlen = sum(t * t for t in self._lengths) / max(self.tokens, 1)

    def span(self, first: int, last: int) -> Span:
        """The rows of samples `first` to `last`, that one left out."""
        rows = slice(sum(self._lengths[:first]), sum(self._lengths[:last]))
        return Span.between(rows, slice(first, last), self.cu_seqlens, None, self._lengths)

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


def token_grams(layout: TokenLayout | RoutedLayout, rows: Tensor, *, split: bool) -> Tensor:
    """Token Grams of rows `[R, d]`: float32 `[R, L]`, or, `split`, bfloat16 planes `[2, R, L]`."""
    form = split_token_gram if split else token_gram
    # Whole vectors a row: what reads the Gram is faster for it.
    room = round_up(layout.max_seqlen, 16)
    return form(rows, layout.cu_seqlens, max_seqlen=room, seqused=layout.seqused)


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
        self._grams: dict[bool, Tensor] = {}

    @property
    def has_gram(self) -> bool:
        """Whether the token Gram has been paid for already."""
        return bool(self._grams)

    def rows(self, x: Tensor, name: str) -> Tensor:
        """Rows `[R, in]` of the shared tensor; `x` is read on the first call only."""
        if self._rows is None:
            self._rows = self.layout.rows(x, name)
        return self._rows

    def gram(self, rows: Tensor, *, split: bool = False) -> Tensor:
        """`token_grams` of the shared tensor's rows `[R, in]`, built once."""
        if split not in self._grams:
            self._grams[split] = token_grams(self.layout, rows, split=split)
        return self._grams[split]

    def served(self) -> None:
        """Note that one of the users is done; the last one frees what was shared."""
        self._served += 1
        if self._served == self.users:
            self._rows = None
            self._grams.clear()
