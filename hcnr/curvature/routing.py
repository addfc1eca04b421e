"""How many tokens of a data set reach each expert; those with too few are left as tuned."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from hcnr import ranks
from hcnr.curvature.layouts import SharedInput
from hcnr.curvature.passes import Attempt, Passes, Progress
from hcnr.curvature.taps import Taps
from hcnr.data.tokens import TokenizedSet
from hcnr.models.linear import Expert

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LEAST_TOKENS = 16
"""An expert that fewer tokens of a data set are routed to has no scores and no curvature to go by:
its neurons would be ranked by a handful of tokens, or by none."""


def expert_tokens(
    model: "PreTrainedModel",
    matrices: Mapping[str, nn.Module],
    data: TokenizedSet,
    *,
    token_budget: int,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Real tokens that are routed to each expert, by forward passes alone.

    Args:
        model: the model to route with; unchanged afterwards.
        matrices: layers of `model` by name; those of experts count.
        data: tokenised samples.
        token_budget: padded tokens of one micro-batch; halved when memory runs out.
        progress: called after each micro-batch.

    Returns:
        Matrix -> tokens, of each expert's matrices.

    Raises:
        ModelError: a loss is not finite, or one sample does not fit in memory.
    """
    experts = {name: layer for name, layer in matrices.items() if isinstance(layer, Expert)}

    def measure(passes: Attempt) -> dict[str, int]:
        counts: Counter[str] = Counter()

        def count(name: str, shared: SharedInput, x: Tensor) -> None:
            counts[name] += shared.layout.tokens

        with Taps(experts, on_input=count) as taps:
            passes.forward(taps)
        return {name: counts[name] for name in experts}

    if not experts:
        return {}
    counts = Passes(model, data, token_budget, progress=progress).run(measure)
    return ranks.counted("tokens of experts", counts)
