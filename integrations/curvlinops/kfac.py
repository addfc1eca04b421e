"""Kronecker factors for curvlinops: put into its operator, which then multiplies with them."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import warnings
from typing import Any

import torch
from curvlinops import FisherType, KFACLinearOperator, KFACType
from torch import Tensor, nn

from hcnr.errors import ConfigError, ModelError
from integrations.factors import collect

Tables = dict[str, dict[str, Tensor]]


def fill(operator: KFACLinearOperator) -> Tables:
    """Compute the Kronecker factors of an operator by our taps, and put them into it.

    Supported: linear layers, `FisherType.EMPIRICAL` or `FORWARD_ONLY`, `KFACType.EXPAND`, losses
    with reduction `mean` or `sum`. The operator then takes no pass of its own. A layer's input
    that others read too is multiplied once.

    Args:
        operator: before its first product; its model, loss and data are used as it would.

    Returns:
        The state entries that were set: `input_covariances`, layer -> `[in, in]`, and
        `gradient_covariances`, layer -> `[out, out]`, fp32, scaled as the operator scales them.

    Raises:
        HcnrError: a kind, a layer or a loss that is not supported.
    """
    if not isinstance(operator, KFACLinearOperator):
        raise ConfigError(
            f"the operator is a {type(operator).__name__}, expected curvlinops' KFACLinearOperator"
        )
    state = operator.state_dict()
    _check(state)
    model, loss = operator._model_func, operator._loss_func
    layers: dict[str, nn.Linear] = {}
    for name in operator._mapping:
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            raise ModelError(f"{name} is a {type(layer).__name__}; only nn.Linear is supported")
        layers[name] = layer

    def total(batch: Any) -> Tensor:
        """Sum over all loss terms: the operator's own scale is put on at the end."""
        x, y = batch
        output, y = operator._rearrange_for_larger_than_2d_output(model(x), y)
        value = operator._maybe_adjust_loss_scale(loss(output, y), output)
        return value * (len(output) if loss.reduction == "mean" else 1)

    def size(batch: Any) -> int:
        return operator._batch_size_fn(batch[0])

    sums = collect(
        model, layers, operator._loop_over_data(desc="Kronecker factors"), total, size=size,
        bias=not state["separate_weight_and_bias"],
    )  # fmt: skip
    terms = state["num_data"] * state["num_per_example_loss_terms"]
    share = 1 / terms if loss.reduction == "mean" else 1.0
    tables: Tables = {
        "input_covariances": {
            name: own / sums.tokens[name]
            for name, own in sums.input.items()
            if "weight" in operator._mapping[name]
        },
        "gradient_covariances": {name: own * share for name, own in sums.gradient.items()},
    }
    if state["fisher_type"] == FisherType.FORWARD_ONLY:
        tables["gradient_covariances"] = {
            name: torch.eye(len(own), device=own.device) for name, own in sums.gradient.items()
        }
    fresh = dict.fromkeys(("trace", "det", "logdet", "frobenius_norm"))
    with warnings.catch_warnings():
        # That the parameters are overwritten: they are, with themselves.
        warnings.simplefilter("ignore", UserWarning)
        operator.load_state_dict({**state, **fresh, **tables})
    return tables


def _check(state: dict[str, Any]) -> None:
    """Refuse kinds of curvature that are not one squared gradient per token.

    Raises:
        ConfigError: naming the argument.
    """
    supported = {
        "fisher_type": (FisherType.EMPIRICAL, FisherType.FORWARD_ONLY),
        "kfac_approx": (KFACType.EXPAND,),
        "loss_reduction": ("mean", "sum"),
    }
    for key, values in supported.items():
        if state[key] not in values:
            allowed = " or ".join(str(getattr(value, "value", value)) for value in values)
            raise ConfigError(
                f"{key} is {getattr(state[key], 'value', state[key])!r}, expected {allowed}; let "
                "curvlinops compute the factors of other kinds"
            )
