import pytest
import torch
from torch import Tensor

from hcnr_kernels import native
from hcnr_kernels.triton.launch import interpreting

WITHOUT_TRITON = {
    "test_block_diagonal.py", "test_condition.py", "test_factor.py", "test_house.py",
    "test_inverse.py", "test_kept.py", "test_native.py", "test_native_source.py",
    "test_spectral.py", "test_token_space.py",
}  # fmt: skip
"""What runs no Triton kernel: the same whether kernels are interpreted, so not once more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if interpreting():
        again = pytest.mark.skip(reason="TRITON_INTERPRET=1 changes nothing here")
        for item in items:
            if item.path.name in WITHOUT_TRITON and item.path.parent.name == "kernels":
                item.add_marker(again)


@pytest.fixture(params=["extension", "torch"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damped inverses with the compiled extension and without."""
    if request.param == "torch":
        monkeypatch.setattr(native, "unavailable", lambda *_: "switched off")
    elif reason := native.unavailable("cpu", torch.float32, 1):
        pytest.skip(reason)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `torch.empty` returns may hold anything: here NaN."""
    empty, empty_like = torch.empty, torch.empty_like

    def poison(tensor: Tensor) -> Tensor:
        return (
            tensor if tensor.is_meta or not tensor.is_floating_point() else tensor.fill_(torch.nan)
        )

    monkeypatch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))
