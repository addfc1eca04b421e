"""What the rivals of the scoring pass are timed with: nothing but computing."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench import inverse, measure, passes

CPU = torch.device("cpu")
SIZES = {**measure.SMALL, "max_position_embeddings": 64}


class Analyzer:
    """As kronfluence's: fits factors of all data and saves them by a function of its module."""

    fitted = 0

    def __init__(self, name, model, task, *, output_dir, disable_tqdm, cpu):
        self.model, self.task, self.place = model, task, Path(output_dir)

    def fit_all_factors(self, name, dataset, *, factor_args, per_device_batch_size,
                        overwrite_output_dir):  # fmt: skip
        from kronfluence.computer import factor_computer  # pyright: ignore[reportMissingImports]

        assert factor_args.strategy == "diagonal" and overwrite_output_dir
        batch = torch.stack([dataset[index] for index in range(len(dataset))])
        factors = {"loss": self.task.compute_train_loss(batch, self.model)}
        assert torch.isfinite(factors["loss"])
        type(self).fitted += 1
        factor_computer.save_lambda_matrices(output_dir=self.place, factors=factors)


def save_lambda_matrices(output_dir: Path, factors: dict[str, torch.Tensor]) -> None:
    torch.save(factors, output_dir / "lambda_matrices.safetensors")


@pytest.fixture(params=["pretended", "installed"])
def kronfluence(request, monkeypatch):
    """What the harness uses of the package; the package itself where it is installed."""
    if request.param == "installed":
        if importlib.util.find_spec("kronfluence") is None:
            pytest.skip("kronfluence is not installed")
        return
    parts = {
        "analyzer": {"Analyzer": Analyzer, "prepare_model": lambda model, task: model},
        "arguments": {"FactorArguments": types.SimpleNamespace},
        "computer": {},
        "computer.factor_computer": {"save_lambda_matrices": save_lambda_matrices},
        "task": {"Task": object},
    }
    monkeypatch.setitem(sys.modules, "kronfluence", types.ModuleType("kronfluence"))
    for name, contents in parts.items():
        module = types.ModuleType(f"kronfluence.{name}")
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    made = sys.modules["kronfluence.computer"]
    vars(made)["factor_computer"] = sys.modules["kronfluence.computer.factor_computer"]


@pytest.mark.filterwarnings("ignore")  # the package's own
def test_kronfluence_is_timed_without_its_disk(kronfluence, tmp_path):
    """3.5 GB a run at the shapes of the harness, which the ratio would then be about."""
    model = passes.llama(CPU, torch.float32, **SIZES)
    race = passes.Race(model, passes.random_samples([16] * 4, 4, SIZES["vocab_size"]), 64)
    rival = passes.kronfluence_diagonal(race, 4, tmp_path)
    assert rival is not None
    from kronfluence.computer import factor_computer  # pyright: ignore[reportMissingImports]

    kept = factor_computer.save_lambda_matrices
    before = Analyzer.fitted
    rival()
    if kept is save_lambda_matrices:
        assert Analyzer.fitted == before + 1
    assert not list(tmp_path.rglob("*.safetensors"))
    # A second run computes again, and whoever else uses the package can still save.
    rival()
    assert not list(tmp_path.rglob("*.safetensors"))
    assert factor_computer.save_lambda_matrices is kept


def test_without_kronfluence_there_is_no_rival(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kronfluence.analyzer", None)
    model = passes.llama(CPU, torch.float32, **SIZES)
    race = passes.Race(model, passes.random_samples([16] * 4, 4, SIZES["vocab_size"]), 64)
    assert passes.kronfluence_diagonal(race, 4, tmp_path) is None


@pytest.mark.parametrize("shape", [(5, 5), (3, 4, 4)])
def test_a_rival_that_inverts_damps_no_more_than_a_diagonal(shape):
    """A whole identity would be four more passes over the matrix in its time."""
    stack = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    before = stack.clone()
    shift = 0.01 * stack.diagonal(dim1=-2, dim2=-1).mean(-1)
    assert torch.equal(inverse.damped(stack), stack + shift[..., None, None] * torch.eye(shape[-1]))
    assert torch.equal(stack, before)
    with Written() as written:
        inverse.damped(stack)
    diagonals = stack.numel() // shape[-1]
    assert sum(written.elements) <= stack.numel() + 4 * diagonals


class Written(TorchDispatchMode):
    """Elements of what each operator returns, views aside."""

    def __init__(self):
        super().__init__()
        self.elements: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and not func.is_view:
            self.elements.append(found.numel())
        return found
