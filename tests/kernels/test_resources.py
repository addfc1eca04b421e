"""Every Triton kernel compiled for every generation of chips, on a machine without one."""

import importlib
import inspect
import pkgutil
import random
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

import hcnr_kernels
from hcnr_kernels.testing import launches, resources
from hcnr_kernels.testing.resources import Dot, Resources, compile_specialized
from hcnr_kernels.testing.specialization import Specialized, specialize
from hcnr_kernels.triton import tiles
from hcnr_kernels.triton.launch import FLOATS, Launch, interpreting
from hcnr_kernels.triton.launch import launch as start

if TYPE_CHECKING:
    import triton
    import triton.language as tl
elif interpreting():
    pytest.skip("TRITON_INTERPRET=1: there are no kernels to compile", allow_module_level=True)
else:
    triton = pytest.importorskip("triton")
    tl = pytest.importorskip("triton.language")

CAPABILITIES = resources.CAPABILITIES
OPERATORS = sorted(launches.served())


@triton.jit(do_not_specialize=["loose"], do_not_specialize_on_alignment=["uneven"])
def toy(p, q, size, loose, uneven, scale, flag, B: tl.constexpr, KIND: tl.constexpr):
    o = tl.arange(0, B)
    if q is not None:
        tl.store(q + o, tl.load(p + o, mask=o < size, other=0.0) * scale)


@triton.jit
def toy_product(p, q, n, B: tl.constexpr, PRECISION: tl.constexpr):
    o, o_k = tl.arange(0, B), tl.arange(0, 32)
    b_sum = tl.zeros([B, B], tl.float32)
    for i in range(0, n, 32):
        b = tl.load(p + (i + o_k)[:, None] * B + o[None, :])
        b_sum = tl.dot(tl.trans(b), b, b_sum, input_precision=PRECISION)
    tl.store(q + o[:, None] * B + o[None, :], b_sum)


@triton.jit
def toy_hoarder(p, B: tl.constexpr):
    o = tl.arange(0, B)
    b = tl.load(p + o)
    tl.store(p + o, b * tl.sum(b))


