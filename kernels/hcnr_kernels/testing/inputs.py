"""Seeded inputs of every operator, small and awkward, for tests.

No two dimensions of an input agree, so an exchanged axis cannot go unnoticed.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.testing.tensors import (
    RAGGED,
    alternate,
    curvature,
    packed,
    padded,
    randn,
    weights,
)


class Sample(NamedTuple):
    """Arguments of one public call, and what is special about them."""

    label: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def _fisher(device: str, dtype: torch.dtype, axis: str) -> list[Sample]:
    cases: list[Sample] = []
    for label, lengths, in_features, out_features in (
        ("ragged", RAGGED, 129, 63),
        ("single", (1,), 1, 1),
        ("long", (130, 65), 17, 33),
        ("no samples", (), 5, 3),
        ("no tokens", (0, 0), 5, 3),
    ):
        x, g, cu_seqlens = packed(lengths, in_features, out_features, device, dtype)
        width = out_features if axis == "output" else in_features
        scores = randn(width, device=device, dtype=torch.float32, seed=3).abs()
        for form in ("auto", "gram", "direct"):
            cases.append(
                Sample(f"{label}, {form}", (scores.clone(), x, g, cu_seqlens), {"form": form})
            )
    x, g, cu_seqlens = packed(RAGGED, 34, 21, device, dtype)
    strided_x, strided_g = x[:, ::2], torch.cat([g, g], 1)[:, 5:26]
    width = 21 if axis == "output" else 17
    scores = torch.zeros(width, device=device)
    other = (strided_x if axis == "output" else strided_g).float()
    grams = torch.zeros(len(x), max(RAGGED) + 2, device=device)
    triangles = torch.zeros_like(grams)
    for start, tokens in zip(cu_seqlens.tolist(), RAGGED, strict=False):
        rows, part = slice(start, start + tokens), other[start : start + tokens]
        grams[rows, :tokens] = part @ part.T
        triangles[rows, :tokens] = grams[rows, :tokens].tril() + grams[rows, :tokens].tril(-1)
    args = (scores, strided_x, strided_g, cu_seqlens)
    cases.append(Sample("strided", args, {}))
    cases.append(Sample("transposed", (scores.clone(), *_transposed(*args[1:3]), cu_seqlens), {}))
    cases.append(Sample("shared Gram", (scores.clone(), *args[1:]), {"token_gram": grams}))
    if dtype == torch.bfloat16:
        high = triangles.bfloat16()
        planes = torch.stack([high, (triangles - high.float()).bfloat16()])
        cases.append(Sample("two planes", (scores.clone(), *args[1:]), {"token_gram": planes}))
    x, g, cu_seqlens, used = padded(RAGGED, 34, 21, device, dtype)
    width = 21 if axis == "output" else 34
    for form in ("auto", "gram", "direct"):
        args = (torch.zeros(width, device=device), x, g, cu_seqlens)
        kwargs = {"form": form, "seqused": used, "max_seqlen": max(RAGGED)}
        cases.append(Sample(f"padded, {form}", args, kwargs))
    return cases


def _transposed(*matrices: Tensor) -> list[Tensor]:
    """The same matrices, stored by columns."""
    return [matrix.T.contiguous().T for matrix in matrices]


def fisher_output(device: str, dtype: torch.dtype) -> list[Sample]:
    """Inputs of `fisher_output_`."""
    return _fisher(device, dtype, "output")


def fisher_input(device: str, dtype: torch.dtype) -> list[Sample]:
    """Inputs of `fisher_input_`."""
    return _fisher(device, dtype, "input")


def _direct(device: str, dtype: torch.dtype) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Label, (x, g, cu_seqlens) and keywords of what has one form only."""
    cases: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        (label, packed(lengths, in_features, out_features, device, dtype), {})
        for label, lengths, in_features, out_features in (
            ("ragged", RAGGED, 129, 63),
            ("single", (1,), 1, 1),
            ("no samples", (), 5, 3),
        )
    ]
    *tensors, used = padded(RAGGED, 34, 21, device, dtype)
    return [*cases, ("padded", tuple(tensors), {"seqused": used})]


