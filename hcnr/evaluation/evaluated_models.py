"""The models that answer: named, fingerprinted, asked, their answers kept."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcnr.config import RestoreConfig
from hcnr.errors import ConfigError
from hcnr.evaluation.answers import Key, prompt_hash
from hcnr.evaluation.asking import EvaluationRun, OnAnswer, Responses, answer_missing, members
from hcnr.evaluation.calibration import calibration, refusal_probability
from hcnr.evaluation.generation import end_tokens, generate
from hcnr.evaluation.hashes import weights_sha256
from hcnr.evaluation.judged import INTERPOLATION
from hcnr.evaluation.metrics import contains_answer
from hcnr.evaluation.prompts import encode_prompts
from hcnr.evaluation.question_sets import QuestionSets
from hcnr.models.directory import DirectorySource
from hcnr.models.model import open_tokenizer
from hcnr.models.pair import open_evaluated
from hcnr.models.source import ModelSource, Source
from hcnr.progress import Watcher
from hcnr.versions import versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate.

    Attributes:
        label: its name in every table and file, unique in a run.
        source: where its weights are.
        fingerprint: of a few rows of its weights, as a restoration's report has it.
    """

    label: str
    source: Source
    fingerprint: str

    @cached_property
    def sha256(self) -> str:
        """Of all of its weights; they are read when this is first asked for."""
        return weights_sha256(self.source)


def name_evaluated(models: Sequence[Any], base: Any = None) -> list[EvaluatedModel]:
    """Open models or directories and give each a label of its own.

    Args:
        models: each a checkpoint directory, that of an adapter, or a model in memory.
        base: what adapters are merged into that name no base which is there.

    Raises:
        ConfigError: one model is given twice, or named as the interpolated ones are.
        HcnrError: one cannot be opened.
    """
    evaluated_models: list[EvaluatedModel] = []
    for model in models:
        source = open_evaluated(model, base)
        if any(_same(source, other.source) for other in evaluated_models):
            raise ConfigError(f"the model {source} is given twice; give each model once")
        print_ = source.fingerprint()
        # A fingerprint that another model has as well tells nobody apart.
        shared = any(other.fingerprint == print_ for other in evaluated_models)
        short = (weights_sha256(source) if shared else print_)[:8]
        path = Path(model) if isinstance(model, str | Path) else None
        label = f"{type(model).__name__}-{short}" if path is None else path.resolve().name
        label = re.sub(r"[^A-Za-z0-9._-]+", "-", label)
        if label.startswith(INTERPOLATION):
            raise ConfigError(
                f"the model {source} would be called {label}, and names with {INTERPOLATION} are "
                "those of interpolated models; rename its directory"
            )
        if any(other.label == label for other in evaluated_models):
            label = f"{label}-{short}"
        if any(other.label == label for other in evaluated_models):
            raise ConfigError(
                f"the model {source} has the name and the weights of another one given; give each "
                "model once"
            )
        evaluated_models.append(EvaluatedModel(label, source, print_))
    return evaluated_models


def telling_fingerprints(evaluated_models: Sequence[EvaluatedModel]) -> dict[str, str]:
    """Fingerprints by label, without those that models of different weights share."""
    return {
        model.label: model.fingerprint
        for model in evaluated_models
        if all(
            other.sha256 == model.sha256
            for other in evaluated_models
            if other.fingerprint == model.fingerprint
        )
    }


def _same(first: Source, second: Source) -> bool:
    """Whether two sources are one directory or one model in memory."""
    if isinstance(first, DirectorySource) and isinstance(second, DirectorySource):
        return first.path.resolve() == second.path.resolve()
    return (
        isinstance(first, ModelSource)
        and isinstance(second, ModelSource)
        and first.model is second.model
    )


@contextlib.contextmanager
def opened(evaluated: EvaluatedModel, tokenizer: Any, config: RestoreConfig
           ) -> "Iterator[tuple[PreTrainedModel, PreTrainedTokenizerBase]]":  # fmt: skip
    """The model and the tokenizer of an evaluated model, ready to be asked."""
    words = evaluated.source.tokenizer() if tokenizer is None else open_tokenizer(tokenizer)
    with evaluated.source.opened(config) as model:
        yield model, words


def ask(
    run: EvaluationRun,
    label: str,
    sha256: str,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
) -> Responses:
    """Ask a model every question that it has not answered yet.

    Args:
        run: what and how.
        label: its name.
        sha256: of its weights.
        model: itself.
        tokenizer: its tokenizer.

    Raises:
        DataError: a question cannot be asked.
        OutputError: the answers kept are another model's.
    """
    questions, config = members(run.question_sets), run.config
    ids = encode_prompts([one.asked for _, one in questions], tokenizer, config.chat_template)
    keys: list[Key] = [
        (name, one.id, prompt_hash(tokens))
        for (name, one), tokens in zip(questions, ids, strict=True)
    ]
    known_versions = versions()
    facts = {
        "model": label,
        "sha256": sha256,
        "max_new_tokens": config.max_new_tokens,
        "chat_template": config.chat_template,
        "dtype": str(model.dtype).removeprefix("torch."),
        "end_tokens": sorted(end_tokens(model, tokenizer)),
        **{name: known_versions.get(name) for name in ("hcnr", "transformers")},
    }

    def answering(missing: list[int], keep: OnAnswer, watcher: Watcher) -> None:
        generate(
            model,
            tokenizer,
            [ids[i] for i in missing],
            batch_size=config.batch_size,
            max_new_tokens=config.max_new_tokens,
            names=[f"question {keys[i][1]!r} of {keys[i][0]}" for i in missing],
            on_answer=keep,
            watcher=watcher,
        )

    responses = answer_missing(run, label, facts, keys, answering)
    columns = {}
    if run.refusal is not None:
        with run.stages.stage(f"calibration of {label}"):
            chance = refusal_probability(
                model, tokenizer, ids, run.refusal, batch_size=config.batch_size
            )
        columns = _calibration(run.question_sets, responses, chance)
    return Responses(responses, columns)


def _calibration(
    question_sets: QuestionSets, responses: dict[str, list[str]], chance: Any
) -> dict[str, Any]:
    import numpy as np

    columns, start = {}, 0
    for name, questions in question_sets.sets.items():
        mine = chance[start : start + len(questions)]
        start += len(questions)
        pairs = list(zip(questions, responses[name], strict=True))
        # An answerable question without a known answer can be judged neither way.
        judged = np.array(
            [not one.answerable or any(map(str.strip, one.answers)) for one, _ in pairs]
        )
        plain = not question_sets.compat
        right = np.array(
            [one.answerable and contains_answer(t, one.answers, plain=plain) for one, t in pairs]
        )
        if judged.any():
            columns[name] = calibration(mine[judged], right[judged])
    return columns
