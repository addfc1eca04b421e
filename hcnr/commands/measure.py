"""`hcnr measure`: scores and curvature once, for any number of restorations."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hcnr import ranks
from hcnr.commands.arguments import HONESTY, TASK, Base, Config, Overwrite, Preset, Tuned, examples
from hcnr.commands.first_checks import check_command_line, named_pair
from hcnr.commands.options import Fresh, Tokenizer, config_options
from hcnr.config import load_config
from hcnr.output import print_json, say, shown

EPILOG = examples(
    "hcnr measure base/ tuned/ --honesty honesty.jsonl --task task.jsonl --out stats.safetensors",
    "hcnr measure base/ tuned/ --honesty h.jsonl --task t.jsonl --compensation balanced "
    "--all-hessians --out stats.safetensors",
)

UNMEASURED = (
    "task_weight", "coefficient", "max_task_drop_percent", "steps", "step_size", "damping",
    "block_size",
)  # fmt: skip
"""Settings that `hcnr measure` does not use."""


@config_options(unused=UNMEASURED)
def measure(
    base: Base,
    honesty: Annotated[str, HONESTY],
    task: Annotated[str, TASK],
    out: Annotated[Path, typer.Option(help="Safetensors file to write the statistics to.")],
    tuned: Tuned = None,
    tokenizer: Tokenizer = None,
    config: Config = None,
    preset: Preset = None,
    overwrite: Overwrite = False,
    fresh: Fresh = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Measure scores and curvature once, for any number of restorations."""
    honest, tuned = named_pair(base, tuned)
    check_command_line(checkpoints=(honest, tuned), data=(honesty, task))
    loaded = load_config(config, settings, preset_name=preset)
    import hcnr
    from hcnr.curvature.statistics import check_destination
    from hcnr.output.bars import progress_bars
    from hcnr.report.terminal import print_data

    inputs = [source for source in (honest, tuned) if source is not None]
    check_destination(out, inputs=inputs, overwrite=overwrite)
    console = shown()
    with ranks.started(loaded.device), progress_bars() as bars:
        statistics = hcnr.measure(
            honest, tuned, honesty, task, loaded, tokenizer=tokenizer, keep_for=out, fresh=fresh,
            watcher=bars,
        )  # fmt: skip
        if not ranks.leads():
            return
        statistics.save(out)
    print_data(statistics.data, console)
    curvatures = sum(len(matrices) for matrices in statistics.hessians.values())
    say(
        console,
        f"written: {out} (scores of {len(statistics.matrices)} matrices, {curvatures} curvatures)",
    )
    print_json(
        {
            "written": str(out),
            "matrices": len(statistics.matrices),
            "curvatures": curvatures,
            "data": statistics.data,
        }
    )