def fisher_both(device: str, dtype: torch.dtype) -> list[Sample]:
    """Inputs of `fisher_both_`."""
    return [
        Sample(
            label,
            (
                torch.ones(args[1].shape[1], device=device),
                torch.ones(args[0].shape[1], device=device),
                *args,
            ),
            kwargs,
        )
        for label, args, kwargs in _direct(device, dtype)
    ]


def fisher_weight(device: str, dtype: torch.dtype) -> list[Sample]:
    """Inputs of `fisher_weight_`."""
    return [
        Sample(
            label,
            (torch.ones(args[1].shape[1], args[0].shape[1], device=device), *args),
            kwargs,
        )
        for label, args, kwargs in _direct(device, dtype)
    ]


def token_gram(device: str, dtype: torch.dtype) -> list[Sample]:
    """Inputs of `token_gram`."""
    ragged, _, bounds = packed(RAGGED, 129, 1, device, dtype)
    long, _, long_bounds = packed((130, 65), 17, 1, device, dtype)
    empty, _, no_bounds = packed((), 3, 1, device, dtype)
    spread, _, spread_bounds, used = padded(RAGGED, 34, 1, device, dtype)
    return [
        Sample("ragged", (ragged, bounds), {"max_seqlen": 63}),
        Sample("roomy", (long, long_bounds), {"max_seqlen": 133}),
        Sample("strided", (ragged[:, ::3], bounds), {"max_seqlen": 64}),
        Sample("no samples", (empty, no_bounds), {"max_seqlen": 2}),
        Sample("padded", (spread, spread_bounds), {"max_seqlen": 65, "seqused": used}),
    ]


