"""What every Triton kernel needs of a GPU, found by compiling it for that GPU without having one.

`python -m hcnr_kernels.testing.resources` prints the table: registers, spills, shared memory,
occupancy and tensor-core instruction of every configuration that the operators start. Numbers are
read from the machine code that Triton would load, not from a second assembly of it with other
options.

Importing this module does not import Triton.
"""

import argparse
import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hcnr_kernels.testing.launches import CASES, launches
from hcnr_kernels.testing.specialization import Specialized, specialize
from hcnr_kernels.triton.launch import Launch, interpreting, missing
from hcnr_kernels.triton.tiles import shared_memory

CAPABILITIES = (80, 90, 100)
"""A100, H100, B200: compiled when none is named."""


class Dot(NamedTuple):
    """A `tl.dot` `[m, k] x [k, n]`, the dtype of its operands, and how exactly they enter it."""

    m: int
    n: int
    k: int
    operands: str
    precision: str


class Resources(NamedTuple):
    """What one program of a compiled kernel takes.

    Attributes:
        registers: Per thread.
        stack: Bytes per thread; where registers are spilled to, Triton keeps nothing else there.
        spills: Bytes that the load and store instructions of spilled registers move.
        shared: Bytes of shared memory.
        occupancy: Share of a multiprocessor's warps that can be resident.
        tensor_core: `mma`, `wgmma` or `tcgen05`, joined by `+` when several; `-` for none.
        dots: The distinct products that it forms.
    """

    registers: int
    stack: int
    spills: int
    shared: int
    occupancy: float
    tensor_core: str
    dots: tuple[Dot, ...]


def compile_launch(launch: Launch, capability: int) -> Resources:
    """Compile what `launch` starts for a chip of compute capability `capability` (90 is 9.0)."""
    return compile_specialized(specialize(launch), capability)


@functools.cache
def compile_specialized(specialized: Specialized, capability: int) -> Resources:
    """Compile once per process; Triton's cache directory serves later processes."""
    compiled = _compiled(specialized, capability)
    cubin = compiled.asm["cubin"]
    registers, stack = parse_usage(_cuobjdump(cubin, "--dump-resource-usage"))
    shared = compiled.metadata.shared
    columns = getattr(compiled.metadata, "tmem_size", None) or 0
    return Resources(
        registers,
        stack,
        parse_spills(_cuobjdump(cubin, "--dump-sass")) if stack else 0,
        shared,
        occupancy(registers, shared, specialized.num_warps, capability, tensor_memory=columns),
        _tensor_core(compiled.asm["ptx"]),
        parse_dots(compiled.asm["ttir"]),
    )


def instructions(specialized: Specialized, capability: int) -> int:
    """Machine instructions of a compiled kernel, padding behind its end left out."""
    return count_instructions(
        _cuobjdump(_compiled(specialized, capability).asm["cubin"], "--dump-sass")
    )


def _compiled(specialized: Specialized, capability: int) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = [name for name, _ in specialized.signature]
    source = ASTSource(
        specialized.kernel,
        dict(specialized.signature),
        {(names.index(name),): value for name, value in specialized.constants},
        {(names.index(name),): [["tt.divisibility", 16]] for name in specialized.aligned},
    )
    options = {
        "num_warps": specialized.num_warps,
        "num_stages": specialized.num_stages,
        # The default of every version so far; 3.9 warns when it is not said.
        "enable_fp_fusion": True,
    }
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def _cuobjdump(cubin: bytes, what: str) -> str:
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, what, str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def parse_usage(text: str) -> tuple[int, int]:
    """Registers and stack bytes of a thread in `cuobjdump --dump-resource-usage` of one kernel."""
    (usage,) = re.findall(r"REG:(\d+) STACK:(\d+)", text)
    return int(usage[0]), int(usage[1])


def parse_spills(sass: str) -> int:
    """Bytes moved by the local loads and stores of a disassembly, each instruction once."""
    suffixes = re.findall(r"\b(?:STL|LDL)((?:\.\w+)*)\s", sass)
    widths = (re.search(r"\.[US]?(8|16|64|128)\b", suffix) for suffix in suffixes)
    return sum(int(width[1]) // 8 if width else 4 for width in widths)


def count_instructions(sass: str) -> int:
    """Instructions of a disassembly; `NOP`s fill the last line of code."""
    mnemonics = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\w+)", sass, re.MULTILINE)
    return sum(name != "NOP" for name in mnemonics)


