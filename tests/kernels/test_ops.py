"""Every operator of the registry: opcheck, its twin, what it mutates, what it refuses."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hcnr_kernels as hk
from hcnr_kernels import library
from hcnr_kernels.errors import OperatorError
from hcnr_kernels.ops import fisher
from hcnr_kernels.testing.accuracy import relative_error
from hcnr_kernels.testing.inputs import Sample
from hcnr_kernels.testing.registry import OPERATORS, Operator
from hcnr_kernels.testing.tensors import packed
from hcnr_kernels.triton import launch
from hcnr_kernels.triton.launch import interpreting, missing

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    ),
]
ROWS = [pytest.param(row, id=name) for name, row in OPERATORS.items()]


def clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def widened(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def on_cpu(sample: Sample) -> Sample:
    args = tuple(v.cpu() if isinstance(v, Tensor) else v for v in sample.args)
    kwargs = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in sample.kwargs.items()}
    return Sample(sample.label, args, kwargs)


def own(sample: Sample, row: Operator) -> tuple[Any, ...]:
    """The arguments, the mutated first ones copied so that the sample can be used again."""
    count = len(row.mutates)
    return (*map(clone, sample.args[:count]), *sample.args[count:])


class Capture(TorchDispatchMode):
    """Records how the registered operator was called by the public function."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "hcnr":
            self.calls.append((func, tuple(clone(value) for value in args)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("row", ROWS)
def test_opcheck(row: Operator) -> None:
    checked, kinds = 0, set()
    # What is asked of fakes and schemas is the same for all of them, and interpreted it is slow.
    first = 3 if interpreting() else 6
    for sample in row.inputs("cpu", row.dtypes[0]):
        with Capture() as capture:
            result = row.public(*own(sample, row), **sample.kwargs)
        assert [str(func) for func, _ in capture.calls] == [f"hcnr.{row.name}.default"]
        # opcheck compares outputs by value, and a failed matrix is NaN on purpose.
        # A few of the first samples, and one of every combination of word arguments.
        words = tuple(value for value in sample.kwargs.values() if isinstance(value, str))
        if checked >= first and words in kinds:
            continue
        if not any(value.isnan().any() for value in row.compared(result)):
            kinds.add(words)
            func, args = capture.calls[0]
            torch.library.opcheck(func, args)
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("row", ROWS)
def test_equals_its_twin(row: Operator, device: str) -> None:
    for dtype in row.dtypes:
        for sample in row.inputs(device, dtype):
            args = own(sample, row)
            got = row.compared(row.public(*args, **sample.kwargs))
            plain = on_cpu(sample)
            count = len(row.mutates)
            first = [clone(widened(value)) for value in plain.args[:count]]
            want = row.compared(row.twin(*first, *plain.args[count:], **plain.kwargs))
            assert len(got) == len(want) > 0
            for place, (left, right) in enumerate(zip(got, want, strict=True)):
                error = relative_error(left, right)
                assert error <= row.tolerances[dtype], (dtype, sample.label, place, error)


@pytest.mark.parametrize("row", ROWS)
def test_mutates_what_it_says_and_nothing_else(row: Operator) -> None:
    for sample in row.inputs("cpu", row.dtypes[0]):
        args = own(sample, row)
        inputs = [v for v in (*args, *sample.kwargs.values()) if isinstance(v, Tensor)]
        copies = [clone(value) for value in inputs]
        result = row.public(*args, **sample.kwargs)
        untouched = list(zip(inputs, copies, strict=True))
        if row.mutates:
            count = len(row.mutates)
            results = result if isinstance(result, tuple) else (result,)
            assert all(one is two for one, two in zip(results, args[:count], strict=True))
            untouched = untouched[count:]
        for value, copy in untouched:
            assert torch.equal(value.nan_to_num(), copy.nan_to_num()), sample.label
        if not row.mutates:
            shared = {v.untyped_storage().data_ptr() for v in inputs if v.numel()}
            for value in row.compared(result):
                assert not value.numel() or value.untyped_storage().data_ptr() not in shared


def test_accumulators_are_added_to() -> None:
    for row in OPERATORS.values():
        if row.mutates and row.name != "symmetrize_":
            sample = row.inputs("cpu", torch.float32)[0]
            count = len(row.mutates)
            zeros = [torch.zeros_like(value) for value in sample.args[:count]]
            threes = [torch.full_like(value, 3.0) for value in zeros]
            for start in (zeros, threes):
                row.public(*start, *sample.args[count:], **sample.kwargs)
            for once, again in zip(zeros, threes, strict=True):
                torch.testing.assert_close(
                    row.compared(again - 3.0), row.compared(once), atol=1e-3, rtol=1e-4
                )


X, G, CU = packed((3, 2), 4, 3, "cpu", torch.float32)
W = torch.ones(3, 4)
ROW_MASK = torch.tensor([True, False, True])
H3, H4 = torch.eye(3), torch.eye(4)
INT = torch.zeros(2, 2, dtype=torch.int64)

REFUSED = [
    (hk.fisher_output_, (torch.zeros(4), X, G, CU), {}, "scores"),
    (hk.fisher_output_, (torch.zeros(3).double(), X, G, CU), {}, "scores"),
    (hk.fisher_output_, (torch.zeros(3), X[0], G, CU), {}, "x"),
    (hk.fisher_output_, (torch.zeros(3), X, G[:-1], CU), {}, "g"),
    (hk.fisher_output_, (torch.zeros(3), X, G.long(), CU), {}, "g"),
    (hk.fisher_output_, (torch.zeros(3), X, G, CU.long()), {}, "cu_seqlens"),
    (hk.fisher_output_, (torch.zeros(3), X, G, CU[:0]), {}, "cu_seqlens"),
    (hk.fisher_output_, (torch.zeros(3), X, G, CU[:1]), {}, "cu_seqlens"),
    (hk.fisher_output_, (torch.zeros(3), X, G, CU), {"form": "ghost"}, "form"),
    (
        hk.fisher_output_,
        (torch.zeros(3), X, G, CU),
        {"token_gram": torch.zeros(4, 3)},
        "token_gram",
    ),
    (hk.fisher_output_, (torch.zeros(3), X, G, CU), {"token_gram": torch.zeros(5)}, "token_gram"),
    *(
        (
            hk.fisher_output_,
            (torch.zeros(3), X, gradients, CU),
            {"token_gram": planes},
            "token_gram",
        )
        for gradients, planes in (
            (G, torch.zeros(2, 5, 3, dtype=torch.bfloat16)),
            (G.bfloat16(), torch.zeros(2, 5, 3)),
            (G.bfloat16(), torch.zeros(2, 4, 3, dtype=torch.bfloat16)),
            (G.bfloat16(), torch.zeros(3, 5, 3, dtype=torch.bfloat16)),
        )
    ),
    (
        hk.fisher_output_,
        (torch.zeros(3), X, G, CU),
        {"token_gram": torch.zeros(5, 3), "form": "direct"},
        "form",
    ),
    (hk.fisher_output_, (torch.zeros(3), X, G, CU), {"max_seqlen": -1}, "max_seqlen"),
    (hk.fisher_output_, (torch.zeros(3), X, G, CU), {"seqused": CU}, "seqused"),
    (hk.fisher_output_, (torch.zeros(3), X, G, CU), {"seqused": CU[1:].long()}, "seqused"),
    (hk.fisher_both_, (torch.zeros(4), torch.zeros(4), X, G, CU), {}, "output_scores"),
    (hk.fisher_both_, (torch.zeros(3), torch.zeros(3), X, G, CU), {}, "input_scores"),
    (hk.fisher_input_, (torch.zeros(3), X, G, CU), {}, "scores"),
    (hk.fisher_weight_, (W.T.contiguous(), X, G, CU), {}, "scores"),
    (hk.token_gram, (X, CU), {"max_seqlen": -1}, "max_seqlen"),
    (hk.split_token_gram, (X, CU), {"max_seqlen": -1}, "max_seqlen"),
    (hk.token_gram, (X.int(), CU), {"max_seqlen": 3}, "x"),
    (hk.gram_, (H3.clone(), X), {}, "gram"),
    (hk.gram_, (H4.bfloat16(), X), {}, "gram"),
    (hk.symmetrize_, (W.clone(),), {}, "gram"),
    (hk.perturbation, (W, W.T, ROW_MASK), {"axis": "output"}, "tuned"),
    (hk.perturbation, (W, W, ROW_MASK), {"axis": "input"}, "mask"),
    (hk.perturbation, (W, W, ROW_MASK.float()), {"axis": "output"}, "mask"),
    (hk.perturbation, (W, W, ROW_MASK), {"axis": "rows"}, "axis"),
    (hk.perturbation, (INT, INT, ROW_MASK[:2]), {"axis": "output"}, "base"),
    (hk.inverse_hessian, (W,), {}, "hessian"),
    (hk.inverse_hessian, (W[0],), {}, "hessian"),
    (hk.inverse_hessian, (H3.bfloat16(),), {}, "hessian"),
    (hk.inverse_hessian, ([],), {}, "hessian"),
    (hk.inverse_hessian, (H3,), {"damping": -0.1}, "damping"),
    (hk.inverse_hessian, (H3,), {"damping": float("nan")}, "damping"),
    (hk.inverse_hessian, (H3,), {"block_size": 0}, "block_size"),
    (hk.inverse_hessian, ([H3, H4],), {"names": ["one"]}, "names"),
    (hk.compensation, (W, ROW_MASK, None), {"axis": "output", "kind": "sum"}, "hessian"),
    (hk.compensation, (W, ROW_MASK, H4), {"axis": "output", "kind": "sum"}, "hessian"),
    (hk.compensation, (W, ROW_MASK, H3), {"axis": "output", "kind": "balanced"}, "task_hessian"),
    (hk.compensation, (W, ROW_MASK, H3), {"axis": "output", "kind": "best"}, "kind"),
    (hk.compensation, (W, ROW_MASK, H3), {"axis": "input", "kind": "none"}, "mask"),
    (
        hk.compensation,
        (W, ROW_MASK, H3),
        {"axis": "output", "kind": "sum", "task_weight": -1.0},
        "task_weight",
    ),
    (hk.objective, (W, H3), {"axis": "input"}, "hessian"),
    (hk.objective, (W, H3.half()), {"axis": "output"}, "hessian"),
    (hk.objectives, (W, ROW_MASK, H4), {"axis": "output"}, "hessian"),
    (hk.objectives, (W, ROW_MASK, H4), {"axis": "input"}, "mask"),
    (hk.merge, (W, W, ROW_MASK, H3), {"axis": "output", "dtype": torch.float32}, "deviation"),
    (hk.merge, (W, W, ROW_MASK, None), {"axis": "output", "dtype": torch.int8}, "dtype"),
]


TWO = torch.tensor([2, 1], dtype=torch.int32)
LENGTHS: list[tuple[Any, ...]] = [
    (CU + 1, {}, "cu_seqlens"),
    (CU - 1, {}, "cu_seqlens"),
    (CU[:2], {}, "cu_seqlens"),
    (CU[[0, 2, 1, 2]], {}, "cu_seqlens"),
    (CU + 1, {"seqused": TWO}, "cu_seqlens"),
    (CU - 1, {"seqused": TWO}, "cu_seqlens"),
    (CU[[0, 2, 1]], {"seqused": TWO}, "cu_seqlens"),
    (CU, {"seqused": TWO + 2}, "seqused"),
    (CU, {"seqused": TWO - 2}, "seqused"),
    (CU, {"token_gram": torch.zeros(5, 2)}, "token_gram"),
]
"""Arguments of the right shape whose values do not hold: 3 and 2 tokens, two samples."""


@pytest.mark.parametrize(("cu_seqlens", "kwargs", "argument"), LENGTHS)
def test_lengths_that_do_not_hold(cu_seqlens: Tensor, kwargs: Any, argument: str) -> None:
    """The CPU reads them and refuses; the kernels, told the longest sample, give NaN."""
    if interpreting():
        kwargs = {"max_seqlen": 3, **kwargs}
    calls: list[Any] = [lambda: hk.fisher_output_(torch.zeros(3), X, G, cu_seqlens, **kwargs)]
    if argument != "token_gram":
        used = {"seqused": kwargs.get("seqused")}
        pair = torch.zeros(3), torch.zeros(4)
        calls += [
            lambda: hk.fisher_input_(torch.zeros(4), X, G, cu_seqlens, **kwargs),
            lambda: hk.token_gram(X, cu_seqlens, max_seqlen=3, **used),
            lambda: hk.split_token_gram(X, cu_seqlens, max_seqlen=3, **used),
            lambda: hk.fisher_weight_(torch.zeros(3, 4), X, G, cu_seqlens, **used),
            lambda: hk.fisher_both_(*pair, X, G, cu_seqlens, **used),
        ]
    for call in calls:
        if interpreting():
            result = call()
            for scores in result if isinstance(result, tuple) else (result,):
                assert scores.isnan().any()
        else:
            with pytest.raises(OperatorError, match=rf"^{argument}\b.* must be .*, found .*\.$"):
                call()


def test_samples_longer_than_promised() -> None:
    """Sixty tokens are told to be at most three; the direct form starts to win at seven."""
    x, g, cu_seqlens = packed((2, 60), 20, 10, "cpu", torch.float32)
    for form in ("auto", "gram"):

        def call(form: Any = form) -> Tensor:
            scores = torch.zeros(10)
            return hk.fisher_output_(scores, x, g, cu_seqlens, form=form, max_seqlen=3)

        if interpreting():
            assert call().isnan().all()
        else:
            with pytest.raises(OperatorError, match=r"max_seqlen must be at least .*, 60 tokens"):
                call()
    if not interpreting():
        with pytest.raises(OperatorError, match=r"max_seqlen must be at least .*, 60 tokens"):
            hk.token_gram(x, cu_seqlens, max_seqlen=59)


@pytest.mark.parametrize(("function", "args", "kwargs", "argument"), REFUSED)
def test_refuses_in_one_sentence(function: Any, args: Any, kwargs: Any, argument: str) -> None:
    with pytest.raises(OperatorError, match=rf"^{argument}\b.* must be .*, found .*\.$") as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_every_operator_refuses_something() -> None:
    refusing = {function.__name__.removesuffix("_ex") for function, *_ in REFUSED}
    assert refusing == {name.removesuffix("_ex") for name in OPERATORS}


def test_the_fake_refuses_too() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(OperatorError, match="scores"):
        hk.fisher_output_(torch.zeros(4), X, G, CU)


def test_devices_must_agree() -> None:
    with pytest.raises(OperatorError, match="g must be on cpu"):
        fisher._check_fisher_weight_(W, X, torch.empty(5, 3, device="meta"), CU, None)
    with pytest.raises(OperatorError, match="seqused must be on cpu"):
        elsewhere = torch.empty(2, dtype=torch.int32, device="meta")
        fisher._check_token_gram(X, CU, elsewhere, 3)
    gram = torch.zeros(5, 3, device="meta")
    with pytest.raises(OperatorError, match="token_gram must be on cpu"):
        fisher._check_fisher_output_(torch.zeros(3), X, G, CU, None, "auto", gram, None)


def test_no_graph_is_recorded() -> None:
    x = X.clone().requires_grad_()
    scores = hk.fisher_output_(torch.zeros(3), x, G, CU)
    assert not scores.requires_grad


def test_what_no_kernel_takes_runs_in_torch_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[int] = []
    run = library._fused("example_", "nowhere", lambda tensor: calls.append(tensor.shape[0]))
    with caplog.at_level("WARNING", logger="hcnr_kernels"):
        run(torch.zeros(1, dtype=torch.float64))
        run(torch.zeros(2, dtype=torch.float64))
    assert calls == [1, 2]
    reason = missing() or "it does not take torch.float64"
    assert [record.getMessage() for record in caplog.records] == [
        f"hcnr::example_ runs its vectorised torch code, not its fused kernel: {reason}."
    ]


def test_without_triton_the_torch_code_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(library, "missing", lambda: "triton is not installed")
    run = library._fused("example_", "nowhere", lambda *_: "torch")
    with caplog.at_level("WARNING", logger="hcnr_kernels"):
        assert run(torch.zeros(1)) == run(torch.zeros(2)) == "torch"
    assert len(caplog.records) == 1


def test_every_dtype_is_looked_at() -> None:
    one = torch.zeros(1)
    assert library._fused("example_", "nowhere", lambda *_: "torch")(one, torch.float64) == "torch"
    assert library._unsupported((one, one.double())) is not None
    assert library._unsupported((one, one.bool(), None, 3)) is None


def test_an_old_triton_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.importlib.metadata, "version", lambda _: "3.5.1")
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda _: object())
    assert launch.missing.__wrapped__() == "triton 3.5.1 is older than 3.6"
    monkeypatch.setattr(launch.importlib.metadata, "version", lambda _: "3.10.0+git")
    assert launch.missing.__wrapped__() is None


