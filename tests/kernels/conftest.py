import pytest
import torch

from hcnr_kernels import native


@pytest.fixture(params=["extension", "torch"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damped inverses with the compiled extension and without."""
    if request.param == "torch":
        monkeypatch.setattr(native, "unavailable", lambda *_: "switched off")
    elif reason := native.unavailable("cpu", torch.float32, 1):
        pytest.skip(reason)
