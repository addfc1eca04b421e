"""Section "build" of `make gpu`: does it build and import, and does every operator have its GPU."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch

from bench.lean import ROOT, settings_available, use_without_settings


def compile_extension(device: str) -> str | None:
    """Build `hcnr_kernels._native` in place; on a GPU for it alone.

    Without a GPU one that is there already stays.

    Returns:
        Why there is none, in one sentence; None where there is.
    """
    if device == "cpu" and importlib.util.find_spec("hcnr_kernels._native"):
        return None
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    if not headers.exists():
        return f"{headers} is missing, which the extension and Triton's launchers include"
    wanted = {}
    if device != "cpu":
        major, minor = torch.cuda.get_device_capability()
        architecture = f"{major}{minor}{'a' if major >= 9 else ''}"
        wanted = {"HCNR_CUDA": "1", "HCNR_CUDA_ARCHS": architecture}
    with tempfile.TemporaryDirectory() as scratch:
        built = subprocess.run(
            [sys.executable, "setup.py", "build_ext", "--inplace", "--build-temp", scratch],
            cwd=ROOT,
            env={**os.environ, **wanted},
            stdout=subprocess.DEVNULL,
            check=False,
        )
    return (
        f"its build ended with status {built.returncode}, see above" if built.returncode else None
    )


def main() -> int:
    device = sys.argv[1]
    failure = compile_extension(device)
    if failure is not None:
        print(f"the compiled extension was not built: {failure}", flush=True)
    print(use_without_settings())
    if settings_available():
        import hcnr

        print(f"hcnr {hcnr.__version__}")
    import hcnr.curvature.passes
    from hcnr_kernels import operator_table

    wanted = ("cpu",) if device == "cpu" else ("cpu", "cuda", "triton")
    missing = 0
    from hcnr_kernels import native

    module, reason = native.native()
    print(f"_native: {reason if module is None else module.build_info()}")
    for name, backend, status in operator_table():
        print(f"{name:18} {backend:8} {status}")
        missing += backend in wanted and status != "available"
    if missing:
        print(f"{missing} backends that should be here are not")
    trouble = native.unavailable(device, torch.float32, 64)
    if trouble is not None:
        print(f"the compiled extension cannot be used: {trouble}")
    return int(missing > 0 or failure is not None or trouble is not None)


if __name__ == "__main__":
    sys.exit(main())