def product_launch(
    side: int, dtype: torch.dtype, *, precision: str = "ieee", num_warps: int = 4
) -> Launch:
    p = torch.empty(64, side, dtype=dtype, device="meta")
    q = torch.empty(side, side, device="meta")
    arguments = {"p": p, "q": q, "n": 64, "B": side, "PRECISION": precision}
    return Launch(toy_product, 1, arguments, num_warps, 3)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"p": torch.empty(8)[1:]},
        {"p": torch.empty(8)[4:]},
        {"p": torch.empty(8, dtype=torch.bfloat16)[4:]},
        {"p": torch.empty(8, dtype=torch.bool)},
        {"p": torch.empty(8, dtype=torch.int32), "q": torch.empty(8, dtype=torch.float64)},
        {"q": None},
        *({name: value} for name in ("size", "loose", "uneven") for value in (0, 1, 16, 17, -32)),
        *({name: value} for name in ("size", "loose", "uneven") for value in (2**31, -(2**31))),
        {"scale": 1.0},
        {"flag": False, "KIND": None, "B": 1},
    ],
)
def test_specialisation_is_tritons_own(changed: dict[str, Any]) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    arguments = {
        "p": torch.empty(8),
        "q": torch.empty(8, dtype=torch.float16),
        "size": 6,
        "loose": 6,
        "uneven": 6,
        "scale": 2.5,
        "flag": True,
        "B": 8,
        "KIND": "name",
        **changed,
    }
    backend = make_backend(GPUTarget("cuda", 90, 32))
    bind = create_function_from_signature(toy.signature, toy.params, backend)
    _, theirs, _ = bind(**arguments)
    found = specialize(Launch(toy, 1, arguments, 4, 3))
    assert [kind for _, kind in found.signature] == [kind for kind, _ in theirs]
    names = [name for name, _ in found.signature]
    marked = [name for name, (kind, mark) in zip(names, theirs, strict=True) if mark == "D"]
    assert list(found.aligned) == marked
    constants = {name for name, (kind, _) in zip(names, theirs, strict=True) if kind == "constexpr"}
    assert dict(found.constants) == {name: arguments[name] for name in constants}
    assert backend.parse_attr("D") == [["tt.divisibility", 16]]

    def without_data(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        whole = torch.empty(8, dtype=value.dtype, device="meta")
        return whole[value.storage_offset() :]

    meta = {name: without_data(value) for name, value in arguments.items()}
    assert specialize(Launch(toy, 1, meta, 4, 3)) == found


def test_an_argument_that_triton_would_refuse_is_refused() -> None:
    arguments = dict.fromkeys(toy.arg_names) | {"size": "six"}
    with pytest.raises(TypeError, match="toy: size is a str"):
        specialize(Launch(toy, 1, arguments, 4, 3))


def test_equal_launches_are_compiled_once() -> None:
    small, large = product_launch(32, torch.float16), product_launch(32, torch.float16)
    large.arguments["n"] = 128  # pyright: ignore[reportIndexIssue]
    assert specialize(small) == specialize(large) != specialize(product_launch(32, torch.bfloat16))


def test_a_plain_kernel() -> None:
    found = resources.compile_launch(product_launch(32, torch.float16, num_warps=2), 80)
    assert 32 < found.registers < 200
    assert found.stack == found.spills == 0
    assert 0 < found.shared <= 16 * 1024
    assert found.dots == (Dot(32, 32, 32, "f16", "ieee"),)
    assert found.occupancy == resources.occupancy(found.registers, found.shared, 2, 80)


def test_spills_are_found() -> None:
    # 512 numbers a thread that are all still needed once their sum is known.
    arguments = {"p": torch.empty(2**14, device="meta"), "B": 2**14}
    found = resources.compile_launch(Launch(toy_hoarder, 1, arguments, 1, 1), 80)
    assert found.stack > 0
    assert found.spills >= (512 - 255) * 2 * 4  # each is stored and loaded


@pytest.mark.parametrize(
    ("capability", "side", "dtype", "precision", "instruction"),
    [
        (80, 64, torch.bfloat16, "ieee", "mma"),
        (90, 64, torch.float16, "ieee", "wgmma"),
        (90, 32, torch.float16, "ieee", "mma"),
        (90, 32, torch.float32, "ieee", "-"),
        (80, 32, torch.float32, "tf32x3", "mma"),
        (100, 128, torch.bfloat16, "ieee", "tcgen05"),
    ],
)
def test_tensor_core(
    capability: int, side: int, dtype: torch.dtype, precision: str, instruction: str
) -> None:
    launch = product_launch(side, dtype, precision=precision)
    found = resources.compile_launch(launch, capability)
    assert found.tensor_core == instruction
    assert [dot.precision for dot in found.dots] == [precision]


def test_usage_is_parsed() -> None:
    line = "  REG:161 STACK:24 SHARED:1024 LOCAL:0 CONSTANT[0]:400 TEXTURE:0 SURFACE:0 SAMPLER:0"
    text = f"\nResource usage:\n Common:\n  GLOBAL:0\n Function gram:\n{line}\n"
    assert resources.parse_usage(text) == (161, 24)


def test_spill_bytes_are_parsed() -> None:
    sass = """
        /*0010*/                   LDG.E.128 R4, [R2.64] ;
        /*0020*/                   STL [R1], R0 ;
        /*0030*/              @!P0 STL.64 [R1+0x8], R4 ;
        /*0040*/                   LDL.LU.128 R8, [R1+0x10] ;
        /*0050*/                   LDL.U8 R9, [R1+0x20] ;
        /*0060*/                   LDL.LU R9, [R1+0x24] ;
    """
    assert resources.parse_spills(sass) == 4 + 8 + 16 + 1 + 4


def test_dots_are_parsed() -> None:
    ttir = """
  %a_1 = tt.dot %x, %y, %z : tensor<32x64xbf16> * tensor<64x16xbf16> -> tensor<32x16xf32> loc(#l1)
  %a_2 = tt.dot %x, %y, %z : tensor<32x64xbf16> * tensor<64x16xbf16> -> tensor<32x16xf32> loc(#l2)
  %b = tt.dot %x, %y, %z, inputPrecision = tf32x3 : tensor<8x4xf32> * tensor<4x2xf32> -> tensor<8x2xf32>
"""  # noqa: E501
    first, second = Dot(32, 16, 64, "bf16", "ieee"), Dot(8, 2, 4, "f32", "tf32x3")
    assert resources.parse_dots(ttir) == (first, second)


@pytest.mark.parametrize(
    ("registers", "shared", "num_warps", "capability", "columns", "resident"),
    [
        (32, 0, 4, 80, 0, 64),  # 1024 registers a warp: 64 warps
        (128, 0, 4, 90, 0, 16),
        (129, 0, 4, 90, 0, 12),  # 4352 a warp: 3 in each quarter
        (255, 0, 8, 90, 0, 8),
        (32, 163 * 1024, 4, 80, 0, 4),
        (32, 227 * 1024, 8, 100, 0, 8),
        (32, 75 * 1024, 4, 90, 0, 12),  # 76 KB with the reserve: 3 in 228 KB
        (32, 75 * 1024 + 1, 4, 90, 0, 8),
        (32, 0, 1, 90, 0, 32),  # 32 programs
        (32, 0, 4, 100, 256, 8),
        (40, 0, 4, 89, 0, 48),  # 1280 a warp: 12 in each quarter, all the 48 there are
    ],
)
def test_occupancy_by_hand(
    registers: int, shared: int, num_warps: int, capability: int, columns: int, resident: int
) -> None:
    most = 48 if capability == 89 else 64
    found = resources.occupancy(registers, shared, num_warps, capability, tensor_memory=columns)
    assert found == resident / most


def test_table_is_aligned() -> None:
    found = specialize(product_launch(64, torch.bfloat16))
    result = Resources(96, 8, 24, 36864, 0.25, "wgmma", ())
    both = [("gram_", found, result), ("merge", found, result), ("gram_", found, result)]
    lines = resources.table(both).splitlines()
    assert len(lines) == 2
    cells = "toy_product B=64 PRECISION=ieee bf16 fp32 3/3 4 3 96 24 36.0 25 wgmma gram_ merge"
    assert " ".join(lines[1].split()) == cells
    for title, value in (("registers", "96"), ("spill B", "24"), ("tensor core", "wgmma")):
        assert lines[0].index(title) == lines[1].index(value)
    assert resources.table([]) == "no Triton kernel"


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def gram_(gram: torch.Tensor, x: torch.Tensor) -> None:
        tile = tiles.Tile(32, 32, 32, 2, 2)
        start(toy_product, 1, tile, p=x, q=gram, n=x.shape[0], B=tile.m, PRECISION="ieee")

    monkeypatch.setattr(launches, "served", lambda: {"gram_": "toys"})
    toys = SimpleNamespace(gram_=gram_)
    monkeypatch.setattr(launches.importlib, "import_module", lambda _: toys)
    assert resources.main(["--capability", "80"]) == 0
    title, header, *rows = capsys.readouterr().out.strip().splitlines()
    assert title == "compute capability 8.0"
    assert header.startswith("kernel ")
    assert len(rows) == len(FLOATS)


@pytest.mark.parametrize(
    ("function", "value", "reason"),
    [
        ("missing", "triton is not installed", "triton is not installed"),
        ("interpreting", True, "TRITON_INTERPRET=1"),
    ],
)
def test_command_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    function: str,
    value: object,
    reason: str,
) -> None:
    monkeypatch.setattr(resources, function, lambda: value)
    assert resources.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert reason in captured.err


