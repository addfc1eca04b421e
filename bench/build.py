"""Section "build" of `make gpu`: does the package import, and does every operator have its GPU."""

import sys

from bench.lean import settings_available, use_without_settings


def main() -> int:
    device = sys.argv[1]
    print(use_without_settings())
    if settings_available():
        import hcnr

        print(f"hcnr {hcnr.__version__}")
    import hcnr.measure
    from hcnr_kernels import operator_table

    wanted = ("cpu",) if device == "cpu" else ("cpu", "cuda", "triton")
    missing = 0
    for name, backend, status in operator_table():
        print(f"{name:18} {backend:8} {status}")
        missing += backend in wanted and status != "available"
    if missing:
        print(f"{missing} backends that should be here are not")
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