def _lower(width: int, device: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return randn(width, width, device=device, dtype=dtype, seed=4).tril()


def gram(device: str, dtype: torch.dtype) -> list[Sample]:
    """Inputs of `gram_`; the widest one takes several tiles."""
    source = randn(40, 2 * 301, device=device, dtype=dtype, seed=1)
    return [
        Sample("tiles", (_lower(301, device), source[:, :301]), {}),
        Sample("strided", (_lower(301, device), source[:, ::2]), {}),
        Sample("one", (_lower(1, device), source[:1, :1]), {}),
        Sample("no tokens", (_lower(17, device), source.new_empty(0, 17)), {}),
    ]


def symmetrize(device: str, dtype: torch.dtype) -> list[Sample]:
    """Inputs of `symmetrize_`."""
    return [
        Sample(str(width), (randn(width, width, device=device, dtype=dtype),), {})
        for width in (1, 63, 301)
    ]


def perturbation(device: str, dtype: torch.dtype) -> list[Sample]:
    """Inputs of `perturbation`."""
    base, tuned = weights(63, 130, device, dtype)
    cases: list[Sample] = []
    for axis, width in (("output", 63), ("input", 130)):
        half = alternate(width, device)
        for label, mask in (("half", half), ("none", half & False), ("all", half | True)):
            cases.append(Sample(f"{axis}, {label}", (base, tuned, mask), {"axis": axis}))
        several = torch.stack([half, half | True, ~half])
        cases.append(Sample(f"{axis}, three masks", (base, tuned, several), {"axis": axis}))
    strided = (base.T[:, ::2], tuned.T[:, ::2], alternate(130, device))
    return [*cases, Sample("strided", strided, {"axis": "output"})]


def inverse_hessian(device: str, dtype: torch.dtype) -> list[Sample]:
    """Inputs of `inverse_hessian`: batches, blocks, dead neurons, failures."""
    dead = curvature(17, device=device, dtype=dtype)
    dead[5], dead[:, 5] = 0, 0
    negative = curvature(9, device=device, dtype=dtype)
    negative[6, 6] = -0.03 * negative.diagonal().mean()
    broken = curvature(9, device=device, dtype=dtype)
    broken[2, 1] = torch.nan
    hopeless = -torch.eye(9, device=device, dtype=dtype)
    plain = curvature(63, device=device, dtype=dtype)
    batch = torch.stack([curvature(9, device=device, dtype=dtype), negative, broken, hopeless])
    return [
        Sample("plain", (plain,), {}),
        Sample("blocks", (plain,), {"block_size": 17}),
        Sample("dead neuron", (dead,), {"damping": 0.0}),
        Sample("all dead", (torch.zeros_like(dead),), {}),
        Sample("one", (plain[:1, :1],), {"damping": 0.5}),
        Sample("mixed batch", (batch[:, None],), {"check": False}),
        Sample("mixed blocks", (batch,), {"check": False, "block_size": 4}),
    ]


def compensation(device: str, dtype: torch.dtype) -> list[Sample]:
    """Inputs of `compensation_ex`: kinds x axes x blocks, and the empty and full masks."""
    cases: list[Sample] = []
    for axis, shape in (("input", (11, 30)), ("output", (30, 11))):
        delta = randn(*shape, device=device, dtype=dtype, seed=7)
        honest = curvature(30, device=device, dtype=dtype, seed=10)
        task = curvature(30, device=device, dtype=dtype, seed=20)
        half = alternate(30, device)
        for kind in ("none", "sum", "joint", "balanced"):
            both = {"axis": axis, "kind": kind}
            if kind == "balanced":
                both |= {"task_hessian": task, "task_weight": 0.7}
            cases.append(Sample(f"{axis} {kind}", (delta, half, honest), both))
            blocks = both | {"block_size": 8}
            cases.append(Sample(f"{axis} {kind} blocks", (delta, half, honest), blocks))
            for label, mask in (("nothing", half & False), ("everything", half | True)):
                cases.append(Sample(f"{axis} {kind} {label}", (delta, mask, honest), both))
    return cases


def objective(device: str, dtype: torch.dtype) -> list[Sample]:
    """Inputs of `objective`."""
    hessian = curvature(30, device=device, dtype=dtype)
    deviation = randn(30, 11, device=device, dtype=dtype)
    return [
        Sample("output", (deviation, hessian), {"axis": "output"}),
        Sample("input", (deviation.T, hessian), {"axis": "input"}),
        Sample("one", (deviation[:1, :1], hessian[:1, :1]), {"axis": "input"}),
    ]


def objectives(device: str, dtype: torch.dtype) -> list[Sample]:
    """Inputs of `objectives`."""
    hessian = curvature(150, device=device, dtype=dtype)
    deviation = randn(150, 67, device=device, dtype=dtype)
    mask = alternate(150, device)
    everything = torch.ones_like(mask)
    strided = randn(300, 33, device=device, dtype=dtype, seed=9)[::2]
    return [
        Sample("output", (deviation, mask, hessian), {"axis": "output"}),
        Sample("input", (deviation.T, mask, hessian), {"axis": "input"}),
        Sample("strided", (strided, mask, hessian), {"axis": "output"}),
        Sample("everything", (deviation, everything, hessian), {"axis": "output"}),
        Sample("nothing", (deviation, ~everything, hessian), {"axis": "output"}),
        Sample("one", (deviation[:1, :1], ~mask[:1], hessian[:1, :1]), {"axis": "input"}),
        Sample("no lines", (deviation[:, :0], mask, hessian), {"axis": "output"}),
    ]


def merge(device: str, dtype: torch.dtype) -> list[Sample]:
    """Inputs of `merge`."""
    base, tuned = weights(63, 130, device, dtype)
    deviation = randn(63, 130, device=device, dtype=torch.float32, seed=8)
    return [
        Sample(
            f"{axis}, {'base' if extra is None else 'deviation'}, {target}",
            (base, tuned, alternate(width, device), extra),
            {"axis": axis, "dtype": target},
        )
        for axis, width in (("output", 63), ("input", 130))
        for extra in (None, deviation)
        for target in {dtype: 0, torch.bfloat16: 0}
    ]
