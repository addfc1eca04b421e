"""The contract of `hcnr_kernels`: public signatures and schemas, pinned to a version.

A call that works with one minor version works with the next: arguments may be added at the end with
a default (minor version); anything else is a major version.
"""

import dataclasses
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import hcnr_kernels
from hcnr_kernels import native
from hcnr_kernels.library import REGISTERED
from hcnr_kernels.triton.launch import interpreting

PINNED = Path(__file__).with_name("contract.json")


def signature(thing: Any) -> list[str]:
    """Arguments in order: their kind, name and default, without the types."""
    return [
        f"{'*' if one.kind is one.KEYWORD_ONLY else ''}{one.name}"
        + ("" if one.default is one.empty else f"={one.default!r}")
        for one in inspect.signature(thing).parameters.values()
    ]


def described(name: str) -> Any:
    thing = getattr(hcnr_kernels, name)
    if isinstance(thing, type) and issubclass(thing, BaseException):
        return [base.__name__ for base in thing.__mro__[:-1]]
    if isinstance(thing, type) and hasattr(thing, "_fields"):
        return list(thing._fields)
    if dataclasses.is_dataclass(thing):
        return [field.name for field in dataclasses.fields(thing)]
    if isinstance(thing, type):
        methods = [n for n in vars(thing) if not n.startswith("_")]
        return sorted(methods)
    return signature(thing) if callable(thing) else list(thing)


def contract() -> dict[str, Any]:
    return {
        "version": hcnr_kernels.CONTRACT_VERSION,
        "python": {
            name: described(name) for name in hcnr_kernels.__all__ if name != "CONTRACT_VERSION"
        },
        "schemas": {
            name: str(getattr(torch.ops.hcnr, name).default._schema) for name in REGISTERED
        },
        "native": {
            "invert_blocks": signature(native.invert_blocks),
            "unavailable": signature(native.unavailable),
            "takes": signature(native.takes),
            "StackInverses": list(native.StackInverses._fields),
            "ListInverses": list(native.ListInverses._fields),
        },
    }


def problems(pinned: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What a caller of the pinned version would trip over, and what only is new."""
    broken, added = [], []
    for part in ("python", "schemas", "native"):
        for name in pinned[part].keys() | found[part].keys():
            old, new = pinned[part].get(name), found[part].get(name)
            if old == new:
                continue
            longer = isinstance(old, list) and isinstance(new, list) and new[: len(old)] == old
            if old is None or (longer and all("=" in one for one in new[len(old) :])):
                added.append(f"{name}: {old} -> {new}")
            else:
                broken.append(f"{name}: {old} -> {new}")
    major, minor = (
        [int(one) for one in content["version"].split(".")] for content in (pinned, found)
    )
    verdicts = []
    if broken and minor[0] == major[0]:
        verdicts.append(f"raise the major version: {broken}")
    if (broken or added) and minor == major:
        verdicts.append(f"raise the minor version at least: {added}")
    return verdicts


def test_callers_of_the_pinned_version_are_served() -> None:
    """When it fails: raise `CONTRACT_VERSION` as told, then run this file to pin the new one."""
    pinned = json.loads(PINNED.read_text())
    found = contract()
    assert problems(pinned, found) == []
    assert pinned == found, "pin the new version: python tests/kernels/test_contract.py"


def changed(content: dict[str, Any], part: str, name: str, value: Any, version: str | None = None):
    copy = json.loads(json.dumps(content))
    copy[part][name] = value
    copy["version"] = version or copy["version"]
    return copy


@pytest.mark.parametrize(
    ("value", "version", "verdict"),
    [
        (["gram", "x", "*scale=1.0"], "1.0", "minor"),
        (["gram", "x", "*scale=1.0"], "1.1", None),
        (["gram", "x", "*scale"], "1.1", "major"),
        (["x", "gram"], "1.1", "major"),
        (["x", "gram"], "2.0", None),
        (None, "1.1", "major"),
    ],
)
def test_the_rule_itself(value: Any, version: str, verdict: str | None) -> None:
    old = changed(contract(), "python", "gram_", ["gram", "x"], "1.0")
    new = changed(old, "python", "gram_", value, version)
    if value is None:
        del new["python"]["gram_"]
    told = problems(old, new)
    assert (verdict is None) == (told == [])
    assert verdict is None or verdict in told[0]


def test_the_compiled_module_has_the_documented_face() -> None:
    """docs/operators.md lists these; other languages may call them without our Python."""
    module, reason = native.native()
    if module is None:
        pytest.skip(f"hcnr_kernels._native: {reason}")
    keywords = {
        "invert_stack": "count size input output factor shifts status norms dtype mode device "
        "ordinal stream threads",
        "invert_table": "count table largest shifts status norms dtype mode device ordinal stream "
        "threads",
        "max_size": "dtype device",
        "cuda_trouble": "",
        "architectures": "",
        "build_info": "",
    }
    page = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()
    for name, arguments in keywords.items():
        head = getattr(module, name).__doc__.splitlines()[0]
        places = [head.find(f"{one}:") for one in arguments.split()]
        assert -1 not in places and places == sorted(places), head
        assert f"`{name}" in page, name


def repair(
    base: torch.Tensor, tuned: torch.Tensor, x: torch.Tensor, g: torch.Tensor, ends: torch.Tensor
) -> tuple[Any, ...]:
    """Code of a caller: scores, a moment, a selection, a compensation, a merge."""
    scores = hcnr_kernels.fisher_output_(g.new_zeros(g.shape[1]), x, g, ends, form="direct")
    weights = hcnr_kernels.fisher_weight_(g.new_zeros(base.shape), x, g, ends)
    moment = hcnr_kernels.symmetrize_(hcnr_kernels.gram_(g.new_zeros(g.shape[1], g.shape[1]), g))
    mask = scores > scores.median()
    moved, size = hcnr_kernels.perturbation(base, tuned, mask, axis="output")
    inverse = hcnr_kernels.inverse_hessian(moment, check=False)
    found = hcnr_kernels.compensation_ex(
        tuned - base, mask, moment, axis="output", kind="sum", damping=0.05
    )
    merged = hcnr_kernels.merge(
        base, tuned, mask, found.deviation, axis="output", dtype=tuned.dtype
    )
    return merged * (moved / size).sqrt(), weights, inverse.matrix, inverse.status, found.status


needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or interpreting(),
    reason="inductor compiles with g++, once is enough",
)


@pytest.mark.parametrize(
    "backend", ["eager", "aot_eager", pytest.param("inductor", marks=needs_compiler)]
)
# Of inductor's own imports.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
def test_a_callers_code_compiles_into_one_graph(backend: str) -> None:
    torch.compiler.reset()
    generator = torch.Generator().manual_seed(0)
    base, tuned = torch.randn(2, 6, 5, generator=generator)
    x, g = (torch.randn(40, width, generator=generator) for width in (5, 6))
    arguments = (base, tuned, x, g, torch.tensor([0, 15, 40], dtype=torch.int32))
    explained = torch._dynamo.explain(repair)(*arguments)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
    compiled = torch.compile(repair, fullgraph=True, backend=backend)
    for left, right in zip(repair(*arguments), compiled(*arguments), strict=True):
        assert torch.equal(left, right)


if __name__ == "__main__":
    PINNED.write_text(json.dumps(contract(), indent=2, sort_keys=True) + "\n")
