"""Which rows the taps hand out, and how long they keep what they hold."""

import itertools
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import hcnr.curvature.fisher
from hcnr import NeuronFisher
from hcnr.curvature.layouts import TokenLayout


def rows_of(layout: TokenLayout, rows: torch.Tensor) -> list[torch.Tensor]:
    """The rows of every sample, as a reader of the offsets would take them."""
    starts = layout.cu_seqlens.tolist()
    if layout.seqused is None:
        return [rows[a:b] for a, b in itertools.pairwise(starts)]
    used = layout.seqused.tolist()
    return [rows[a : a + n] for a, n in zip(starts[:-1], used, strict=True)]


MASKS = {
    "none": [[1, 1, 1], [1, 1, 1]],
    "right": [[1, 1, 0], [1, 0, 0]],
    "left": [[0, 1, 1], [0, 0, 1]],
    "both sides": [[0, 1, 0], [1, 1, 0]],
    "a sample of nothing": [[0, 0, 0], [0, 1, 1], [0, 0, 0]],
    "holes": [[1, 0, 1], [1, 1, 0]],
    "no tokens": [[], []],
}


@pytest.mark.parametrize("name", MASKS)
def test_every_real_token_belongs_to_its_sample(name: str) -> None:
    mask = torch.tensor(MASKS[name], dtype=torch.long)
    tensor = torch.arange(mask.numel() * 2).view(*mask.shape, 2)
    layout = TokenLayout(mask)
    rows = layout.rows(tensor, "w")
    for found, tokens, real in zip(rows_of(layout, rows), tensor, mask.bool(), strict=True):
        assert torch.equal(found, tokens[real])
    assert torch.equal(layout.real(rows), tensor[mask.bool()])
    assert layout.tokens == int(mask.sum())
    assert layout.max_seqlen == int(mask.sum(1).max())
    offsets = layout.cu_seqlens.tolist()
    assert offsets == sorted(offsets) and offsets[-1] == len(rows)


@pytest.mark.parametrize("name", [name for name in MASKS if name not in ("holes", "no tokens")])
def test_padding_is_not_copied_away(name: str) -> None:
    mask = torch.tensor(MASKS[name])
    tensor = torch.zeros(*mask.shape, 2)
    assert TokenLayout(mask).rows(tensor, "w").data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_inputs_are_released_block_by_block(
    axis, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a block's turn comes in backward, no later block's input is alive any more."""
    depth, width = 5, 6
    layers = [nn.Linear(width, width) for _ in range(depth)]
    blocks = nn.ModuleList(nn.Sequential(layer, nn.Tanh()) for layer in layers)
    inputs: list[tuple[int, weakref.ref[torch.Tensor]]] = []
    for place, layer in enumerate(layers):
        layer.register_forward_hook(
            lambda _, args, __, place=place: inputs.append((place, weakref.ref(args[0])))
        )
    alive_at: list[tuple[int, set[int]]] = []
    turn = iter(reversed(range(depth)))

    def spy(original):
        def run(*args, **kwargs):
            alive = {place for place, reference in inputs if reference() is not None}
            alive_at.append((next(turn), alive))
            return original(*args, **kwargs)

        return run

    for name in ("fisher_output_", "fisher_input_"):
        original = getattr(hcnr.curvature.fisher, name)
        monkeypatch.setattr(hcnr.curvature.fisher, name, spy(original))

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = blocks

        def forward(self, x):
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False) if checkpointing else block(x)
            return x

    with NeuronFisher(Stack(), axis=axis) as fisher:
        x = torch.randn(3, width).requires_grad_()
        fisher._model(x).square().sum().backward()
    assert [place for place, _ in alive_at] == list(reversed(range(depth)))
    for place, alive in alive_at:
        assert max(alive) <= place, (place, alive)


@pytest.mark.parametrize("axis", ["output", "input"])
def test_the_operators_need_not_read_a_length(axis, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that would be one wait for every matrix."""
    seen = []
    for name in ("fisher_output_", "fisher_input_"):
        monkeypatch.setattr(hcnr.curvature.fisher, name, lambda *_, **options: seen.append(options))
    for shape in ((2, 3, 6), (2, 60, 6)):  # the Gram form is cheaper, the direct form is
        model = nn.Sequential(nn.Linear(6, 6))
        with NeuronFisher(model, axis=axis):
            model(torch.randn(shape)).sum().backward()
    assert len(seen) == 2
    for options in seen:
        known = options.get("token_gram") is not None or options.get("max_seqlen") is not None
        assert known or options["form"] == "direct"


def test_no_padding_needs_no_lengths() -> None:
    assert TokenLayout(torch.ones(2, 3)).seqused is None


def test_recomputed_layers_share_among_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that reads its block's input meets the same tensor again when it is recomputed."""
    users = []

    def spy(self, name, shared, x, g):
        users.append(shared.users)

    monkeypatch.setattr(NeuronFisher, "_consume", spy)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return checkpoint(lambda x: self.left(x) + self.right(x), x, use_reentrant=False)

    with NeuronFisher(model := Block()):
        model(torch.randn(2, 4).requires_grad_()).sum().backward()
    assert users == [2, 2]
