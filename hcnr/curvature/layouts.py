"""Which rows of a tensor belong to which sample: padded batches, and rows routed to an expert."""

import functools

import torch
from torch import Tensor, nn

from hcnr.errors import ModelError


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
            raise ModelError(
                f"{name} handles {rows} rows for a batch of {samples} samples: its rows cannot be "
                f"attributed to samples; leave it out with --ignore '{name}'"
            )
        # Made on the host: nothing is asked of a GPU for it.
        layout = cls(torch.ones(samples, rows // samples, dtype=torch.bool))
        layout.cu_seqlens = layout.cu_seqlens.to(x.device)
        return layout

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
            raise ModelError(
                f"{name} handles {flat.shape[0]} rows while the batch has "
                f"{self.shape[0]} x {self.shape[1]} tokens: its rows cannot be attributed to "
                f"samples; leave it out with --ignore '{name}'"
            )
        return flat.index_select(0, self._real) if self._gathered else flat

    def real(self, rows: Tensor) -> Tensor:
        """Return the real tokens among `rows`, `[n, d]`; a copy where there is padding."""
        return rows.index_select(0, self._real) if self._padded and not self._gathered else rows


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
            raise ModelError(
                f"{name} handles {total} rows while the batch has {samples} x {length} tokens: its "
                f"rows cannot be attributed to samples; leave it out with --ignore '{name}'"
            )
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
