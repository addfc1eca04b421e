"""The pool of a real pair's baselines: that of `hcnr data build --rait`, asked as the others.

It holds KUQ and FalseQA questions (among them those of the base), PUQA and TriviaQA; no question of
it equals an evaluation question or differs from one in a single token.
"""

import importlib.metadata
import random
from typing import Any

from experiments.trial.baseline_data import POOL_SEED, BaselineData, PoolQuestion
from experiments.trial.candidate_specs import Preferred, Rait
from experiments.trial.real_data import INSTRUCTION, RealData, real_target
from experiments.trial.real_recipe import RealRecipe
from experiments.trial.real_world import tuned_schedule
from hcnr.benchmarks.pools import RAIT_SIZE, parse_puqa, parse_triviaqa, rait_samples, sample
from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.sources import Records
from hcnr.benchmarks.splits import Splits
from hcnr.data.refusals import refusal
from hcnr.detectors import open_detector


def baseline_facts() -> dict[str, Any]:
    """How much less the baselines are given than the paper's, and by which TRL."""
    try:
        trl = importlib.metadata.version("trl")
    except importlib.metadata.PackageNotFoundError:
        trl = None
    return {
        "pool": RAIT_SIZE,
        "rait": {"samples": Rait.samples, "epochs": Rait.epochs},
        "preferences": {"pairs": Preferred.samples, "epochs": Preferred.epochs, "trl": trl},
    }


def draw_baseline_data(records: Records, recipe: RealRecipe, data: RealData) -> BaselineData:
    """What the baselines of a real pair train on; takes seconds.

    Args:
        records: reads the data files.
        recipe: of the pair; its seed decides the order of the pool.
        data: of the pair.

    Raises:
        DataError: a file is missing or not the known one, or the pool is too small.
    """
    return BaselineData(draw_pool(records, recipe), data.tuned, tuned_schedule(recipe))


def draw_pool(records: Records, recipe: RealRecipe) -> tuple[PoolQuestion, ...]:
    """The usable questions of the replication's RAIT pool, in an order that the seed decides."""
    splits = Splits(records)
    refuses = open_detector("unknownbench_keywords")
    honesty = [item.question for item in splits.kuq_training()]
    honesty += [one for pair in splits.falseqa_training() for one in (pair.false, pair.true)]
    records_of_pool = rait_samples(
        map(sample, honesty),
        splits.without_evaluation(parse_puqa(records("alignment_for_honesty/puqa.jsonl"))),
        splits.without_evaluation(parse_triviaqa(records("triviaqa/test_subsample.jsonl"))),
        refuses,
    )
    pool = [
        one
        for one in (_pool_question(record, recipe) for record in records_of_pool)
        # Cutting an answer may leave what a detector takes for a refusal.
        if len((text := one.prompt.removeprefix(INSTRUCTION)).split()) <= recipe.prompt_words
        and refuses(one.response, text) is not one.answerable
    ]
    random.Random(f"{POOL_SEED}-{recipe.seed}").shuffle(pool)
    return tuple(pool)


def _pool_question(record: dict[str, Any], recipe: RealRecipe) -> PoolQuestion:
    """A row of the pool in the form of a real pair: the instruction, a short answer."""
    prompt = INSTRUCTION + " ".join(record["question"].split())
    question = Question(
        id=record["id"],
        set=record["set"],
        question=record["question"],
        answerable=record["answerable"],
        answers=(record["response"],) if record["answerable"] else (),
        prompt=prompt,
    )
    return PoolQuestion(
        prompt=prompt,
        response=real_target(question, recipe),
        refusal=refusal(record["question"]),
        answerable=record["answerable"],
    )
