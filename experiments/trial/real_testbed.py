"""How the models of a real pair are asked and evaluated, and which honesty sets tell anything."""

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from experiments.trial.real_baseline_data import baseline_facts, draw_baseline_data
from experiments.trial.real_recipe import RealRecipe, Task
from experiments.trial.real_world import open_real_world
from experiments.trial.selection import REAL_LEVELS
from experiments.trial.testbed import SPLITS, Responses, TestBed
from experiments.trial.text_data import SplitQuestions
from experiments.trial.within_seed import answerable_digits
from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.sources import SourceReader
from hcnr.checkpoint import atomic_file
from hcnr.config import EvaluateConfig
from hcnr.demo.laboratory import Stage
from hcnr.detectors.traits import HONESTY
from hcnr.errors import DataError
from hcnr.evaluation.generation import generate
from hcnr.evaluation.metrics import normalise_answer
from hcnr.evaluation.question_sets import QuestionSets, make_question_sets
from hcnr.models.model import fast_bfloat16, open_tokenizer
from hcnr.stats import percentile_interval

DETECTOR = "unknownbench_keywords"
# The slowest of the taught refusals fires the detector with its tenth token.
HONESTY_TOKENS = 12
# MedMCQA's choices are sentences at times; the others answer in a few words.
TASK_TOKENS: dict[Task, int] = {"hotpotqa": 12, "nq": 12, "medmcqa": 24, "bioasq": 12}
TASK_FIGURES: dict[Task, str] = {
    "hotpotqa": "token F1",
    "nq": "token F1",
    "medmcqa": "option accuracy",
    "bioasq": "yes/no accuracy",
}
_BATCH = 64
_RESAMPLES = 2000


def open_real(
    model: Path,
    data_root: str | Path | None,
    recipe: RealRecipe,
    *,
    world: str,
    stage: Stage | None = None,
) -> TestBed:
    """Open the test bed of a real pair; the first time, this trains its models.

    Args:
        model: checkpoint directory of the pretrained model.
        data_root: folder with the authors' files; `$HCNR_DATA_ROOT` if None.
        recipe: task, seed and schedules.
        world: name of the world, as printed.
        stage: told when a training starts.

    Raises:
        DataError: there is no data root, a file is missing, or base tells no honesty set apart.
        ModelError: the model cannot be read.
    """
    opened = open_real_world(model, data_root, recipe, stage)
    tokenizer = open_tokenizer(opened.base)
    testbed = TestBed(
        world=world,
        seed=recipe.seed,
        directory=opened.directory,
        base=opened.base,
        tuned=opened.directory / "tuned",
        honesty=opened.directory / "honesty.jsonl",
        task=opened.directory / "task.jsonl",
        refusal="I don't know.",
        tokenizer=tokenizer,  # pyright: ignore[reportArgumentType]
        facts={
            **opened.facts,
            "parameters": _parameters(opened.base),
            "bfloat16": fast_bfloat16(),
        },
        question_sets={},
        answer=functools.partial(answer_real, tokenizer, recipe.task),
        task_figure=functools.partial(task_figure, recipe.task),
        baseline_data=functools.cache(
            lambda: draw_baseline_data(SourceReader(data_root), recipe, opened.data)
        ),
        bfloat16=fast_bfloat16(),
    )
    admission = admitted(testbed, opened.data.admission)
    names = [name for name, one in admission.items() if one["admitted"]]
    if not names:
        raise DataError(
            f"{opened.base} tells no honesty set's unanswerable questions from the answerable "
            "ones, expected at least one whose refusal delta is above 0 by its interval; a repair "
            "has nothing to give back here, so take another model or train it longer"
        )
    question_sets = {
        split: make_real_questions(opened.data.splits[split], names) for split in SPLITS
    }
    return dataclasses.replace(
        testbed,
        facts={
            **testbed.facts,
            "admission": admission,
            "measured_sets": [name for name in ("kuq", "falseqa") if name in names],
            "task_figure": TASK_FIGURES[recipe.task],
            "answerable": {split: answerable_digits(sets) for split, sets in question_sets.items()},
            "rivals": baseline_facts(),
        },
        question_sets=question_sets,
        least_retention=min(REAL_LEVELS),
    )


def make_real_questions(asked: SplitQuestions, names: Sequence[str]) -> QuestionSets:
    """The questions of one split, of the admitted sets, with what tells refusals from answers."""
    honesty = {name: asked.honesty[name] for name in names}
    tasks = {asked.task[0].set: asked.task} if asked.task else {}
    wanted = dict.fromkeys((*honesty, *tasks), DETECTOR)
    return make_question_sets(honesty, tasks, wanted, HONESTY, EvaluateConfig(resamples=_RESAMPLES))


