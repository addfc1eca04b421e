"""How far two halves of the samples choose the same neurons and matrices."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import hcnr
from experiments.paper_figures.grids import MATRIX_SHARES, NEURON_SHARES, PRIORITIES
from experiments.trial.candidate_specs import Priority
from hcnr.repair.selection import Selection, count_of, most_perturbed, select_neurons

Weight = Callable[[str], Tensor]


def half_of(statistics: hcnr.Statistics, half: int) -> hcnr.Statistics:
    """The scores of one half of the samples, 0 or 1, as statistics of their own."""
    return dataclasses.replace(
        statistics,
        scores={
            data: {name: scores[half] for name, scores in by_matrix.items()}
            for data, by_matrix in statistics.halves.items()
        },
        halves={},
    )


def agreement(first: Sequence[str], second: Sequence[str]) -> float:
    """Share of the first that the second has too; 1 where the first is empty."""
    return len(set(first) & set(second)) / len(first) if first else 1.0


def overlaps(
    statistics: hcnr.Statistics,
    base: Weight,
    tuned: Weight,
    neuron_shares: Sequence[float] = tuple(sorted(NEURON_SHARES)),
    matrix_shares: Sequence[float] = MATRIX_SHARES,
) -> list[dict[str, Any]]:
    """Overlap at every share of neurons and priority, and of the matrices at every share.

    Args:
        statistics: with halves.
        base: weight by matrix name.
        tuned: the same.
        neuron_shares: R_IW.
        matrix_shares: R_CW.

    Returns:
        A row for each priority and R_IW: `neurons`, mean over the matrices of the share of one
        half's candidates that the other half has too, with `neurons_chance`, what random choices
        of as many give, the `lowest` matrix; and `matrices`, by R_CW the `overlap` with its
        `chance`, `restored`, the same of the neurons inside selected matrices, and its chance.
    """
    rows = []
    priorities: list[Priority] = [one for one in PRIORITIES if one != "random"]
    for priority in priorities:
        for share in neuron_shares:
            config = hcnr.RestoreConfig(
                device="cpu", compensation="none", priority=priority, in_weight_ratio=share,
                cross_weight_ratio=1.0, axis=statistics.axis,
            )  # fmt: skip
            halves = [
                select_neurons(half_of(statistics, half), base, tuned, config) for half in (0, 1)
            ]
            rows.append(_row(priority, share, halves, config, matrix_shares))
    return rows


def _row(
    priority: str,
    share: float,
    halves: Sequence[Selection],
    config: hcnr.RestoreConfig,
    matrix_shares: Sequence[float],
) -> dict[str, Any]:
    first, second = (one.masks for one in halves)
    shares = {
        name: int((mask & second[name]).sum()) / max(int(mask.sum()), 1)
        for name, mask in first.items()
    }
    chances = [float(mask.double().mean()) for mask in second.values()]
    matrices = []
    for wanted in matrix_shares:
        narrow = config.replace(cross_weight_ratio=wanted)
        chosen = [most_perturbed(one.perturbation, narrow, one.untouched) for one in halves]
        known = len(first) - len(halves[0].untouched)
        inside = [
            torch.cat([mask & (name in selected) for name, mask in one.masks.items()])
            for one, selected in zip(halves, chosen, strict=True)
        ]
        both = int((inside[0] & inside[1]).sum())
        matrices.append(
            {
                "R_CW": wanted,
                "overlap": agreement(*chosen),
                "chance": count_of(wanted, known) / max(known, 1),
                "restored": both / max(int(inside[0].sum()), 1),
                "restored_chance": float(inside[1].double().mean()),
            }
        )
    return {
        "priority": priority,
        "R_IW": share,
        "neurons": sum(shares.values()) / len(shares),
        "neurons_chance": sum(chances) / len(chances),
        "lowest": min(shares.values()),
        "lowest_matrix": min(shares, key=lambda name: shares[name]),
        "matrices": matrices,
    }
