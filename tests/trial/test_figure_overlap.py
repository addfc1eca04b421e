"""Overlap of halves on scores that are worked out by hand."""

import pytest
import torch
from torch import Tensor

import hcnr
from experiments.paper_figures.overlap import agreement, half_of, overlaps
from hcnr.repair.selection import select_neurons

ONES = [1.0, 1.0, 1.0, 1.0]


def statistics(**halves: tuple[list[float], list[float]]) -> hcnr.Statistics:
    """Honesty scores of both halves by matrix; those of the task are 1: the larger comes first."""
    task = {name: torch.tensor([ONES, ONES]) for name in halves}
    honesty = {name: torch.tensor(both) for name, both in halves.items()}
    both = {"honesty": honesty, "task": task}
    return hcnr.Statistics(
        axis="output",
        scores={data: {name: one.mean(0) for name, one in many.items()}
                for data, many in both.items()},
        halves=both,
    )  # fmt: skip


SAME, TURNED = [8.0, 7.0, 6.0, 5.0], [5.0, 6.0, 7.0, 8.0]
FOUND = statistics(
    # The same two of four; one of two; none.
    a=(SAME, SAME),
    b=(SAME, [8.0, 5.0, 7.0, 6.0]),
    c=(SAME, TURNED),
    d=(SAME, SAME),
)


def base(name: str) -> Tensor:
    return torch.ones(4, 2)


def tuned(name: str) -> Tensor:
    # How far each row was moved: c most by its last rows, which only the second half chooses.
    rows = {"a": [3.0, 3.0, 0.0, 0.0], "b": [2.0] * 4, "c": [0.5, 0.5, 9.0, 9.0], "d": [0.1] * 4}
    return torch.ones(4, 2) + torch.tensor(rows[name])[:, None]


def test_overlap_by_hand():
    rows = overlaps(FOUND, base, tuned, neuron_shares=(0.5,), matrix_shares=(0.5, 1.0))
    for row, priority in zip(rows, ("kl", "honesty"), strict=True):
        assert (row["priority"], row["R_IW"]) == (priority, 0.5)
        assert row["neurons"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
        assert row["neurons_chance"] == 0.5
        assert (row["lowest"], row["lowest_matrix"]) == (0.0, "c")
        half, whole = row["matrices"]
        # The first half takes a and b, the second c and a.
        assert (half["R_CW"], half["overlap"], half["chance"]) == (0.5, 0.5, 0.5)
        # Of the first half's four neurons in a and b, the two in a are restored by both.
        assert half["restored"] == 0.5
        assert half["restored_chance"] == 4 / 16
        assert (whole["overlap"], whole["chance"]) == (1.0, 1.0)
        assert whole["restored"] == pytest.approx((2 + 1 + 0 + 2) / 8)
        assert whole["restored_chance"] == 0.5


def test_random_halves_overlap_as_chance_says():
    torch.manual_seed(0)
    many = {f"m{i}": tuple(torch.rand(2, 200).tolist()) for i in range(20)}
    task = torch.ones(2, 200)
    found = hcnr.Statistics(
        axis="output", scores={},
        halves={"honesty": {name: torch.tensor(both) for name, both in many.items()},
                "task": dict.fromkeys(many, task)},
    )  # fmt: skip
    whole = [
        overlaps(found, lambda _: torch.ones(200, 2), lambda _: torch.rand(200, 2), (share,))
        for share in (0.1, 0.5)
    ]
    for rows in whole:
        for row in rows:
            assert row["neurons"] == pytest.approx(row["neurons_chance"], abs=0.05)
            last = row["matrices"][-1]
            assert last["restored"] == pytest.approx(last["restored_chance"], abs=0.05)


def test_it_agrees_with_the_report_of_a_restoration():
    config = hcnr.RestoreConfig(
        device="cpu", compensation="none", in_weight_ratio=0.5, cross_weight_ratio=0.5
    )
    report = select_neurons(FOUND, base, tuned, config)
    row = overlaps(FOUND, base, tuned, neuron_shares=(0.5,), matrix_shares=(0.5,))[0]
    assert row["neurons"] == pytest.approx(sum(report.overlap.values()) / 4)
    assert row["matrices"][0]["restored"] == report.selected_overlap


def test_halves_are_those_of_the_statistics():
    first, second = half_of(FOUND, 0), half_of(FOUND, 1)
    assert first.scores["honesty"]["c"].tolist() == SAME
    assert second.scores["honesty"]["c"].tolist() == TURNED
    assert first.halves == {}


def test_agreement():
    assert agreement(["a", "b"], ["b", "c"]) == 0.5
    assert agreement([], ["a"]) == 1.0
