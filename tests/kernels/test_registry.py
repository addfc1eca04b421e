"""The registry cannot be escaped: what torch has registered is what the rows say."""

import inspect
import re
from pathlib import Path

import pytest
import torch

import hcnr_kernels as hk
from hcnr_kernels import operator_table
from hcnr_kernels.native import native
from hcnr_kernels.testing import reference
from hcnr_kernels.testing.accuracy import relative_error
from hcnr_kernels.testing.registry import OPERATORS, Operator
from hcnr_kernels.triton.launch import interpreting, missing

ROWS = [pytest.param(row, id=name) for name, row in OPERATORS.items()]


def test_every_registered_operator_has_a_row() -> None:
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("hcnr::")}
    assert names == {f"hcnr::{name}" for name in OPERATORS}


def test_every_row_is_public() -> None:
    for row in OPERATORS.values():
        assert getattr(hk, row.name) is row.public
        assert row.name in hk.__all__


@pytest.mark.parametrize("name", [*OPERATORS, "compensation"])
def test_twins_have_the_same_signature(name: str) -> None:
    def shape(function: object) -> list[tuple[str, object, object]]:
        signature = inspect.signature(function)  # pyright: ignore[reportArgumentType]
        return [(p.name, p.kind, p.default) for p in signature.parameters.values()]

    assert shape(getattr(reference, name)) == shape(getattr(hk, name))


@pytest.mark.parametrize("row", ROWS)
def test_rows_are_complete(row: Operator) -> None:
    schema = getattr(torch.ops.hcnr, row.name).default._schema
    written = {a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write}
    assert written == set(row.mutates)
    for dtype in row.dtypes:
        assert row.tolerances[dtype] <= 1e-4
        first, again = row.inputs("cpu", dtype), row.inputs("cpu", dtype)
        assert len({sample.label for sample in first}) == len(first) > 0
        for left, right in zip(first, again, strict=True):
            for one, two in zip(left.args, right.args, strict=True):
                if isinstance(one, torch.Tensor):
                    assert torch.equal(one.nan_to_num(), two.nan_to_num())
        if row.name != "symmetrize_":
            assert any(dtype in {getattr(v, "dtype", None) for v in s.args} for s in first)


@pytest.mark.parametrize("row", ROWS)
def test_costs_are_positive(row: Operator) -> None:
    cost = row.cost(row.large("cpu", torch.float32))
    assert cost.flops > 1e6
    assert cost.nbytes > 1e6


def test_fisher_cost_by_hand() -> None:
    row = OPERATORS["fisher_output_"]
    sample = row.large("cpu", torch.float32)
    gram = 32 * 128 * 128 * (512 + 1376)
    assert row.cost(sample).flops == gram
    assert row.cost(sample).nbytes == 4 * (1376 + 4096 * (512 + 1376) + 33)


def test_table_names_every_backend_and_a_status() -> None:
    table = operator_table()
    assert {(name, "cpu", "available") for name in OPERATORS} <= set(table)
    for name, row in OPERATORS.items():
        assert (name, "triton" if row.triton else "cuda") in {entry[:2] for entry in table}
    fused = {name for name, row in OPERATORS.items() if row.triton}
    statuses = {status for name, backend, status in table if backend == "triton" and name in fused}
    if missing() is not None:
        assert statuses == {"triton is not installed"}
    elif interpreting():
        assert statuses == {"interpreted on the CPU"}
    elif not torch.cuda.is_available():
        assert statuses == {"no CUDA device"}
    partly = {name: status for name, backend, status in table if backend == "triton"}
    for name in ("inverse_hessian", "compensation_ex"):
        if missing() is None and torch.cuda.is_available():
            assert partly[name] == "available for large fp32 matrices"
        else:
            assert partly[name] == (missing() or "no CUDA device")
    assert len(table) == len(set(entry[:2] for entry in table))
    served = {name for name, backend, _ in table if backend == "native"}
    assert served == {"inverse_hessian", "compensation_ex", "perturbation"}


def test_native_is_loaded_or_says_why() -> None:
    module, reason = native()
    assert (module is None) == (reason is not None)
    assert native() is native()


def test_relative_error_is_not_fooled() -> None:
    one = torch.ones(3)
    assert relative_error(one, one) == 0
    assert relative_error(one * 1.1, one) == pytest.approx(0.1)
    assert relative_error(one, torch.zeros(3)) == pytest.approx(3**0.5)
    assert relative_error(one * torch.nan, one) == float("inf")
    assert relative_error(one[:2], one) == float("inf")


def test_contributing_tells_where_each_operator_is() -> None:
    root = Path(__file__).resolve().parents[2]
    page = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = {}
    table = page.partition("## Finding an operator")[2].partition("\n## ")[0]
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and (family := re.match(r"`(\w+)`", cells[0])) is not None:
            rows[family[1]] = [re.findall(r"`([\w/.]+)`", cell) for cell in cells[1:]]
    assert rows.keys() == {path.parent.name for path in _families(root)}
    for row in OPERATORS.values():
        family = row.public.__module__.rsplit(".", 1)[-1]
        assert row.name in rows[family][0], f"{row.name} in the row of {family}"
    for family, (_, _, kernels, tests, rivals) in rows.items():
        folders = (root / "kernels/hcnr_kernels/ops" / family, root)
        started = [name for name in kernels if name.endswith((".py", ".cu"))]
        assert all(any((folder / name).is_file() for folder in folders) for name in started), family
        for name in tests:
            assert (root / "tests" / "kernels" / name).is_file(), name
        assert all((root / name).is_file() for name in rivals)
    kernels = {f"test_triton_{name}.py" for name in {*rows, "objectives"}}
    there = {path.name for path in (root / "tests" / "kernels").glob("test_triton_*.py")}
    assert kernels & there <= {name for *_, tests, _ in rows.values() for name in tests}


def test_contributing_names_every_module_of_the_kernels() -> None:
    root = Path(__file__).resolve().parents[2]
    page = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = page.partition("## The kernels")[2].split("```")[1]
    lines = re.findall(r"^([\w/]+)/ +([^(\n]+)", block, re.MULTILINE)
    assert len(lines) >= 7
    for folder, names in lines:
        modules = {path.stem for path in (root / "kernels/hcnr_kernels" / folder).glob("*.py")}
        assert set(names.split()) - {"__init__"} == modules - {"__init__"}, folder


def _families(root: Path) -> list[Path]:
    return sorted((root / "kernels" / "hcnr_kernels" / "ops").glob("*/__init__.py"))
