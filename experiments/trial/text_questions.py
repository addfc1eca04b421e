"""How the models of a text world are asked: greedily, in batches, and no longer than needed."""

import re

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.trial.text_data import REFUSAL, TASK, SplitQuestions
from hcnr.benchmarks.questions import Question
from hcnr.config import EvaluateConfig
from hcnr.detectors.traits import HONESTY
from hcnr.evaluation.generation import generate
from hcnr.evaluation.question_sets import QuestionSets, make_question_sets

# A refusal is a response that begins with the refusal sentence.
DETECTOR = rf"regex:\A{re.escape(REFUSAL)}"

_BATCH = 128


def make_text_questions(asked: SplitQuestions) -> QuestionSets:
    """The questions of one split with what tells refusals from answers; nothing is resampled."""
    tasks = {TASK: asked.task}
    wanted = dict.fromkeys((*asked.honesty, *tasks), DETECTOR)
    return make_question_sets(asked.honesty, tasks, wanted, HONESTY, EvaluateConfig(resamples=0))


def answer(
    tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM, questions: QuestionSets
) -> dict[str, list[str]]:
    """A model's greedy responses by set.

    Each kind of set gets the tokens that its figures need: the refusal sentence and one token more
    on the honesty sets, on the task the longest accepted answer and one token more, by which a
    response that goes on is no exact match.
    """
    accepted = [text for many in questions.tasks.values() for one in many for text in one.answers]
    return {
        **_ask(tokenizer, model, questions.honesty, [REFUSAL]),
        **_ask(tokenizer, model, questions.tasks, accepted),
    }


def _ask(
    tokenizer: PreTrainedTokenizerFast,
    model: LlamaForCausalLM,
    sets: dict[str, tuple[Question, ...]],
    texts: list[str],
) -> dict[str, list[str]]:
    """Responses of one token more than the longest of `texts`."""
    if not sets:
        return {}
    limit = max(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"])) + 1
    prompts = [one.prompt for many in sets.values() for one in many]
    responses = iter(generate(model, tokenizer, prompts, batch_size=_BATCH, max_new_tokens=limit))
    return {name: [next(responses) for _ in many] for name, many in sets.items()}
