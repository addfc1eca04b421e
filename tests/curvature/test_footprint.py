"""The dry run of a micro-batch holds what a real one holds."""

import copy

import pytest
import torch
from torch import nn

from families import make
from hcnr.curvature.footprint import Live, footprint
from hcnr.curvature.layouts import TokenLayout
from hcnr.curvature.passes import prepared
from hcnr.curvature.taps import Taps
from hcnr.models.linear import Expert
from hcnr.models.targets import target_matrices

SAMPLES, TOKENS, RESPONSES = 3, 8, 4


def on_meta(model):
    return copy.deepcopy(model).to("meta")


def really(model, matrices, backward, recompute=False):
    """The same pass on real tensors, counted by the same counter."""
    ids = torch.arange(SAMPLES * TOKENS).view(SAMPLES, TOKENS) % 5
    layout = TokenLayout(torch.ones_like(ids))
    with (
        prepared(model, gradient_checkpointing=recompute),
        Live(model) as live,
        Taps(matrices, on_gradient=lambda *_: None) as taps,
    ):
        taps.begin(layout)
        with torch.set_grad_enabled(backward):
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=RESPONSES).logits
            rows = logits[:, -RESPONSES:].flatten(0, 1).float()
            del logits
            labels = torch.zeros(SAMPLES * RESPONSES, dtype=torch.int64)
            loss = nn.functional.cross_entropy(rows, labels, reduction="none").sum()
            del rows
        if backward:
            loss.backward()
    return live.most


def dry(model, **settings):
    skeleton = on_meta(model)
    found = footprint(
        skeleton, target_matrices(skeleton), samples=SAMPLES, tokens=TOKENS,
        responses=RESPONSES, **{"dtype": model.dtype, **settings},
    )  # fmt: skip
    assert all(value.device.type == "meta" for value in skeleton.parameters())
    assert not any("forward" in vars(module) for module in skeleton.modules())
    return found


@pytest.mark.parametrize(("recompute", "within"), [(False, 0.1), (True, 0.4)])
@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3", "gpt2"])
def test_a_dry_run_holds_what_a_run_holds(family, recompute, within):
    model = make(family)
    found = dry(model, gradient_checkpointing=recompute)
    matrices = target_matrices(model)
    for backward, counted in ((False, found.forward), (True, found.backward)):
        assert counted == pytest.approx(really(model, matrices, backward, recompute), rel=within)


def test_what_decides_memory_is_counted():
    model = make("llama")
    plain, recomputed = dry(model), dry(model, gradient_checkpointing=True)
    assert recomputed.backward < plain.backward and recomputed.forward == plain.forward
    half = dry(model, dtype=torch.bfloat16)
    assert 0.5 * plain.backward < half.backward < 0.8 * plain.backward
    eager = dry(model, attention="eager")
    assert eager.backward > plain.backward


def test_a_mixture_holds_the_rows_that_all_experts_take():
    model = make("mixtral")
    matrices = target_matrices(model)
    assert any(isinstance(layer, Expert) for layer in matrices.values())
    assert dry(model).backward == pytest.approx(really(model, matrices, True), rel=0.1)
