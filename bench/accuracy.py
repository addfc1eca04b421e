"""How exact the scores are with bf16 inputs, and whether the selection that follows changes."""

from functools import partial

import torch
from torch import Tensor

import hcnr_kernels as hk
from bench.fisher import Tokens, exact, tokens
from bench.goals import Record, judged
from hcnr_kernels.ops.fisher.forms import Form

RELATIVE, OVERLAP = 3e-4, 0.999


def priority(honesty: Tensor, task: Tensor) -> Tensor:
    """Method.md (3), in float64."""
    honesty, task = honesty.double(), task.double()
    return honesty * (honesty / task).log()


def overlap(computed: Tensor, wanted: Tensor) -> float:
    """Share of the upper half of `wanted` that is in the upper half of `found`."""
    half = len(wanted) // 2
    chosen = torch.isin(wanted.topk(half).indices, computed.topk(half).indices)
    return float(chosen.double().mean())


def accuracy(device: torch.device, *, small: bool) -> list[Record]:
    """Scores of one 4096 x 4096 matrix on two sets of eight samples, against float64.

    The neurons of both sets have the same scales, so that many priorities lie close together.
    """
    sizes = (4, 32, 64, 96) if small else (8, 256, 4096, 4096)
    data = [tokens(device, *sizes, seed=seed) for seed in (80, 90)]
    data[1] = data[1]._replace(g=_rescaled(data[1].g, like=data[0].g))
    records = []
    predictions: dict[Form, float] = {"gram": 3e-6, "direct": 1e-6}
    for form, prediction in predictions.items():
        scores = [_scores(one, form) for one in data]
        wanted = [exact(one).output for one in data]
        worst = max(
            float((one / two - 1).abs().max()) for one, two in zip(scores, wanted, strict=True)
        )
        kept = overlap(priority(*scores), priority(*wanted))
        say = partial(dict, title=f"accuracy, {form} form", shape=data[0].shape, dtype="bfloat16")
        records += [
            say(goal=judged("worst relative error", worst, RELATIVE, prediction, at_most=True)),
            say(goal=judged("selection kept of float64's", kept, OVERLAP, 1.0)),
        ]
    return records


def _scores(data: Tokens, form: Form) -> Tensor:
    scores = torch.zeros(data.g.shape[1], device=data.x.device)
    return hk.fisher_output_(
        scores, data.x, data.g, data.cu_seqlens, form=form, max_seqlen=data.length
    ).double()


def _rescaled(g: Tensor, *, like: Tensor) -> Tensor:
    scale = like.float().square().mean(0).sqrt() / g.float().square().mean(0).sqrt()
    return (g.float() * scale).bfloat16()
