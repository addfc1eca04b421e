"""What each form keeps of a second moment, and one trial of a form on a tiny pair."""

from pathlib import Path

import pytest
import torch

from experiments.curvature_forms import (
    KEPT,
    Bench,
    Form,
    blocks,
    diagonals,
    directions,
    nothing,
    table,
    whole,
)
from hcnr_kernels import BlockDiagonal
from spectra import moment
from testbeds import write_testbed

HONESTY, TASK = moment(30, 12, 1, decay=1.0), moment(30, 12, 2, decay=1.0)


def test_blocks_and_diagonals():
    for change, size in ((blocks(5), 5), (diagonals, 1), (blocks(12), 12)):
        for found, given in zip(change(HONESTY, TASK), (HONESTY, TASK), strict=True):
            torch.testing.assert_close(found, BlockDiagonal.cut(given, size).dense())
    assert torch.equal(nothing(HONESTY, TASK)[0], torch.eye(12, dtype=torch.float64))


@pytest.mark.parametrize("rank", [1, 4, 11])
def test_directions_keep_the_strongest_and_the_mean_of_the_rest(rank: int):
    both = HONESTY / HONESTY.trace() + TASK / TASK.trace()
    span = torch.linalg.eigh(both).eigenvectors[:, -rank:]
    outside = torch.eye(12, dtype=torch.float64) - span @ span.T
    for found, given in zip(directions(rank)(HONESTY, TASK), (HONESTY, TASK), strict=True):
        torch.testing.assert_close(span.T @ found @ span, span.T @ given @ span)
        torch.testing.assert_close(found.trace(), given.trace())
        left = (given.trace() - (span.T @ given @ span).trace()) / (12 - rank)
        torch.testing.assert_close(found @ outside, left * outside)
    assert directions(12)(HONESTY, TASK) == (HONESTY, TASK)


def test_every_form_keeps_the_same_share(tmp_path: Path):
    bench = Bench(write_testbed(tmp_path))
    forms = (
        Form("whole", whole, whole, samples=8),
        Form("blocks", blocks(4), blocks(4), samples=8),
        Form("few directions", directions(3), directions(3), samples=8),
    )
    rows = [bench.try_form(form) for form in forms]
    for row in rows:
        assert row["marks"]["retention"] == pytest.approx(KEPT, abs=0.3)
    assert len({row["task_weight"] for row in rows}) > 1
    lines = table(rows).splitlines()
    assert len(lines) == 5 and lines[3].startswith("| blocks | ")
    again = bench.try_form(forms[0])
    assert (again["task_weight"], again["marks"]) == (rows[0]["task_weight"], rows[0]["marks"])
