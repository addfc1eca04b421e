"""`measure` and `restore`: a pair is opened, and the steps of `hcnr.pipeline.stages` are taken."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hcnr import ranks
from hcnr.checkpoint.kept_work import KeptWork
from hcnr.config import RestoreConfig
from hcnr.curvature.spectral_bases import groups_of, passes_of
from hcnr.curvature.statistics import Statistics
from hcnr.data.repair_data import Data, leave_room
from hcnr.data.samples import data_files
from hcnr.errors import ConfigError
from hcnr.models.pair import Pair
from hcnr.output.bars import shows_progress
from hcnr.pipeline.destination import destination
from hcnr.pipeline.one_axis import one_axis_groups
from hcnr.pipeline.placing import check_placement, check_streamable
from hcnr.pipeline.run import PairRun
from hcnr.pipeline.stages import measuring_steps, one_axis_passes, restoring_steps
from hcnr.progress import Stages, Watcher
from hcnr.record.front_matter import read_origin
from hcnr.repair.output_form import output_form

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
    keep_for: str | Path | None = None,
    fresh: bool = False,
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
        keep_for: the file that the statistics will be saved as: finished passes are kept in
            `<keep_for>.unfinished`, for another call should this one be interrupted or saving
            fail, until `Statistics.save` has written that file.
        fresh: begin anew, whatever an interrupted call left there.
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
    check_placement(config)
    stages = Stages(watcher)
    pair = Pair.open(base, tuned, config, stages)
    check_streamable(pair, config)
    _check_budget(pair, config)
    with (
        _kept(keep_for, pair, fresh=fresh) as keep,
        PairRun(pair, config, stages, honesty, task, tokenizer=tokenizer, keep=keep) as run,
    ):
        run.carry_out(measuring_steps(run.config, run.circumstances))
        assert run.statistics is not None
        # Who saves them lets it go: until then a full disk would cost all of it.
        keep.stays = True
        return run.statistics


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
    out_format: Literal["full", "adapter", "patch"] = "full",
    adapter_rank: int | None = None,
    overwrite: bool = False,
    fresh: bool = False,
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
            where tuned was an adapter itself, see `hcnr.repair.adapter_output`; `patch` what
            differs from tuned, which `apply_patch` puts on it.
        adapter_rank: largest rank of a matrix of that adapter; 64 when None.
        overwrite: replace an existing `out`.
        fresh: begin anew, whatever an interrupted run left in `<out>.unfinished`.
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
    check_placement(config, makes_model=out is None, out_format=out_format)
    # Read more than once, so what can be read only once is kept.
    honesty, task = (list(data) if isinstance(data, Iterator) else data for data in (honesty, task))
    stages = Stages(watcher)
    origin = read_origin(base, tuned, base_id, tuned_id)
    pair = Pair.open(base, tuned, config, stages)
    check_streamable(pair, config)
    pair.messages.extend(origin.notes)
    # Around the destination: an output that fails at the very end costs no finished pass.
    with _kept(out, pair, fresh=fresh) as keep, destination(
        pair, out,
        origin=origin, tokenizer=tokenizer, overwrite=overwrite,
        form=output_form(pair, out_format, adapter_rank, out),
        files=data_files(honesty, task, statistics) + _tokenizer_paths(tokenizer),
    ) as target:  # fmt: skip
        if config.bases and config.cross_weight_ratio == 1:
            # Found now rather than after the passes.
            groups_of(pair, pair.matrices, config, len(passes_of(config.bases, config)))
        if statistics is None:
            _check_budget(pair, config)
        if statistics is not None and not isinstance(statistics, Statistics):
            statistics = Statistics.load(statistics)
        if statistics is None and config.searches:
            config = leave_room(config, task, pair.messages)
        with PairRun(
            pair, config, stages, honesty, task,
            tokenizer=tokenizer, statistics=statistics, destination=target, keep=keep,
        ) as run:  # fmt: skip
            run.carry_out(restoring_steps(run.config, run.circumstances, target.output))
            return run.finish()


def _tokenizer_paths(tokenizer: Any) -> list[Path]:
    """Where a tokenizer is read from: an input as the data are; none for one of the hub."""
    return [path for path in data_files(tokenizer) if path.exists()]


def _check_budget(pair: Pair, config: RestoreConfig) -> None:
    """Refuse a memory budget that a matrix exceeds before the passes, where it will be measured."""
    sets = len(one_axis_passes(config))
    if sets and (config.all_hessians or (config.cross_weight_ratio == 1 and not config.bases)):
        one_axis_groups(pair, pair.matrices, config, sets)


def _kept(out: str | Path | None, pair: Pair, *, fresh: bool) -> KeptWork:
    """Where finished passes are kept; several processes keep none, and a message says so."""
    if ranks.size() == 1:
        if (note := ranks.by_itself()) is not None:
            pair.messages.append(note)
        return KeptWork.beside(out, fresh=fresh)
    pair.messages.append(
        f"{ranks.size()} processes measured together; several keep no finished passes, so a run "
        "of theirs that is interrupted begins anew"
    )
    return KeptWork(None)
