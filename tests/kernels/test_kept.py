"""What was kept of a step, along the spectrum, counted pair by pair and by dense systems."""

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hcnr_kernels as hk
from hcnr_kernels.errors import OperatorError
from hcnr_kernels.ops.spectral import kept
from hcnr_kernels.ops.spectral.coordinates import energies
from spectra import F64, basis_of, kronecker, problem


@pytest.mark.parametrize("tokens", [3, 60])
def test_kept_by_traces(tokens: int) -> None:
    delta, quartet = problem(9, 12, tokens)
    honesty, task = kronecker(quartet)
    basis = basis_of(delta, quartet)
    found, deviation = basis.kept(0.4), basis.deviation(0.4).flatten()
    whole, missing = delta.flatten(), deviation - delta.flatten()
    assert found.honesty_left == pytest.approx(
        float(deviation @ honesty @ deviation / (whole @ honesty @ whole)), rel=1e-6
    )
    assert found.task_lost == pytest.approx(
        float(missing @ task @ missing / (whole @ task @ whole)), rel=1e-6
    )
    system = torch.linalg.solve(honesty + 0.4 * task, honesty)
    assert found.restored == pytest.approx(float(torch.trace(system)), rel=1e-6)
    assert found.directions.sum() == delta.numel()
    assert float((found.energy * found.kept).sum()) == pytest.approx(found.honesty_left)
    assert len(found.directions) == len(found.edges) + 1


class Waits(TorchDispatchMode):
    """Counts the times that values are asked for by the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.count += name in ("_local_scalar_dense", "_to_copy", "nonzero")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("tokens", [5, 60])
def test_bins_pair_by_pair(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many chunks there are; and the host waits for none of them."""
    delta, quartet = problem(9, 12, tokens, 1.5)
    basis, mu = basis_of(delta, quartet), 0.4
    energy = energies(basis.delta, basis.output, basis.input)
    sides = [(task / honesty, count) for honesty, task, count in
             (axis.shares for axis in (basis.output, basis.input))]  # fmt: skip
    want = torch.zeros(3, len(kept.DECADES) + 1, dtype=F64)
    for i, (g, many) in enumerate(zip(*sides[0], strict=True)):
        for j, (a, others) in enumerate(zip(*sides[1], strict=True)):
            place = sum(float(g * a) > 10**edge for edge in kept.DECADES)
            keeps = float(mu * g * a / (1 + mu * g * a))
            for row, value in enumerate((many * others, energy[i, j], energy[i, j] * keeps**2)):
                want[row, place] += value
    assert int((want[0] > 0).sum()) > 2
    waits = []
    for rows in (100, 2, 1):
        monkeypatch.setattr(kept, "chunk_length", lambda _, rows=rows: rows)
        with Waits() as asked:
            found = basis.kept(mu)
        waits.append(asked.count)
        torch.testing.assert_close(found.directions, want[0])
        torch.testing.assert_close(found.energy, want[1] / want[1].sum())
        share = torch.where(want[1] > 0, want[2] / want[1], 0.0)
        torch.testing.assert_close(found.kept, share, rtol=1e-9, atol=1e-12)
    assert waits[0] == waits[1] == waits[2]


@pytest.mark.parametrize("route", ["dense", "tokens"])
def test_compared_is_kept_for_the_deviation_of_a_task_weight(route: str) -> None:
    """What `kept` derives from the eigenvalues, `compared` counts in the deviation itself."""
    generator = torch.Generator().manual_seed(5)

    def tokens(width: int, scale: float) -> torch.Tensor:
        rows = torch.randn(7 if route == "tokens" else 90, width, generator=generator)
        return rows.double() * torch.arange(1, width + 1) ** -scale

    moments = [(hk.Tokens(tokens(24, s)), hk.Tokens(tokens(18, s))) for s in (0.2, 0.7)]
    delta = torch.randn(18, 24, generator=generator).double()
    basis = hk.spectral_basis(delta, *moments)
    assert basis.routes == (route, route)
    for mu in (0.03, 1.0, 40.0):
        derived, counted = basis.kept(mu), basis.compared(basis.deviation(mu))
        for name in ("edges", "directions", "energy", "kept"):
            torch.testing.assert_close(getattr(counted, name), getattr(derived, name))
        assert counted.honesty_left == pytest.approx(derived.honesty_left)
        assert counted.task_lost == pytest.approx(derived.task_lost)
        assert math.isnan(counted.restored) and 0 < derived.restored < delta.numel()
    twice = basis.compared(2 * delta)
    assert twice.honesty_left == pytest.approx(4) and twice.task_lost == pytest.approx(1)
    with pytest.raises(OperatorError, match="deviation"):
        basis.compared(delta.T)
