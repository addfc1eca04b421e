"""The pipeline: measure, select, compensate, write. The one place that knows the order."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcnr.checkpoint import output_directory
from hcnr.config import RestoreConfig
from hcnr.errors import DataError, StatisticsError
from hcnr.examples import Sample, load_samples
from hcnr.measure import curvature, score
from hcnr.model import open_tokenizer
from hcnr.pair import Pair, Role
from hcnr.repair import Repairs, check_curvature
from hcnr.report import write_companions
from hcnr.selection import Selection, check_statistics, select_neurons
from hcnr.stages import Stages, Watcher
from hcnr.statistics import Statistics
from hcnr.tokens import TokenizedSet, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Data = str | Path | Iterable[Mapping[str, Any] | Sample]

MEASURED_WITH = (
    "axis", "targets", "ignore", "fisher_at", "hessian_at", "samples", "shuffle_seed",
    "max_length", "chat_template", "attention", "dtype",
)  # fmt: skip
"""Settings that the numbers in the statistics depend on."""

TAKEN_OVER = ("samples", "shuffle_seed", "max_length", "chat_template", "attention", "dtype")
"""Those of them that a run with given statistics takes from the statistics: they say how was
measured, and the run's own report and configuration must say it too."""


def measure(
    base: "str | Path | PreTrainedModel",
    tuned: "str | Path | PreTrainedModel",
    honesty: Data,
    task: Data,
    config: RestoreConfig | None = None,
    *,
    tokenizer: "str | Path | PreTrainedTokenizerBase | None" = None,
    watcher: Watcher | None = None,
) -> Statistics:
    """Measure a pair: Fisher scores on both data sets, and curvature where it will be needed.

    Scores are taken at the tuned model (`fisher_at`), honesty curvature at the base model
    (`hessian_at`), task curvature at the tuned model and only for `balanced`. Curvature is
    collected for the matrices that the configuration selects, or for all with `all_hessians`.

    Args:
        base: honest checkpoint: a directory, or a model in memory.
        tuned: fine-tuned checkpoint of the same architecture.
        honesty: samples (file or records): unanswerable question -> refusal, answerable -> answer.
        task: samples of the fine-tuning task.
        config: all settings; the defaults when None.
        tokenizer: where the tuned model does not come with one.
        watcher: told about stages and progress.

    Returns:
        The statistics; `save` them to restore again without measuring.

    Raises:
        HcnrError: anything wrong with the input, before or while measuring.
    """
    config = config or RestoreConfig()
    stages = Stages(watcher)
    pair = Pair.open(base, tuned, config, stages)
    data = _read_data(pair, honesty, task, config, tokenizer, stages)
    pair.check_finite(stages)
    return _measure(pair, data, config, stages)[0]


def restore(
    base: "str | Path | PreTrainedModel",
    tuned: "str | Path | PreTrainedModel",
    honesty: Data | None = None,
    task: Data | None = None,
    out: str | Path | None = None,
    config: RestoreConfig | None = None,
    statistics: Statistics | str | Path | None = None,
    *,
    tokenizer: "str | Path | PreTrainedTokenizerBase | None" = None,
    overwrite: bool = False,
    watcher: Watcher | None = None,
) -> Any:
    """Repair a fine-tuned model: restore its honesty-critical neurons and compensate.

    Args:
        base: honest checkpoint: a directory, or a model in memory.
        tuned: fine-tuned checkpoint of the same architecture.
        honesty: honesty samples; may be None when `statistics` are given.
        task: task samples; may be None when `statistics` are given.
        out: directory to write; None returns a model instead.
        config: all settings; the defaults when None.
        statistics: from `measure`, or their file; nothing is measured then.
        tokenizer: where the tuned model does not come with one.
        overwrite: replace an existing `out`.
        watcher: told about stages and progress.

    Returns:
        The path of the finished directory when `out` is given. Otherwise a restored model, in
        inference mode, with the report as its attribute `hcnr_report`; the inputs are unchanged.

    Raises:
        HcnrError: anything wrong; then nothing has been written.
    """
    config = config or RestoreConfig()
    stages = Stages(watcher)
    pair = Pair.open(base, tuned, config, stages)
    with contextlib.ExitStack() as stack:
        directory = None
        if out is not None:
            # Entered before anything is computed: a place that cannot be written is found first.
            files = [Path(x) for x in (honesty, task, statistics) if isinstance(x, str | Path)]
            inputs = [*pair.base.places, *pair.tuned.places, *files]
            directory = stack.enter_context(
                output_directory(out, inputs=inputs, overwrite=overwrite, nbytes=pair.nbytes)
            )
        if statistics is None:
            data = _read_data(pair, honesty, task, config, tokenizer, stages)
            pair.check_finite(stages)
            statistics, selection = _measure(pair, data, config, stages)
        else:
            if not isinstance(statistics, Statistics):
                statistics = Statistics.load(statistics)
            check_statistics(statistics, pair.base, pair.tuned, pair.matrices, config)
            config = _as_measured(config, statistics, pair.messages)
            _check_same_data(statistics, honesty, task, config)
            pair.check_finite(stages)
            with stages.stage("select"):
                selection = select_neurons(statistics, pair.base.weight, pair.tuned.weight, config)
        check_curvature(statistics, selection, config)
        job = Repairs(pair, statistics, selection, config, stages)
        if directory is None:
            model = job.model()
            model.__dict__["hcnr_report"] = job.report()  # plain data, no part of the module tree
            return model
        job.write(directory, tokenizer)
        write_companions(directory, job.report(), config)
    assert out is not None
    return Path(out)


