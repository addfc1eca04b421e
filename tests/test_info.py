"""What `hcnr info` says about the compiled extension, there and absent."""

from types import SimpleNamespace

import pytest

from hcnr.info import extension
from hcnr_kernels import native


def told(monkeypatch: pytest.MonkeyPatch, found: native.Native, trouble: str | None) -> dict:
    monkeypatch.setattr(native, "native", lambda: found)
    monkeypatch.setattr(native, "cuda_trouble", lambda: trouble)
    return dict(extension())


def test_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, native.Native(None, "not built: no compiler"), None) == {
        "extension": "not available: not built: no compiler"
    }


@pytest.mark.parametrize(("chips", "said"), [([800, 1000, 1210], "8.0, 10.0, 12.1"), ([], "no")])
def test_there(monkeypatch: pytest.MonkeyPatch, chips: list[int], said: str) -> None:
    built = {"compilers": "c++ 12", "host": "avx2", "architectures": chips}
    module = SimpleNamespace(build_info=lambda: built)
    found = told(monkeypatch, native.Native(module, None), "no CUDA device")  # pyright: ignore[reportArgumentType]
    assert found == {
        "built with": "c++ 12", "on the CPU": "avx2",
        "built for CUDA": said, "CUDA here": "no CUDA device",
    }  # fmt: skip
    assert told(monkeypatch, native.Native(module, None), None)["CUDA here"] == "available"  # pyright: ignore[reportArgumentType]
