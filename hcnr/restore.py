"""The pipeline: measure, select, compensate, write. The one place that knows the order."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from hcnr.adapter_output import adapter_output
from hcnr.checkpoint import output_directory
from hcnr.config import RestoreConfig
from hcnr.data import (
    Data,
    MeasuringData,
    as_measured,
    check_same_data,
    leave_room,
    read_data,
)
from hcnr.examples import data_files
from hcnr.measure import curvature, score
from hcnr.model import computable
from hcnr.pair import Pair, Role
from hcnr.repair import Repairs, check_curvature
from hcnr.report import write_companions
from hcnr.report.front_matter import read_origin
from hcnr.selection import Selection, check_statistics, select_neurons, select_whole
from hcnr.selfcheck import check_model
from hcnr.source import DirectorySource
from hcnr.stages import Stages, Watcher
from hcnr.statistics import Statistics
from hcnr.suspicions import about_losses
from hcnr.two_sided import groups_of, places_of
from hcnr.verdict import end_losses, final_verdict
from hcnr.whole import Measured, needs_data, repair_whole

if TYPE_CHECKING:
    from peft import PeftModel  # pyright: ignore[reportMissingImports] (optional)
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MEASURED_WITH = (
    "axis", "targets", "ignore", "fisher_at", "hessian_at", "samples", "shuffle_seed",
    "max_length", "chat_template", "attention", "dtype",
)  # fmt: skip
"""Settings that the numbers in the statistics depend on."""


def measure(
    base: "str | Path | PreTrainedModel | None",
    tuned: "str | Path | PreTrainedModel | PeftModel",
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
        base: honest checkpoint: a directory, or a model in memory; None for what an adapter names
            as its own.
        tuned: fine-tuned checkpoint of the same architecture, or a PEFT adapter (its directory, or
            PEFT's model), which is merged into base.
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
    data = read_data(
        pair, honesty, task, config, tokenizer, stages, base_runs=_base_runs(config, None)
    )
    pair.check_finite(stages)
    return _measure(pair, data, config, stages)[0]


def restore(
    base: "str | Path | PreTrainedModel | None",
    tuned: "str | Path | PreTrainedModel | PeftModel",
    honesty: Data | None = None,
    task: Data | None = None,
    out: str | Path | None = None,
    config: RestoreConfig | None = None,
    statistics: Statistics | str | Path | None = None,
    *,
    tokenizer: "str | Path | PreTrainedTokenizerBase | None" = None,
    base_id: str | None = None,
    tuned_id: str | None = None,
    out_format: Literal["full", "adapter"] = "full",
    adapter_rank: int | None = None,
    overwrite: bool = False,
    watcher: Watcher | None = None,
) -> Any:
    """Repair a fine-tuned model: restore its honesty-critical neurons and compensate.

    Args:
        base: honest checkpoint: a directory, or a model in memory; None for what an adapter names
            as its own.
        tuned: fine-tuned checkpoint of the same architecture, or a PEFT adapter (its directory, or
            PEFT's model), which is merged into base.
        honesty: honesty samples; may be None when `statistics` are given.
        task: task samples; may be None when `statistics` are given.
        out: directory to write; None returns a model instead.
        config: all settings; the defaults when None.
        statistics: from `measure`, or their file; nothing is measured then but what `spectral`,
            `natural` and a searched task weight need, for which the data must be given too.
        tokenizer: where the tuned model does not come with one.
        base_id: base's name on the Hugging Face hub, for the model card; see
            `hcnr.report.front_matter.read_origin`.
        tuned_id: the same of tuned.
        out_format: `full` writes a whole checkpoint, `adapter` a LoRA adapter on tuned, or on base
            where tuned was an adapter itself; see `hcnr.adapter_output`.
        adapter_rank: largest rank of a matrix of that adapter; 64 when None.
        overwrite: replace an existing `out`.
        watcher: told about stages and progress.

    Returns:
        The path of the finished directory when `out` is given. Otherwise a restored model, in
        inference mode, with the report as its attribute `hcnr_report`; the inputs are unchanged.

    Raises:
        HcnrError: anything wrong; then nothing has been written.
    """
    config = config or RestoreConfig()
    # Read more than once, so what can be read only once is kept.
    honesty, task = (list(data) if isinstance(data, Iterator) else data for data in (honesty, task))
    stages = Stages(watcher)
    origin = read_origin(base, tuned, base_id, tuned_id)
    pair = Pair.open(base, tuned, config, stages)
    pair.messages.extend(origin.notes)
    adapter = adapter_output(pair, out_format, adapter_rank, out)
    with contextlib.ExitStack() as stack:
        directory = None
        if out is not None:
            if adapter is None:
                pair.tuned.check_savable()
            # Entered before anything is computed: a place that cannot be written is found first.
            files = data_files(honesty, task, statistics)
            inputs = [*pair.base.places, *pair.tuned.places, *files]
            directory = stack.enter_context(
                output_directory(
                    out,
                    inputs=inputs,
                    overwrite=overwrite,
                    nbytes=pair.nbytes if adapter is None else None,
                )
            )
        if config.bases and config.cross_weight_ratio == 1:
            # Found now rather than after the passes.
            groups_of(pair, pair.matrices, config, len(places_of(config.bases, config)))
        if statistics is not None:
            if not isinstance(statistics, Statistics):
                statistics = Statistics.load(statistics)
            check_statistics(statistics, pair.base, pair.tuned, pair.matrices, config)
            config = as_measured(config, statistics, pair.messages)
        elif config.searches:
            config = leave_room(config, task, pair.messages)
        data = None
        if statistics is None or needs_data(config) or (honesty is not None and task is not None):
            data = read_data(
                pair,
                honesty,
                task,
                config,
                tokenizer,
                stages,
                holding=config.searches,
                base_runs=_base_runs(config, statistics) or config.searches,
            )
        if statistics is not None:
            check_same_data(statistics, honesty, task, config)
        pair.check_finite(stages)
        ends = None
        if data is not None and data.base_reads:
            ends = end_losses(pair, data, config, stages)
            pair.messages.extend(about_losses(ends))
        elif data is not None:
            pair.messages.append(
                "base has no row of its embedding for some tokens of the data, so its losses were "
                "not taken and there is no verdict"
            )
        if statistics is None:
            assert data is not None
            statistics, selection = _measure(pair, data, config, stages)
        else:
            with stages.stage("select"):
                selection = select_neurons(statistics, pair.base.weight, pair.tuned.weight, config)
        check_curvature(statistics, selection, config)
        # Judged by what was asked for: a weight that was searched is a number afterwards.
        asked, whole = config, None
        if needs_data(config):
            assert data is not None
            given = Measured(pair, selection, statistics, data, ends)
            config, whole = repair_whole(given, config, stages)
        job = Repairs(pair, statistics, selection, config, stages, whole)
        if directory is None:
            model = job.model()
            verdict = None
            if ends is not None:
                # Both ends of a directory's pair were taken in this dtype too.
                own = isinstance(pair.tuned, DirectorySource) and config.dtype == "auto"
                subject = computable(model) if own else model
                verdict = final_verdict(subject, ends, asked, stages)
            # Plain data, no part of the module tree.
            model.__dict__["hcnr_report"] = job.report(verdict)
            return model
        facts = job.write(directory, tokenizer, adapter)
        verdict = None
        if ends is not None:
            # From what was written, so that the verdict is about that.
            written = adapter.on if adapter else DirectorySource(directory)
            with written.opened(config, computing=True) as model:
                subject = adapter.merged(directory, model) if adapter else model
                verdict = final_verdict(subject, ends, asked, stages)
        write_companions(directory, job.report(verdict, facts), config, origin)
    assert out is not None
    return Path(out).expanduser()


def _base_runs(config: RestoreConfig, statistics: Statistics | None) -> bool:
    """Whether anything is measured at base."""
    if config.bases and any(role == "base" for _, role in places_of(config.bases, config)):
        return True
    if statistics is not None or (config.bases and not config.all_hessians):
        return False
    curved = config.all_hessians or config.compensation != "none"
    return config.fisher_at == "base" or (curved and config.hessian_at == "base")


def _measure(
    pair: Pair,
    data: MeasuringData,
    config: RestoreConfig,
    stages: Stages,
) -> tuple[Statistics, Selection]:
    """Scores, then the selection they lead to, then curvature where it is needed.

    Where whole matrices are repaired nothing is ranked, so no scores are taken.
    """
    known: dict[str, Any] = {
        "fingerprints": pair.fingerprints,
        "settings": {key: config.model_dump(mode="json")[key] for key in MEASURED_WITH},
        "data": data.facts,
    }
    if config.bases and not config.all_hessians:
        with stages.stage("select"):
            selection = select_whole(pair.matrices, pair.base.weight, pair.tuned.weight, config)
        return Statistics(axis=config.axis, scores={}, halves={}, **known), selection
    settings: dict[str, Any] = {
        "axis": config.axis,
        "token_budget": config.token_budget,
        "gradient_checkpointing": config.gradient_checkpointing,
    }
    with pair.models(config) as open_at:
        checked: set[Role] = set()

        def model_at(
            role: Role, name: str, matrices: list[str] | None = None
        ) -> "tuple[PreTrainedModel, dict[str, nn.Linear]]":
            """The model of a role and its layers, checked when first measured on data `name`."""
            model, layers = open_at(role, matrices)
            if role not in checked:
                check_model(model, layers, data.sets[name], **settings)
                checked.add(role)
            return model, layers

        scores = {}
        for name in data.facts:
            with stages.stage(f"score {name}") as watcher:
                scores[name] = score(
                    *model_at(config.fisher_at, name),
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
            **known,
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
                    *model_at(places[name], name, wanted),
                    data.sets[name],
                    progress=watcher.advance,
                    **settings,
                )
    return statistics, selection
