"""What compute-sanitizer watches: every operator of the registry on its small inputs, once."""

import argparse

import torch
from torch import Tensor

import hcnr_kernels as hk
from hcnr_kernels.testing.registry import OPERATORS

DTYPES = (torch.float32, torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only-triton", action="store_true")
    arguments = parser.parse_args()
    calls = 0
    for name, row in OPERATORS.items():
        if arguments.only_triton and row.triton is None:
            continue
        for dtype in DTYPES:
            for sample in row.inputs(arguments.device, dtype) if dtype in row.dtypes else ():
                own = [
                    value.clone()
                    if place < len(row.mutates) and isinstance(value, Tensor)
                    else value
                    for place, value in enumerate(sample.args)
                ]
                row.public(*own, **sample.kwargs)
                calls += 1
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        print(name, flush=True)
    print(f"{calls + false_offsets(arguments.device)} calls")


def false_offsets(device: str) -> int:
    """Offsets that do not hold: nothing outside the tensors may be read for them."""
    x, g = (torch.randn(40, width, device=device) for width in (24, 36))
    wrong = [[0, -1, 40], [0, 30, 20, 40], [0, 1000], [-5, 40], [7, 40], [0, 39]]
    for values in wrong if device == "cuda" else ():
        cu_seqlens = torch.tensor(values, dtype=torch.int32, device=device)
        for form in ("gram", "direct"):
            hk.fisher_output_(
                torch.zeros(36, device=device), x, g, cu_seqlens, form=form, max_seqlen=40
            )
        hk.fisher_weight_(torch.zeros(36, 24, device=device), x, g, cu_seqlens)
    if device == "cuda":
        torch.cuda.synchronize()
    return 3 * len(wrong) if device == "cuda" else 0


if __name__ == "__main__":
    main()