def expected_instructions(dot: Dot, num_warps: int, capability: int) -> set[str]:
    """What Triton turns a product of 16-bit operands into.

    `wgmma` is an instruction of four warps and 64 rows; a smaller tile takes `mma`, and so may any
    tile of a chip with `tcgen05`, whose operands must be in shared or tensor memory.
    """
    if capability < 90:
        return {"mma"}
    if capability < 100:
        return {"wgmma"} if dot.m >= 64 and dot.n >= 8 and num_warps % 4 == 0 else {"mma"}
    return {"mma", "tcgen05"}


def complaints(found: Specialized, result: Resources, capability: int) -> list[str]:
    """What is wrong with a compiled kernel, whatever its inputs."""
    wrong: list[str] = []
    if result.shared > tiles.shared_memory(capability):
        wrong.append(f"{result.shared} bytes of shared memory")
    if result.occupancy == 0:
        wrong.append("not even one program fits")
    instructions = set(result.tensor_core.split("+"))
    for dot in result.dots:
        if dot.operands in ("f16", "bf16"):
            if not instructions & expected_instructions(dot, found.num_warps, capability):
                wrong.append(f"{dot} by {result.tensor_core}")
        elif dot.operands == "f32" and dot.precision not in ("ieee", "tf32x3"):
            wrong.append(f"{dot} rounds its operands")
    return wrong


