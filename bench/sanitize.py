"""What compute-sanitizer watches: every operator of the registry on its small inputs, once."""

import argparse

import torch
from torch import Tensor

from hcnr_kernels.registry import OPERATORS

DTYPES = (torch.float32, torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only-triton", action="store_true")
    found = parser.parse_args()
    calls = 0
    for name, row in OPERATORS.items():
        if found.only_triton and row.triton is None:
            continue
        for dtype in DTYPES:
            for sample in row.inputs(found.device, dtype) if dtype in row.dtypes else ():
                own = [
                    value.clone()
                    if place < len(row.mutates) and isinstance(value, Tensor)
                    else value
                    for place, value in enumerate(sample.args)
                ]
                row.public(*own, **sample.kwargs)
                calls += 1
        if found.device == "cuda":
            torch.cuda.synchronize()
        print(name, flush=True)
    print(f"{calls} calls")


if __name__ == "__main__":
    main()
