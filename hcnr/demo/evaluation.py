"""What the lab reports about a model: honesty, refusals, and the task, all by greedy decoding."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedTokenizerFast

from hcnr.config import EvaluateConfig
from hcnr.demo.benchmarks import NAMES, TASK, Part, honesty_benchmark, task_benchmark
from hcnr.demo.tokenizer import encode_prompts
from hcnr.demo.world import REFUSAL, World
from hcnr.detectors.traits import HONESTY
from hcnr.evaluation.asking import by_set, members
from hcnr.evaluation.metrics import Outcomes
from hcnr.evaluation.question_sets import make_question_sets
from hcnr.evaluation.scoring import SetScores


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures of one model, all in percent.

    Attributes:
        honesty_f1: F1 of refusing, where the positives are the unseen unknown names.
        refusal_unknown: refusal rate on unseen unknown names; higher is better.
        refusal_known: refusal rate on known names; lower is better.
        known_accuracy: exactly right answers on known names, in the relations of the base.
        task_accuracy: the same of the fine-tuning task, on facts that were not measured.
        delta_draws: the refusal delta over resamples of the names, `[R]`, for intervals.
        task_step: points of task accuracy that one question is.
    """

    honesty_f1: float
    refusal_unknown: float
    refusal_known: float
    known_accuracy: float
    task_accuracy: float
    delta_draws: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)
    task_step: float | None = dataclasses.field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, scores: SetScores) -> "Evaluation":
        """Pick the figures out of a model's scores on the lab's two sets."""
        names, task = scores.values[NAMES], scores.values[TASK]
        return cls(
            honesty_f1=float(names["f1"]),
            refusal_unknown=float(names["refusal_rate_unanswerable"]),
            refusal_known=float(names["refusal_rate_answerable"]),
            known_accuracy=float(names["accuracy_answerable"]),
            task_accuracy=float(task["accuracy"]),
            delta_draws=scores.delta_draws,
            task_step=scores.task_step,
        )

    @property
    def refusal_delta(self) -> float:
        """How many points more often unknown names are refused than known ones."""
        return self.refusal_unknown - self.refusal_known

    @property
    def refusal_rate_answerable(self) -> float:
        """The refusal rate on known names, as a sweep calls it."""
        return self.refusal_known

    def as_dict(self) -> dict[str, float]:
        """Every figure by its name."""
        names = [field.name for field in dataclasses.fields(self) if field.compare]
        return {name: getattr(self, name) for name in (*names, "refusal_delta")}


class Examiner:
    """Asks models the questions of one part of a world and judges what they say.

    Attributes:
        benchmarks: the honesty set and the task set.
        question_sets: the same questions with their detectors.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, world: World, part: Part = "evaluated"
    ) -> None:
        """Prepare the questions; asks nobody yet."""
        honesty, task = honesty_benchmark(world, part), task_benchmark(world, part)
        self.benchmarks = (honesty, task)
        self.question_sets = make_question_sets(
            {honesty.name: honesty.questions},
            {task.name: task.questions},
            {benchmark.name: benchmark.detector for benchmark in self.benchmarks},
            HONESTY,
            EvaluateConfig(),
        )
        self._tokenizer = tokenizer

    def ask(self, model: LlamaForCausalLM) -> dict[str, list[str]]:
        """A model's responses by set, all from one batch."""
        prompts = [question.prompt for _, question in members(self.question_sets)]
        return by_set(self.question_sets, generate(model, self._tokenizer, prompts))

    def score(self, responses: Mapping[str, Sequence[str]]) -> SetScores:
        """Judge responses by set.

        All answers of the world are single words, so a response that goes on after the right one
        is wrong, although it contains it.
        """
        scores = self.question_sets.score(responses)
        return dataclasses.replace(
            scores, honesty=_exact(scores.honesty), tasks=_exact(scores.tasks)
        )

    def __call__(self, model: LlamaForCausalLM) -> Evaluation:
        """A model's figures."""
        return Evaluation.of(self.score(self.ask(model)))

    def refuse_all(self) -> Evaluation:
        """What a model that always refuses would score: the reason why F1 decides nothing."""
        refusals = {name: [REFUSAL] * len(many) for name, many in self.question_sets.sets.items()}
        return Evaluation.of(self.score(refusals))


def _exact(sets: Mapping[str, Outcomes]) -> dict[str, Outcomes]:
    return {name: dataclasses.replace(one, contained=one.exact) for name, one in sets.items()}


@torch.no_grad()
def generate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]
) -> list[str]:
    """Greedy responses to all prompts at once.

    Prompts have one length, so there is no padding and no mask; `model.generate` would spend most
    of its time on bookkeeping that a hundred-millisecond run does not need.
    """
    limit = len(tokenizer(REFUSAL, add_special_tokens=False)["input_ids"]) + 1
    ids = encode_prompts(tokenizer, prompts)
    # Passed by its place: what it is called differs between versions of transformers.
    cache = DynamicCache(config=model.config)
    output = model.model(ids, None, None, cache, use_cache=True)
    tokens: list[torch.Tensor] = []
    finished = torch.zeros(len(prompts), dtype=torch.bool)
    while True:
        token = model.lm_head(output.last_hidden_state[:, -1]).argmax(dim=-1)
        token[finished] = tokenizer.pad_token_id
        tokens.append(token)
        finished |= token == tokenizer.eos_token_id
        if len(tokens) == limit or bool(finished.all()):
            break
        output = model.model(token[:, None], None, None, cache, use_cache=True)
    return tokenizer.batch_decode(torch.stack(tokens, dim=1), skip_special_tokens=True)
