"""`hcnr restore`: the repair itself."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hcnr import ranks
from hcnr.commands.arguments import HONESTY, TASK, Base, Config, Overwrite, Preset, Tuned, examples
from hcnr.commands.first_checks import check_command_line, named_pair
from hcnr.commands.options import BaseId, Fresh, Tokenizer, TunedId, config_options
from hcnr.config import load_config
from hcnr.output import print_json, say, shown

EPILOG = examples(
    "hcnr restore base/ tuned/ --honesty honesty.jsonl --task task.jsonl --out restored/",
    "hcnr restore base/ tuned/ --statistics stats.safetensors --compensation balanced "
    "--cross-weight-ratio 1.0 --out restored/",
    "hcnr restore base/ tuned/ --honesty h.jsonl --task t.jsonl "
    "--compensation interpolate --out mixed/",
    "hcnr restore base/ tuned/ --honesty h.jsonl --task t.jsonl "
    "--config restored/hcnr_config.yaml --out again/",
)


@config_options()
def restore(
    base: Base,
    out: Annotated[Path, typer.Option(help="Directory to write the restored checkpoint to.")],
    tuned: Tuned = None,
    honesty: Annotated[str | None, HONESTY] = None,
    task: Annotated[str | None, TASK] = None,
    statistics: Annotated[
        Path | None,
        typer.Option(help="Statistics of an earlier `hcnr measure`; nothing is measured then."),
    ] = None,
    tokenizer: Tokenizer = None,
    config: Config = None,
    preset: Preset = None,
    base_id: BaseId = None,
    tuned_id: TunedId = None,
    out_format: Annotated[
        str,
        typer.Option(
            metavar="full|adapter|patch",
            help="A whole checkpoint; a LoRA adapter on TUNED, or on BASE where TUNED is an "
            "adapter itself; or what differs from TUNED, which hcnr apply puts on it.",
        ),
    ] = "full",
    adapter_rank: Annotated[
        int | None,
        typer.Option(
            help="Largest rank of a matrix of that adapter, 64 by default; what needs more is "
            "truncated, and the error is told.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    fresh: Fresh = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Give TUNED its honesty back and write the repaired checkpoint.

    Without settings every matrix is repaired by `spectral`, with the smallest weight of the task
    that loses at most 2 percent of what fine-tuning gained, by task samples held back from
    measuring. It ends with the losses of both data sets and a verdict.
    """
    honest, tuned = named_pair(base, tuned)
    check_command_line(checkpoints=(honest, tuned), data=(honesty, task), statistics=statistics)
    loaded = load_config(config, settings, preset_name=preset)
    from hcnr.record.front_matter import NO_BASE_MODEL, read_origin

    origin = read_origin(honest, tuned, base_id, tuned_id)
    import hcnr
    from hcnr.output.bars import progress_bars
    from hcnr.record.writing import read_report
    from hcnr.report.terminal import print_report

    with ranks.started(loaded.device), progress_bars() as bars:
        out = hcnr.restore(
            honest,
            tuned,
            honesty,
            task,
            out,
            loaded,
            statistics,
            tokenizer=tokenizer,
            base_id=base_id,
            tuned_id=tuned_id,
            out_format=out_format,  # pyright: ignore[reportArgumentType] (checked there)
            adapter_rank=adapter_rank,
            overwrite=overwrite,
            fresh=fresh,
            watcher=bars,
        )
        if not ranks.leads():
            return
    report, console = read_report(out), shown()
    print_report(report, console)
    if not origin.is_named:
        say(console, f"note: {NO_BASE_MODEL}")
    say(console, f"written: {out}")
    print_json({"written": str(out), **report})