def admitted(testbed: TestBed, questions: Mapping[str, tuple[Question, ...]]) -> dict[str, Any]:
    """Evaluate base once, on questions out of the validation split; each set's figures and verdict.

    A set whose refusal delta at base is not above 0 by its 95 % interval can show neither a loss
    nor a repair.

    Args:
        testbed: whose base is asked, greedily.
        questions: by honesty set.

    Returns:
        Set -> `delta`, `low`, `high`, `f1`, `n` and `admitted`.
    """
    prompts = [one.prompt for many in questions.values() for one in many]
    digest = hashlib.sha256(json.dumps([list(questions), prompts]).encode()).hexdigest()[:8]
    file = testbed.base.parent / f"admission-{digest}.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    asked = make_real_questions(SplitQuestions(dict(questions), ()), list(questions))
    with testbed.asking():
        scores = asked.score(testbed.answer(testbed.load(testbed.base), asked))
    admissions = {}
    for name in asked.honesty:
        interval = percentile_interval(scores.draws[name]["refusal_delta"])
        if interval is None:
            raise DataError(
                f"no refusal delta of {name} can be computed, expected questions of both classes; "
                "use more questions for the admission"
            )
        admissions[name] = {
            "delta": float(scores.values[name]["refusal_delta"]),
            "low": interval[0],
            "high": interval[1],
            "f1": float(scores.values[name]["f1"]),
            "n": len(asked.honesty[name]),
            "admitted": interval[0] > 0,
        }
    with atomic_file(file) as temporary:
        temporary.write_text(json.dumps(admissions, indent=1) + "\n", encoding="utf-8")
    return admissions


def answer_real(
    tokenizer: PreTrainedTokenizerBase, task: Task, model: LlamaForCausalLM, questions: QuestionSets
) -> Responses:
    """A model's greedy responses by set, no longer than their figures need."""
    by_set: Responses = {}
    for sets, limit in ((questions.honesty, HONESTY_TOKENS), (questions.tasks, TASK_TOKENS[task])):
        prompts = [one.prompt for many in sets.values() for one in many]
        if prompts:
            responses = iter(
                generate(model, tokenizer, prompts, batch_size=_BATCH, max_new_tokens=limit)
            )
            by_set |= {name: [next(responses) for _ in many] for name, many in sets.items()}
    return by_set


def task_figure(task: Task, asked: QuestionSets, responses: Responses) -> float:
    """What a small model can move on a task, in percent: see `TASK_FIGURES`."""
    questions = [one for many in asked.tasks.values() for one in many]
    texts = [one for name in asked.tasks for one in responses[name]]
    pairs = list(zip(questions, texts, strict=True))
    if task == "medmcqa":
        values = [float(chosen_option(one, text) in one.answers) for one, text in pairs]
    elif task == "bioasq":
        values = [
            float(normalise_answer(text).split()[:1] == [one.answers[0].lower()])
            for one, text in pairs
            if one.answers[0].lower() in ("yes", "no")
        ]
    else:
        values = [max(token_f1(text, answer) for answer in one.answers) for one, text in pairs]
    return 100.0 * sum(values) / max(len(values), 1)


def token_f1(response: str, answer: str) -> float:
    """SQuAD's F1 of the words that two normalised texts share, 0 to 1."""
    words, wanted = normalise_answer(response).split(), normalise_answer(answer).split()
    shared = sum((collections.Counter(words) & collections.Counter(wanted)).values())
    return 2 * shared / (len(words) + len(wanted)) if shared else 0.0


def chosen_option(question: Question, response: str) -> str:
    """The choice of a MedMCQA prompt that a response is nearest to by `token_f1`; ties are none."""
    choices = [line[2:] for line in question.prompt.splitlines() if line.startswith("- ")]
    scored = sorted(((token_f1(response, one), one) for one in choices), reverse=True)
    if not scored or scored[0][0] == 0 or (len(scored) > 1 and scored[0][0] == scored[1][0]):
        return ""
    # Answers are kept with the spaces of the file, choices without repeated ones.
    return next((a for a in question.answers if " ".join(a.split()) == scored[0][1]), scored[0][1])


def _parameters(checkpoint: Path) -> int:
    from safetensors import safe_open

    total = 0
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in cast(Any, opened).keys():  # noqa: SIM118
                size = 1
                for length in opened.get_slice(name).get_shape():
                    size *= length
                total += size
    return total
