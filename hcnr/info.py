"""What this installation can do: operators, backends, devices."""

import torch

from hcnr.report.summary import LIBRARIES, versions
from hcnr_kernels.registry import operator_table


def operators() -> list[tuple[str, str, str]]:
    """Rows (operator, backend, status): available, or the reason it is not."""
    return [(str(op), str(backend), str(status)) for op, backend, status in operator_table()]


def packages() -> list[tuple[str, str]]:
    """Rows (package, version or `not installed`)."""
    found = versions()
    return [(name, found.get(name, "not installed")) for name in ("hcnr", "python", *LIBRARIES)]


def devices() -> list[tuple[str, str]]:
    """Rows (device, description) of what torch can compute on."""
    rows = [
        ("cpu", f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    ]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        reason = "torch is a CPU build" if built is None else f"built for {built}, no GPU is seen"
        return [*rows, ("cuda", f"not available: {reason}")]
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        rows.append(
            (
                f"cuda:{index}",
                f"{found.name}, {found.total_memory / 2**30:.0f} GiB, "
                f"sm_{found.major}{found.minor}",
            )
        )
    return rows
