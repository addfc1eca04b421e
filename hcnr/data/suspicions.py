"""What is probably not meant: models, data sets or tokenizers in each other's place."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hcnr.data.samples import SampleSet
from hcnr.data.tokens import TokenizedSet
from hcnr.detectors import DEFAULT, open_detector
from hcnr.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hcnr.models.pair import Pair

SWAPPED_SHARE = 0.1
"""Share of refusals among the task responses from which, beside none in the honesty data, the two
files are taken to be exchanged."""
REFUSING = (DEFAULT, "safety_keywords")
"""Detectors whose words count where a verdict asks whether the honesty data refuses at all."""
NO_REFUSALS = (
    "none of the measured honesty responses is a refusal (by English words, or by answerable: "
    "false in a record), so nothing says that refusals came back; repair with samples that refuse"
)
"""Why such a repair is in doubt, in the words of every verdict."""
FEW_REFUSALS = 0.1
"""Share of refusals in the honesty data below which a note says that they are few."""
FOREIGN_SHARE = 0.5
"""Share of the data's tokens that may mean something else to base before it is refused."""

LEARNT_BY_HEART = 0.1
"""Nats a response token below which tuned's loss on the task samples is noted: it gives every token
more than 90 percent on average, which text that it has not seen seldom allows."""


class Ends(Protocol):
    """Mean losses of the two models on samples of one data set."""

    @property
    def base(self) -> float:
        """Of the honest model."""
        ...

    @property
    def tuned(self) -> float:
        """Of the fine-tuned model."""
        ...


def refusals_in(samples: SampleSet, detectors: Iterable[str] = (DEFAULT,)) -> int:
    """Count the responses that one of some detectors takes for refusals, and marked records."""
    responses = [sample.response for sample in samples.samples]
    asked = [sample.prompt for sample in samples.samples]
    refused = np.array([sample.answerable is False for sample in samples.samples], dtype=bool)
    for name in detectors:
        refused |= open_detector(name).many(responses, asked)
    return int(refused.sum())


def about_refusals(honesty: SampleSet, task: SampleSet) -> list[str]:
    """Judge both data sets by how often their responses refuse, told from English words.

    Returns:
        What a user should know, one sentence each.

    Raises:
        DataError: no honesty response refuses and many task responses do.
    """
    ours, theirs = refusals_in(honesty), refusals_in(task)
    if ours == 0 and theirs >= max(2, SWAPPED_SHARE * len(task)):
        raise DataError(
            f"the honesty and the task data seem to be exchanged: {theirs} of the {len(task)} "
            f"responses of {task.source} are refusals and none of the {len(honesty)} of "
            f"{honesty.source}; pass the questions nobody can answer to --honesty"
        )
    if ours == 0:
        return [
            f"none of the {len(honesty)} honesty responses is a refusal by the words of the "
            f"detector {DEFAULT}: a repair can only bring back what these samples show"
        ]
    if theirs / len(task) > ours / len(honesty):
        return [
            f"{theirs} of the {len(task)} task responses refuse and {ours} of the {len(honesty)} "
            "honesty responses: check that the two files are not exchanged"
        ]
    if ours < FEW_REFUSALS * len(honesty):
        return [
            f"only {ours} of the {len(honesty)} honesty responses refuse: a repair brings back "
            "what these samples show, which is answers for the most part; half of them should be "
            "unanswerable questions with refusals"
        ]
    return []


def about_losses(losses: Mapping[Any, Ends]) -> list[str]:
    """Judge the order of the two models by their losses.

    Returns:
        A sentence where tuned is the better one on the honesty data and base on the task.
    """
    honesty, task = losses["honesty"], losses["task"]
    if not (honesty.tuned < honesty.base and task.base < task.tuned):
        return []
    return [
        f"base and tuned (or the two data sets) seem to be exchanged: tuned has the lower honesty "
        f"loss ({honesty.tuned:.4g}, base {honesty.base:.4g}) and base the lower task loss "
        f"({task.base:.4g}, tuned {task.tuned:.4g}); BASE is the model from before the fine-tuning"
    ]


def about_memory(task: Ends, samples: TokenizedSet) -> list[str]:
    """Judge by tuned's loss on task samples whether it may know them by heart.

    Responses that occur again and again, such as the labels of a few classes, are told as surely
    without having been seen, so nothing is said of them.

    Args:
        task: mean losses on the samples.
        samples: of the task.

    Returns:
        A sentence where tuned's loss is as low as new text seldom allows, and base's is not.
    """
    responses = {sample.input_ids[sample.response_start :] for sample in samples.samples}
    if not task.tuned < LEARNT_BY_HEART <= task.base or 2 * len(responses) < len(samples):
        return []
    return [
        f"tuned's loss on the task samples is {task.tuned:.2g} nats a token, which text that it "
        "has not seen seldom allows: if these are samples that it was tuned on, the share of the "
        "task that is kept tells how they are remembered, not how new ones are answered, and a "
        "search by it may give back too little; pass samples that were kept out of the fine-tuning"
    ]


def about_tokenizers(
    pair: "Pair", tokenizer: "PreTrainedTokenizerBase", sets: Mapping[str, TokenizedSet]
) -> list[str]:
    """Compare what the data's token ids mean to base with what they mean to the run's tokenizer.

    Returns:
        A sentence where some mean something else; nothing where base has no tokenizer.

    Raises:
        DataError: most of them do, so that base would read another text.
    """
    try:
        other = pair.base.tokenizer()
    except ModelError:
        return []
    ours, theirs = (
        {index: token for token, index in one.get_vocab().items()} for one in (tokenizer, other)
    )
    used = sorted({i for one in sets.values() for sample in one.samples for i in sample.input_ids})
    foreign = [i for i in used if ours.get(i) != theirs.get(i)]
    if not foreign:
        return []
    first = foreign[0]
    fact = (
        f"base and tuned read text differently: {len(foreign)} of the {len(used)} tokens in the "
        f"data mean something else to base (id {first} is {ours.get(first)!r}, and "
        f"{theirs.get(first)!r} to base)"
    )
    if len(foreign) > FOREIGN_SHARE * len(used):
        raise DataError(
            f"{fact}: name the checkpoint that the fine-tuning started from, or the tokenizer of "
            "both with --tokenizer"
        )
    return [f"{fact}; both are measured on tuned's tokens"]
