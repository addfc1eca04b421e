"""Factors for kronfluence: its own files, from our taps; its analyzer goes on from there."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import os
from pathlib import Path

import torch
from accelerate.utils import find_batch_size, send_to_device
from kronfluence.analyzer import Analyzer
from kronfluence.arguments import FactorArguments
from kronfluence.factor.covariance import save_covariance_matrices
from kronfluence.factor.eigen import save_lambda_matrices
from kronfluence.module import TrackedModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hcnr.errors import ConfigError, DataError, ModelError
from integrations.factors import Factors, Part, collect

Tables = dict[str, dict[str, Tensor]]
"""Name of a factor -> name of a module -> factor, as kronfluence keeps them."""


def fit_covariance(
    analyzer: Analyzer,
    name: str,
    loader: DataLoader,
    *,
    use_empirical_fisher: bool = False,
    strategy: str = "ekfac",
) -> Tables:
    """Leave behind what `Analyzer.fit_covariance_matrices` would, for linear layers, in fp32.

    Args:
        analyzer: with its prepared model and its task; the factors go to its output directory.
        name: of the factors, as for the analyzer's own.
        loader: batches that the task's `compute_train_loss` takes; that loss must be a sum over
            samples.
        use_empirical_fisher: whether the task takes the labels as they are, or samples them.
        strategy: `kfac` or `ekfac`, what the analyzer will make of the factors.

    Returns:
        Sums over tokens: `activation_covariance` `[in (+ 1), in (+ 1)]`, `gradient_covariance`
        `[out, out]`, and how many tokens each has seen.

    Raises:
        HcnrError: a tracked layer is not linear, the strategy has no covariance, a loss is not
            finite.
    """
    if strategy not in ("kfac", "ekfac"):
        raise ConfigError(f"strategy is {strategy!r}; covariance is for kfac and ekfac")
    sums = _collect(analyzer, loader, use_empirical_fisher, ("input", "gradient"))
    counts = {key: torch.tensor([count]) for key, count in sums.tokens.items()}
    tables: Tables = {
        # Files hold no tensor twice, and layers that read one tensor share it here.
        "activation_covariance": {key: own.cpu().clone() for key, own in sums.input.items()},
        "gradient_covariance": {key: own.cpu() for key, own in sums.gradient.items()},
        "num_activation_covariance_processed": counts,
        "num_gradient_covariance_processed": {key: own.clone() for key, own in counts.items()},
    }
    save_covariance_matrices(
        output_dir=_factors_directory(analyzer, name, use_empirical_fisher, strategy),
        factors=tables,
    )
    return tables


def fit_diagonal(
    analyzer: Analyzer, name: str, loader: DataLoader, *, use_empirical_fisher: bool = False
) -> Tables:
    """Leave behind what `Analyzer.fit_lambda_matrices` would for `strategy="diagonal"`.

    Arguments and errors as in `fit_covariance`.

    Returns:
        `lambda_matrix` `[out, in (+ 1)]`, the sum of squared per-sample gradients, and how many
        samples it has seen.
    """
    sums = _collect(analyzer, loader, use_empirical_fisher, ("diagonal",))
    tables: Tables = {
        "lambda_matrix": {key: own.cpu() for key, own in sums.diagonal.items()},
        "num_lambda_processed": {key: torch.tensor([sums.samples]) for key in sums.diagonal},
    }
    save_lambda_matrices(
        output_dir=_factors_directory(analyzer, name, use_empirical_fisher, "diagonal"),
        factors=tables,
    )
    return tables


def _collect(
    analyzer: Analyzer, loader: DataLoader, empirical: bool, parts: tuple[Part, ...]
) -> Factors:
    model, task = analyzer.model, analyzer.task
    layers: dict[str, nn.Linear] = {}
    for module in model.modules():
        if isinstance(module, TrackedModule):
            inner = module.original_module
            if not isinstance(inner, nn.Linear):
                raise ModelError(
                    f"{module.name} is a {type(inner).__name__}, and only nn.Linear is supported; "
                    "name the linear layers in the task's get_influence_tracked_modules"
                )
            layers[module.name] = inner
    if not layers:
        raise ModelError("the model has no tracked layer; call kronfluence's prepare_model first")
    device = next(model.parameters()).device

    def size(batch: object) -> int:
        count = find_batch_size(batch)
        if count is None:
            raise DataError(f"a batch is a {type(batch).__name__} without a tensor in it")
        return count

    def mask(batch: object) -> Tensor | None:
        attention = task.get_attention_mask(batch)
        if isinstance(attention, dict):
            raise ModelError("the task gives a mask for each module; one for all is supported")
        return attention

    return collect(
        model, layers, (send_to_device(batch, device) for batch in loader),
        lambda batch: task.compute_train_loss(batch=batch, model=model, sample=not empirical),
        size=size, mask=mask, parts=parts,
    )  # fmt: skip


def _factors_directory(analyzer: Analyzer, name: str, empirical: bool, strategy: str) -> Path:
    """The factors' directory, with the arguments that the analyzer reads them by."""
    directory = analyzer.factors_output_dir(factors_name=name)
    os.makedirs(directory, exist_ok=True)
    analyzer._configure_and_save_factor_args(
        factor_args=FactorArguments(strategy=strategy, use_empirical_fisher=empirical),
        factors_output_dir=directory,
        overwrite_output_dir=True,
    )
    return directory
