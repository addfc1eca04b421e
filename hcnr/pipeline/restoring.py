"""The pipeline: measure, select, compensate, write. The one place that knows the order."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hcnr.checkpoint import output_directory
from hcnr.config import RestoreConfig
from hcnr.curvature.statistics import Statistics
from hcnr.curvature.two_sided import groups_of, places_of
from hcnr.data.repair_data import Data, MeasuringData, leave_room, read_data
from hcnr.data.samples import data_files
from hcnr.data.suspicions import about_losses
from hcnr.errors import ConfigError
from hcnr.models.model import computable
from hcnr.models.pair import Pair
from hcnr.models.source import DirectorySource
from hcnr.output.bars import shows_progress
from hcnr.pipeline.given import as_measured, check_same_data
from hcnr.pipeline.measuring import base_runs, leave, leave_few, measure_pair
from hcnr.progress import Stages, Watcher
from hcnr.record.front_matter import read_origin
from hcnr.record.writing import write_companions
from hcnr.repair.adapter_output import adapter_output
from hcnr.repair.compensate import check_curvature
from hcnr.repair.interpolation import Interpolation
from hcnr.repair.repairs import Repairs
from hcnr.repair.selection import check_statistics, select_neurons
from hcnr.repair.verdict import DataSet, EndLosses, end_losses, final_verdict
from hcnr.repair.whole import Measured, needs_data, repair_whole

if TYPE_CHECKING:
    from peft import PeftModel  # pyright: ignore[reportMissingImports] (optional)
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@shows_progress
def measure(
    base: "str | Path | PreTrainedModel | None",
    tuned: "str | Path | PreTrainedModel | PeftModel",
    honesty: Data,
    task: Data,
    config: RestoreConfig | None = None,
    *,
    tokenizer: "str | Path | PreTrainedTokenizerBase | None" = None,
    watcher: Watcher | None = None,
    progress: bool = True,
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
        progress: bars in a notebook or at a terminal, where no watcher is given.

    Returns:
        The statistics; `save` them to restore again without measuring.

    Raises:
        HcnrError: anything wrong with the input, before or while measuring.
    """
    config = config or RestoreConfig()
    if config.interpolates:
        raise ConfigError(
            "the compensation interpolate has nothing to measure; restore with it at once, or "
            "measure for another --compensation"
        )
    stages = Stages(watcher)
    pair = Pair.open(base, tuned, config, stages)
    data = read_data(
        pair, honesty, task, config, tokenizer, stages, base_runs=base_runs(config, None)
    )
    pair.check_finite(stages)
    leave_few(pair, data, config, stages)
    return measure_pair(pair, data, config, stages)[0]


@shows_progress
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
    progress: bool = True,
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
            `natural` and a searched task weight need, for which the data must be given too; none
            with `interpolate`, which measures nothing: its search and the verdict take the data.
        tokenizer: where the tuned model does not come with one.
        base_id: base's name on the Hugging Face hub, for the model card; see
            `hcnr.record.front_matter.read_origin`.
        tuned_id: the same of tuned.
        out_format: `full` writes a whole checkpoint, `adapter` a LoRA adapter on tuned, or on base
            where tuned was an adapter itself; see `hcnr.repair.adapter_output`.
        adapter_rank: largest rank of a matrix of that adapter; 64 when None.
        overwrite: replace an existing `out`.
        watcher: told about stages and progress.
        progress: bars in a notebook or at a terminal, where no watcher is given.

    Returns:
        The path of the finished directory when `out` is given; `hcnr.read_report` reads its
        report. Otherwise a restored model, in inference mode, with the report as its attribute
        `hcnr_report`; the inputs are unchanged. The report is a dictionary that prints as a few
        facts: `report["verdict"]["word"]` is `use`, `do not use` or `unclear`,
        `report["verdict"]["losses"]` has both losses, `report["warnings"]` what to know first, and
        `hcnr.record.run_report.RunReport` lists all keys.

    Raises:
        HcnrError: anything wrong; then nothing has been written.
    """
    config = config or RestoreConfig()
    if config.interpolates and statistics is not None:
        raise ConfigError(
            "statistics were given with the compensation interpolate, which measures nothing; "
            "leave them out"
        )
    if config.interpolates and out_format == "adapter":
        raise ConfigError(
            "out_format is 'adapter' with the compensation interpolate, which changes every tensor "
            "and is no adapter; write the full form (--out-format full)"
        )
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
            leave(pair, [n for n in statistics.left if n in pair.matrices])
            check_statistics(statistics, pair.base, pair.tuned, pair.matrices, config)
            config = as_measured(config, statistics, pair.messages)
        elif config.searches:
            config = leave_room(config, task, pair.messages)
        data = None
        measures = statistics is None and not config.interpolates
        both = honesty is not None and task is not None
        if measures or needs_data(config) or both:
            data = read_data(
                pair,
                honesty,
                task,
                config,
                tokenizer,
                stages,
                holding=config.searches,
                base_runs=base_runs(config, statistics) or config.searches,
            )
        if statistics is not None:
            check_same_data(statistics, honesty, task, config)
        pair.check_finite(stages)
        ends = None
        if statistics is None and data is not None:
            leave_few(pair, data, config, stages)
        if data is not None and data.base_reads:
            ends = end_losses(pair, data, config, stages)
            pair.messages.extend(about_losses(ends))
        elif data is not None:
            pair.messages.append(
                "base has no row of its embedding for some tokens of the data, so its losses were "
                "not taken and there is no verdict"
            )
        # Judged by what was asked for: a value that was searched is a number afterwards.
        asked = config
        config, job = _repairs(pair, statistics, data, ends, config, stages)
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
        facts = None
        if isinstance(job, Repairs):
            facts = job.write(directory, tokenizer, adapter)
        else:
            job.write(directory, tokenizer)
        verdict = None
        if ends is not None:
            # From what was written, so that the verdict is about that.
            written = adapter.on if adapter else DirectorySource(directory)
            with written.opened(config, computing=True) as model:
                subject = adapter.merged(directory, model) if adapter else model
                verdict = final_verdict(subject, ends, asked, stages)
        report = job.report(verdict, facts) if isinstance(job, Repairs) else job.report(verdict)
        write_companions(directory, report, config, origin)
    assert out is not None
    return Path(out).expanduser()


def _repairs(
    pair: Pair,
    statistics: Statistics | None,
    data: MeasuringData | None,
    ends: Mapping[DataSet, EndLosses] | None,
    config: RestoreConfig,
    stages: Stages,
) -> tuple[RestoreConfig, Repairs | Interpolation]:
    """Everything that comes before the weights: measuring, selecting, searching.

    Returns:
        The configuration, what was searched for a number; and what makes the weights.
    """
    if config.interpolates:
        return Interpolation.find(pair, data, ends, config, stages)
    if statistics is None:
        assert data is not None
        statistics, selection = measure_pair(pair, data, config, stages)
    else:
        with stages.stage("select"):
            selection = select_neurons(statistics, pair.base.weight, pair.tuned.weight, config)
    check_curvature(statistics, selection, config)
    whole = None
    if needs_data(config):
        assert data is not None
        given = Measured(pair, selection, statistics, data, ends)
        config, whole = repair_whole(given, config, stages)
    return config, Repairs(pair, statistics, selection, config, stages, whole)
