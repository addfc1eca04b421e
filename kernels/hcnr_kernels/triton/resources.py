"""The former place of `python -m hcnr_kernels.testing.resources`; the command still works here."""

import runpy
import sys

if __name__ == "__main__":
    print("moved: python -m hcnr_kernels.testing.resources", file=sys.stderr)
    runpy.run_module("hcnr_kernels.testing.resources", run_name="__main__", alter_sys=True)