def parse_dots(ttir: str) -> tuple[Dot, ...]:
    """The distinct `tt.dot` of a module; Triton leaves the precision out when it is `ieee`."""
    pattern = r"tt\.dot ([^:\n]*): tensor<(?:\d+x)?(\d+)x(\d+)x(\w+)> \* tensor<(?:\d+x)*(\d+)x\w+>"
    dots: list[Dot] = []
    for attributes, m, k, operands, n in re.findall(pattern, ttir):
        precision = re.search(r"inputPrecision = (\w+)", attributes)
        dots.append(Dot(int(m), int(n), int(k), operands, precision[1] if precision else "ieee"))
    return tuple(dict.fromkeys(dots))


def _tensor_core(ptx: str) -> str:
    names = {"mma": "mma.sync", "wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma"}
    return "+".join(name for name, text in names.items() if f"{text}." in ptx) or "-"


def occupancy(
    registers: int, shared: int, num_warps: int, capability: int, *, tensor_memory: int = 0
) -> float:
    """Share of a multiprocessor's warps that programs of `num_warps` warps can occupy.

    CUDA programming guide, technical specifications per compute capability.

    Args:
        registers: Per thread; each of the four quarters has 16384, given to warps by the 256.
        shared: Bytes of a program, given by the 128; the system takes 1 KB more of each.
        num_warps: Warps per program.
        capability: 90 is 9.0.
        tensor_memory: Columns of a program, of 512.
    """
    small = {86: (48, 16), 89: (48, 24), 120: (48, 24), 121: (48, 24)}
    warps, programs = small.get(capability, (64, 32))
    by_registers = 4 * (16384 // (-(-registers * 32 // 256) * 256)) // num_warps
    by_shared = (shared_memory(capability) + 1024) // (-(-shared // 128) * 128 + 1024)
    by_columns = 512 // tensor_memory if tensor_memory else programs
    fitting = min(programs, warps // num_warps, by_registers, by_shared, by_columns)
    return fitting * num_warps / warps


def table(configurations: Sequence[tuple[str, Specialized, Resources]]) -> str:
    """Aligned text, one line per configuration, with the operators that start it."""
    operators: dict[tuple[Specialized, Resources], list[str]] = {}
    for operator, what, result in configurations:
        names = operators.setdefault((what, result), [])
        if operator not in names:
            names.append(operator)
    rows = [
        {
            "kernel": what.kernel.__name__,
            "constants": " ".join(f"{name}={value}" for name, value in what.chosen().items()),
            "dtypes": " ".join(what.pointers()),
            "aligned": f"{len(what.aligned)}/{len(what.signature) - len(what.constants)}",
            "warps": what.num_warps,
            "stages": what.num_stages,
            "registers": result.registers,
            "spill B": result.spills,
            "shared KB": f"{result.shared / 1024:.1f}",
            "occupancy %": f"{100 * result.occupancy:.0f}",
            "tensor core": result.tensor_core,
            "operators": " ".join(names),
        }
        for (what, result), names in operators.items()
    ]
    if not rows:
        return "no Triton kernel"
    cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table per capability; the exit status, 2 when there is nothing to compile with."""
    parser = argparse.ArgumentParser(
        prog="python -m hcnr_kernels.testing.resources", description=__doc__
    )
    parser.add_argument("--capability", type=int, nargs="+", default=list(CAPABILITIES))
    parser.add_argument("--operator", nargs="+", default=[], choices=sorted(CASES))
    parser.add_argument("--awkward", action="store_true", help="odd, unaligned, strided inputs")
    asked = parser.parse_args(arguments)
    reason = missing()
    if interpreting():
        reason = "TRITON_INTERPRET=1 replaces the kernels by Python functions"
    if reason is not None:
        print(f"There is nothing to compile: {reason}.", file=sys.stderr)
        return 2
    for capability in asked.capability:
        launched = launches(capability, asked.operator, awkward=asked.awkward)
        configurations = [(name, specialize(launch)) for name, launch in launched]
        results = [(*one, compile_specialized(one[1], capability)) for one in configurations]
        print(f"compute capability {capability / 10:.1f}\n{table(results)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
