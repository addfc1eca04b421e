"""The kernels of the tracked calls, compiled ahead of time for GPUs that need not be there."""

from bench.tracking.cases import tracked_calls
from bench.tracking.counting import kernels_of
from hcnr_kernels.testing.resources import CAPABILITIES, compile_specialized, instructions
from hcnr_kernels.testing.specialization import Specialized, specialize


def compiled() -> dict[str, dict[str, int]]:
    """Kernel and chip -> registers a thread, bytes spilled, bytes shared, machine instructions."""
    rows: dict[str, dict[str, int]] = {}
    for capability in CAPABILITIES:
        specialized = (
            specialize(launch)
            for call in tracked_calls()
            if call.triton is not None
            for launch in kernels_of(call.triton, capability)
        )
        for launch in dict.fromkeys(specialized):
            result = compile_specialized(launch, capability)
            title = f"{describe(launch)}, sm_{capability}"
            assert title not in rows, title
            rows[title] = {
                "registers": result.registers,
                "spills": result.spills,
                "shared": result.shared,
                "instructions": instructions(launch, capability),
            }
    return rows


def describe(launch: Specialized) -> str:
    """A kernel with its constants, dtypes and warps."""
    values = {
        name: value for name, value in launch.chosen().items() if not isinstance(value, type(None))
    }
    absent = [name for name, value in launch.chosen().items() if value is None]
    constants = " ".join(f"{name}={value}" for name, value in values.items())
    without = f" without {' '.join(absent)}" if absent else ""
    dtypes = " ".join(launch.pointers())
    aligned = len(launch.aligned)
    return (
        f"{launch.kernel.__name__} {constants}{without}, {dtypes}, {aligned} aligned, "
        f"{launch.num_warps} x {launch.num_stages}"
    )
