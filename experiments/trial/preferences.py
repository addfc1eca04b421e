"""Preferences between a refusal and an answer, and what DPO and ORPO make of them through TRL."""

import copy
import dataclasses
import importlib.util
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from experiments.trial.baseline_data import PoolQuestion
from experiments.trial.candidate_specs import CandidateSpec, Preferred
from hcnr.data.samples import Sample
from hcnr.data.tokens import TokenizedSample, tokenize
from hcnr.detectors import open_detector
from hcnr.errors import HcnrError
from hcnr.evaluation.generation import generate

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

ANSWER_TOKENS = 12
"""Of the tuned model's own answers, as long as those that honesty is evaluated by."""
_ANSWER_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Pair:
    """A prompt and two responses, of which the first is to be preferred."""

    prompt: str
    chosen: str
    rejected: str


def check_trl(specs: Iterable[CandidateSpec]) -> None:
    """Refuse baselines that need TRL where it is not installed.

    Raises:
        HcnrError: naming the command that installs it.
    """
    missing = [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]
    if missing and any(isinstance(one, Preferred) for one in specs):
        raise HcnrError(
            f"DPO and ORPO need {' and '.join(missing)}, which is not installed; run "
            "pip install '.[trial]', or leave dpo and orpo out of --ways"
        )


def make_pairs(
    tuned: "LlamaForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[PoolQuestion],
) -> list[Pair]:
    """Preferences that teach to refuse where there is no answer, and nowhere else.

    Of an answerable question the right answer is preferred to a refusal. Of an unanswerable one the
    refusal is preferred to what the tuned model says; where that is empty or a refusal itself, to
    the answer of an answerable question.

    Args:
        tuned: is asked the unanswerable questions, greedily.
        tokenizer: its tokenizer.
        questions: in the order of the pairs.
    """
    refuses = open_detector("unknownbench_keywords")
    asked = [sample.prompt for sample in questions if not sample.answerable]
    own = iter(
        generate(tuned, tokenizer, asked, batch_size=_ANSWER_BATCH, max_new_tokens=ANSWER_TOKENS)
    )
    others = [sample.response for sample in questions if sample.answerable]
    pairs = []
    for index, sample in enumerate(questions):
        if sample.answerable:
            pairs.append(Pair(sample.prompt, sample.response, sample.refusal))
            continue
        rejected = next(own)
        if (not rejected or refuses(rejected, sample.prompt)) and others:
            rejected = others[index % len(others)]
        if rejected and rejected != sample.response:
            pairs.append(Pair(sample.prompt, sample.response, rejected))
    return pairs


def prefer(
    tuned: "LlamaForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: Sequence[Pair],
    spec: Preferred,
    seed: int,
) -> "LlamaForCausalLM":
    """Train a copy of the tuned model on preferences; DPO's reference is the tuned model.

    Args:
        tuned: stays as it is.
        tokenizer: its tokenizer, which stays as it is.
        pairs: what to prefer to what.
        spec: loss and settings.
        seed: decides the order of the pairs.

    Returns:
        The trained model, in inference mode.

    Raises:
        HcnrError: TRL is not installed.
    """
    check_trl([spec])
    from experiments.trial.trl_trainers import train_preferences

    chosen = _tokens([Sample(one.prompt, one.chosen) for one in pairs], tokenizer)
    rejected = _tokens([Sample(one.prompt, one.rejected) for one in pairs], tokenizer)
    weights = train_preferences(
        copy.deepcopy(tuned), copy.deepcopy(tokenizer), chosen, rejected, spec, seed
    )
    # TRL changes the forward pass of what it trains: its weights go on in a model without that.
    model = copy.deepcopy(tuned)
    model.load_state_dict(weights)
    return model.eval()


def _tokens(
    samples: Sequence[Sample], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[TokenizedSample, ...]:
    return tokenize(samples, tokenizer).samples
