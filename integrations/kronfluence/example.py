"""`python -m integrations.kronfluence.example`: our factors beside kronfluence's, with times."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import tempfile
from typing import Any

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments
from kronfluence.task import Task
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from integrations.kronfluence.factors import fit_covariance, fit_diagonal
from integrations.tiny import WORDS, model, race

ROWS, LENGTH, BATCH = 32, 64, 8


class Rows(Dataset):
    """Random token rows without padding."""

    def __init__(self) -> None:
        self.rows = torch.randint(3, WORDS, (ROWS, LENGTH))

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


class Language(Task):
    """Sum over samples of the mean loss of their tokens."""

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
        """Labels are the data's, so nothing is sampled."""
        logits = model(input_ids=batch).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        return loss * len(batch)

    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        """The loss itself."""
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        """Linear layers inside the blocks."""
        layers = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        return [name for name, _ in model(width=128).named_modules() if name.endswith(layers)]


def run() -> None:
    """Compare both kinds of factors."""
    torch.manual_seed(0)
    rows, task = Rows(), Language()
    loader = DataLoader(rows, batch_size=BATCH)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "example", prepare_model(model(width=128), task), task, output_dir=folder, cpu=True,
            disable_tqdm=True,
        )  # fmt: skip

        def theirs(strategy: str) -> None:
            fit = analyzer.fit_lambda_matrices
            if strategy == "ekfac":
                fit = analyzer.fit_covariance_matrices
            fit(
                f"theirs {strategy}", rows, per_device_batch_size=BATCH, overwrite_output_dir=True,
                factor_args=FactorArguments(strategy=strategy, use_empirical_fisher=True),
            )  # fmt: skip

        for strategy, fit, load, table in (
            ("ekfac", fit_covariance, analyzer.load_covariance_matrices, "gradient_covariance"),
            ("diagonal", fit_diagonal, analyzer.load_lambda_matrices, "lambda_matrix"),
        ):
            seconds = race(
                {
                    "theirs": lambda s=strategy: theirs(s),
                    "ours": lambda s=strategy, f=fit: f(
                        analyzer, f"ours {s}", loader, use_empirical_fisher=True
                    ),
                }
            )
            exact, computed = (load(f"{who} {strategy}")[table] for who in ("theirs", "ours"))
            worst = max(float((computed[n] - exact[n]).norm() / exact[n].norm()) for n in exact)
            ratio = seconds["theirs"] / seconds["ours"]
            print(
                f"{strategy}: {table} differs by {worst:.1e}, kronfluence takes {ratio:.2f} times "
                f"as long ({seconds['theirs']:.2f} s, ours {seconds['ours']:.2f} s)"
            )


if __name__ == "__main__":
    run()