def report(operator: str, capability: int, *, awkward: bool) -> list[str]:
    """One line per configuration with complaints."""
    lines: list[str] = []
    found = launches.launches(capability, [operator], awkward=awkward)
    assert found
    for _, launch in found:
        what = specialize(launch)
        result = compile_specialized(what, capability)
        wrong = complaints(what, result, capability)
        if not awkward and (result.stack or result.spills):
            wrong.append(f"{result.stack} bytes of stack, {result.spills} spilled")
        if wrong:
            line = resources.table([(operator, what, result)]).splitlines()[1]
            lines.append(f"{line}: {'; '.join(wrong)}")
    return lines


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_usual_inputs(operator: str, capability: int) -> None:
    wrong = report(operator, capability, awkward=False)
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("operator", OPERATORS)
def test_awkward_inputs(operator: str) -> None:
    """They compile and fit; they may spill, for addresses that cannot be loaded as vectors.

    One generation will do: what breaks is the front end, when an integer becomes a constant.
    """
    wrong = report(operator, 90, awkward=True)
    assert not wrong, "\n" + "\n".join(wrong)


def configurations(operator: str, capability: int) -> set[object]:
    """What the host code chose; not what it was given, a None among that.

    The tiles of operators that read each weight once shrink with the weight, to any power of two:
    of these only the kernels and flags are compared.
    """
    found: set[object] = set()
    for awkward in (False, True):
        for _, launch in launches.launches(capability, [operator], awkward=awkward):
            what = specialize(launch)
            left_out = (int, type(None)) if operator in ("merge", "perturbation") else (type(None),)
            chosen = [item for item in what.chosen().items() if type(item[1]) not in left_out]
            shape = (what.kernel.__name__, what.num_warps, what.num_stages)
            found.add((*shape, *what.pointers(), *chosen))
    return found


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_no_shape_starts_a_configuration_that_is_not_listed(
    operator: str, capability: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = configurations(operator, capability)
    generator = random.Random(0)

    def size(most: int) -> int:
        return round(most ** generator.random())

    views = (launches._contiguous, launches._shifted, launches._transposed)
    shapes = [
        ((size(600), size(9000)), (size(20000), size(20000)), view)
        for _ in range(60)
        for view in views
    ]
    contiguous = [shape for shape in shapes if shape[2] is views[0]]
    monkeypatch.setattr(launches, "_shapes", lambda odd: iter(shapes if odd else contiguous))
    assert configurations(operator, capability) - listed == set()


def test_no_kernel_escapes() -> None:
    """Every `@triton.jit` function of the library is launched, or called by one that is."""
    launched = {
        launch.kernel
        for awkward in (False, True)
        for _, launch in launches.launches(90, awkward=awkward)
    }
    reached = {kernel.__name__: inspect.getsource(kernel.fn) for kernel in launched}
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(hcnr_kernels.__path__, "hcnr_kernels.")
    ]
    defined = {
        value.__name__: inspect.getsource(value.fn)
        for module in modules
        for value in vars(module).values()
        if isinstance(value, triton.JITFunction)
    }
    while called := {
        name
        for name in defined.keys() - reached.keys()
        if any(re.search(rf"(?<!def )\b{name}\(", source) for source in reached.values())
    }:
        reached |= {name: defined[name] for name in called}
    assert defined.keys() - reached.keys() == set()


def test_the_former_command_still_works_and_says_where_it_went() -> None:
    former = subprocess.run(
        [sys.executable, "-m", "hcnr_kernels.triton.resources", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "moved: python -m hcnr_kernels.testing.resources" in former.stderr
    assert "--capability" in former.stdout
