"""The pipeline: measure, select, compensate, write. The one place that knows the order."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcnr.checkpoint import output_directory
from hcnr.config import RestoreConfig
from hcnr.data import (
    Data,
    MeasuringData,
    as_measured,
    check_hash,
    check_same_data,
    leave_room,
    read_data,
)
from hcnr.measure import curvature, score
from hcnr.pair import Pair, Role
from hcnr.repair import Repairs, check_curvature
from hcnr.report import write_companions
from hcnr.selection import Selection, check_statistics, select_neurons
from hcnr.stages import Stages, Watcher
from hcnr.statistics import Statistics
from hcnr.two_sided import groups_of, places_of
from hcnr.whole import (
    Measured,
    check_task_weight,
    held_back_losses,
    needs_data,
    repair_whole,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MEASURED_WITH = (
    "axis", "targets", "ignore", "fisher_at", "hessian_at", "samples", "shuffle_seed",
    "max_length", "chat_template", "attention", "dtype",
)  # fmt: skip
"""Settings that the numbers in the statistics depend on."""


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
    check_task_weight(config)
    stages = Stages(watcher)
    pair = Pair.open(base, tuned, config, stages)
    data = read_data(pair, honesty, task, config, tokenizer, stages)
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
        statistics: from `measure`, or their file; nothing is measured then but what `spectral`,
            `natural` and a searched task weight need, for which the data must be given too.
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
    check_task_weight(config)
    # Read more than once, so what can be read only once is kept.
    honesty, task = (list(data) if isinstance(data, Iterator) else data for data in (honesty, task))
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
        searching, losses = config.task_weight == "auto", None
        if config.bases and config.cross_weight_ratio == 1:
            # Found now rather than after the scores.
            groups_of(pair, pair.matrices, config, len(places_of(config.bases, config)))
        if statistics is None:
            if searching:
                config = leave_room(config, task, pair.messages)
            data = read_data(pair, honesty, task, config, tokenizer, stages, holding=searching)
            pair.check_finite(stages)
            losses = held_back_losses(pair, data.sets, config, stages)
            statistics, selection = _measure(pair, data, config, stages)
        else:
            if not isinstance(statistics, Statistics):
                statistics = Statistics.load(statistics)
            check_statistics(statistics, pair.base, pair.tuned, pair.matrices, config)
            config = as_measured(config, statistics, pair.messages)
            data = None
            if needs_data(config):
                data = read_data(pair, honesty, task, config, tokenizer, stages, holding=searching)
                for name, facts in data.facts.items():
                    check_hash(statistics, name, facts["source"], facts["sha256"])
            else:
                check_same_data(statistics, honesty, task, config)
            pair.check_finite(stages)
            if data is not None:
                losses = held_back_losses(pair, data.sets, config, stages)
            with stages.stage("select"):
                selection = select_neurons(statistics, pair.base.weight, pair.tuned.weight, config)
        check_curvature(statistics, selection, config)
        whole = None
        if data is not None and needs_data(config):
            given = Measured(pair, selection, statistics, data.sets, losses)
            config, whole = repair_whole(given, config, stages)
        job = Repairs(pair, statistics, selection, config, stages, whole)
        if directory is None:
            model = job.model()
            model.__dict__["hcnr_report"] = job.report()  # plain data, no part of the module tree
            return model
        job.write(directory, tokenizer)
        write_companions(directory, job.report(), config)
    assert out is not None
    return Path(out)


def _measure(
    pair: Pair,
    data: MeasuringData,
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
        for name in data.facts:
            with stages.stage(f"score {name}") as watcher:
                scores[name] = score(
                    *model_at(config.fisher_at),
                    data.sets[name],
                    progress=watcher.advance,
                    **settings,
                )
        statistics = Statistics(
            axis=config.axis,
            scores={name: found.mean for name, found in scores.items()},
            halves={name: found.halves for name, found in scores.items()}
            if all(found.halves for found in scores.values())
            else {},
            fingerprints=pair.fingerprints,
            settings={key: config.model_dump(mode="json")[key] for key in MEASURED_WITH},
            data=data.facts,
        )
        with stages.stage("select"):
            selection = select_neurons(statistics, pair.base.weight, pair.tuned.weight, config)
        wanted = pair.matrices if config.all_hessians else selection.selected
        places: dict[str, Role] = {}
        along_one_axis = config.compensation != "none" and not config.bases
        if wanted and (along_one_axis or config.all_hessians):
            places["honesty"] = config.hessian_at
        if wanted and config.compensation == "balanced":
            places["task"] = "tuned"
        # The model that is open already goes first, so that none is loaded twice.
        for name in sorted(places, key=lambda name: places[name] != config.fisher_at):
            with stages.stage(f"curvature of {name}") as watcher:
                statistics.hessians[name] = curvature(
                    *model_at(places[name], wanted),
                    data.sets[name],
                    progress=watcher.advance,
                    **settings,
                )
    return statistics, selection
