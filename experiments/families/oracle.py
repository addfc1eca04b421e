"""Fisher scores of neurons by single-sample backward passes, in float64 where the model can.

Nothing of the project is used here: rows are gradients of whole weights by autograd.
"""

import contextlib
import copy
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Row(NamedTuple):
    """One sample: its token ids, and where the response begins."""

    ids: list[int]
    start: int


def rows_of(records: Iterable[dict[str, str]], tokenizer: Any) -> list[Row]:
    """Samples of words as ids: prompt, response, end."""

    def ids(text: str) -> list[int]:
        return [tokenizer.convert_tokens_to_ids(word) for word in text.split()]

    samples = []
    for record in records:
        prompt = ids(record["prompt"])
        samples.append(
            Row([*prompt, *ids(record["response"]), tokenizer.eos_token_id], len(prompt))
        )
    return samples


def loss_of(model: Any, row: Row) -> Tensor:
    """Mean negative log-likelihood of a response, of one sample without padding."""
    logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0].double()
    steps = range(row.start, len(row.ids))
    return -torch.stack(
        [torch.log_softmax(logits[step - 1], 0)[row.ids[step]] for step in steps]
    ).mean()


def runs(model: Any, rows: Sequence[Row]) -> str:
    """Run one sample forward and backward: `float64`, or `float32` where that fails.

    Raises:
        Exception: whatever the model raises in float32.
    """
    loss_of(model, rows[0]).backward()
    model.zero_grad()
    try:
        loss_of(_exact(model, torch.float64), rows[0]).backward()
    except (RuntimeError, TypeError, ValueError):  # parts that are float32 by their own code
        return "float32"
    return "float64"


def fisher(
    model: Any, matrices: Iterable[str], rows: Sequence[Row], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Mean over samples of squared row norms of each matrix' gradient, float64 `[out]`.

    Args:
        model: copied, not changed.
        matrices: names of modules, or of an expert's slice: the tensor's name and its number.
        rows: samples.
        dtype: to compute in.
    """
    exact = _exact(model, dtype)
    parameters = dict(exact.named_parameters(remove_duplicate=False))
    names = list(matrices)
    places = {name: _place(name, parameters) for name in names}
    turned = {name: _is_transposed(exact, name) for name in names}
    weights = list(dict.fromkeys(weight_name for weight_name, _ in places.values()))
    totals: dict[str, Tensor] = {}
    for row in rows:
        gradients = torch.autograd.grad(
            loss_of(exact, row), [parameters[name] for name in weights], allow_unused=True
        )
        by_name = dict(zip(weights, gradients, strict=True))
        for name, (weight_name, index) in places.items():
            of_weight = by_name[weight_name]
            if of_weight is None:
                of_weight = torch.zeros_like(parameters[weight_name])
            gradient = (of_weight if index is None else of_weight[index]).double()
            squares = gradient.pow(2).sum(0 if turned[name] else 1) / len(rows)
            totals[name] = totals[name] + squares if name in totals else squares
    return totals


def _exact(model: Any, dtype: torch.dtype) -> Any:
    """A copy in a dtype, whose experts run in a loop: grouped products know no float64."""
    exact = copy.deepcopy(model).to(dtype).eval()
    with contextlib.suppress(AttributeError, ValueError):
        exact.set_experts_implementation("eager")
    return exact


def _place(name: str, parameters: dict[str, Any]) -> tuple[str, int | None]:
    if f"{name}.weight" in parameters:
        return f"{name}.weight", None
    owner, _, index = name.rpartition(".")
    return owner, int(index)


def _is_transposed(model: Any, name: str) -> bool:
    """Whether a weight is stored `[in, out]`."""
    try:
        return type(model.get_submodule(name)).__name__ == "Conv1D"
    except AttributeError:
        return bool(model.get_submodule(name.split(".experts.")[0] + ".experts").is_transposed)