PROBE = """
import sys
import torch
before = set(sys.modules)
import logging, warnings
handlers, filters = list(logging.getLogger().handlers), list(warnings.filters)
import hcnr_kernels
x = torch.ones(2, 3)
offsets = torch.tensor([0, 2], dtype=torch.int32)
hcnr_kernels.fisher_input_(torch.zeros(3), x, x, offsets)
hcnr_kernels.operator_table()
new = {name.partition(".")[0] for name in set(sys.modules) - before}
heavy = {"triton", "transformers", "hcnr", "numpy"} & new
assert not heavy, heavy
unused = [name for name in sys.modules if name.startswith("hcnr_kernels.testing")]
assert not unused, unused
assert "torch._dynamo" not in sys.modules
assert handlers == logging.getLogger().handlers and filters == warnings.filters
assert not torch.cuda.is_initialized()
"""


def test_import_and_first_call_are_lean() -> None:
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "error", "-c", PROBE]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("row", ROWS)
def test_autocast_changes_no_bit(row: Operator) -> None:
    for sample in row.inputs("cpu", row.dtypes[0]):
        plain = row.compared(row.public(*own(sample, row), **sample.kwargs))
        with torch.autocast("cpu", torch.bfloat16):
            under = row.compared(row.public(*own(sample, row), **sample.kwargs))
        for left, right in zip(plain, under, strict=True):
            assert left.dtype == right.dtype
            assert torch.equal(left.nan_to_num(), right.nan_to_num())


@pytest.mark.parametrize("row", ROWS)
def test_compiles_into_a_full_graph(row: Operator) -> None:
    torch.compiler.reset()
    sample = next(iter(row.inputs("cpu", row.dtypes[0])))
    settings = dict(sample.kwargs)
    if row.name == "inverse_hessian":
        settings["check"] = False  # raising reads the status on the host
    plain = row.compared(row.public(*own(sample, row), **settings))
    compiled = torch.compile(row.public, fullgraph=True, backend="eager")
    found = row.compared(compiled(*own(sample, row), **settings))
    for left, right in zip(plain, found, strict=True):
        assert torch.equal(left.nan_to_num(), right.nan_to_num())