def _read_data(
    pair: Pair,
    honesty: Data | None,
    task: Data | None,
    config: RestoreConfig,
    tokenizer: Any,
    stages: Stages,
) -> dict[str, tuple[TokenizedSet, dict[str, Any]]]:
    """Tokenise both data sets; each comes with its entry in the report."""
    with stages.stage("read the data"):
        opened = pair.tuned.tokenizer() if tokenizer is None else open_tokenizer(tokenizer)
        data = {}
        for name, source in (("honesty", honesty), ("task", task)):
            if source is None:
                raise DataError(
                    f"no {name} data was given; pass --{name} FILE, or --statistics of an "
                    "earlier measurement"
                )
            samples = load_samples(source, limit=config.samples, shuffle_seed=config.shuffle_seed)
            tokenized = tokenize(
                samples, opened, max_length=config.max_length, chat_template=config.chat_template
            )
            facts = {
                "source": samples.source,
                "available": samples.available,
                "sha256": samples.sha256,
                "tokens_sha256": tokenized.sha256,
                **asdict(tokenized.counts),
            }
            data[name] = tokenized, facts
        if (
            config.priority == "kl"
            and len({facts["tokens_sha256"] for _, facts in data.values()}) == 1
        ):
            raise DataError(
                "the honesty and the task data are the same samples, so no neuron matters for one "
                "and not for the other; pass two different files to --honesty and --task"
            )
        return data


def _measure(
    pair: Pair,
    data: dict[str, tuple[TokenizedSet, dict[str, Any]]],
    config: RestoreConfig,
    stages: Stages,
) -> tuple[Statistics, Selection]:
    """Scores, then the selection they lead to, then curvature where it is needed."""
    settings: dict[str, Any] = {
        "axis": config.axis,
        "token_budget": config.token_budget,
        "gradient_checkpointing": config.gradient_checkpointing,
    }
    with pair.models(config) as model_at:
        scores = {}
        for name, (tokenized, _) in data.items():
            with stages.stage(f"score {name}") as watcher:
                scores[name] = score(
                    *model_at(config.fisher_at), tokenized, progress=watcher.advance, **settings
                )
        statistics = Statistics(
            axis=config.axis,
            scores={name: found.mean for name, found in scores.items()},
            halves={name: found.halves for name, found in scores.items()}
            if all(found.halves for found in scores.values())
            else {},
            fingerprints=pair.fingerprints,
            settings={key: config.model_dump(mode="json")[key] for key in MEASURED_WITH},
            data={name: facts for name, (_, facts) in data.items()},
        )
        with stages.stage("select"):
            selection = select_neurons(statistics, pair.base.weight, pair.tuned.weight, config)
        wanted = pair.matrices if config.all_hessians else selection.selected
        places: dict[str, Role] = {}
        if wanted and (config.compensation != "none" or config.all_hessians):
            places["honesty"] = config.hessian_at
        if wanted and config.compensation == "balanced":
            places["task"] = "tuned"
        # The model that is open already goes first, so that none is loaded twice.
        for name in sorted(places, key=lambda name: places[name] != config.fisher_at):
            with stages.stage(f"curvature of {name}") as watcher:
                statistics.hessians[name] = curvature(
                    *model_at(places[name], wanted),
                    data[name][0],
                    progress=watcher.advance,
                    **settings,
                )
    return statistics, selection


def _as_measured(
    config: RestoreConfig, statistics: Statistics, messages: list[str]
) -> RestoreConfig:
    """The configuration with the settings that were decided when the statistics were measured."""
    measured = {key: statistics.settings[key] for key in TAKEN_OVER if key in statistics.settings}
    changed = {key: value for key, value in measured.items() if value != getattr(config, key)}
    messages += [
        f"{key} is {value}, as the statistics were measured, not {getattr(config, key)}"
        for key, value in changed.items()
    ]
    return config.replace(**changed)


def _check_same_data(
    statistics: Statistics, honesty: Data | None, task: Data | None, config: RestoreConfig
) -> None:
    """Data given beside statistics must be the data that was measured."""
    for name, source in (("honesty", honesty), ("task", task)):
        if source is None:
            continue
        samples = load_samples(source, limit=config.samples, shuffle_seed=config.shuffle_seed)
        if samples.sha256 != statistics.data.get(name, {}).get("sha256"):
            raise StatisticsError(
                f"the statistics were measured on other {name} samples than those of "
                f"{samples.source}; leave --{name} out, or measure again"
            )
