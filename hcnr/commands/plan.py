"""`hcnr plan`: what a restoration would do."""

from typing import Annotated, Any

import typer

from hcnr.commands.arguments import Base, Config, Preset, Tuned, examples
from hcnr.commands.first_checks import check_command_line, named_pair
from hcnr.commands.options import config_options
from hcnr.config import load_config
from hcnr.output import print_json, shown

EPILOG = examples(
    "hcnr plan base/ tuned/",
    "hcnr plan base/ tuned/ --axis input --cross-weight-ratio 0.3 --tokens-per-sample 512",
)

UNPLANNED = (
    "priority", "score_normalization", "seed", "max_task_drop_percent", "step_size", "damping",
    "shuffle_seed", "max_length", "chat_template",
)  # fmt: skip
"""Settings that `hcnr plan` does not use."""


@config_options(unused=UNPLANNED)
def plan(
    base: Base,
    tuned: Tuned = None,
    config: Config = None,
    preset: Preset = None,
    tokens_per_sample: Annotated[
        int, typer.Option(min=1, help="Tokens to assume per sample.")
    ] = 256,
    response_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="How many of them are the response; half of them by default."),
    ] = None,
    *,
    settings: dict[str, Any],
) -> None:
    """Show what a restoration would do: matrices, memory, operations, about how long."""
    honest, tuned = named_pair(base, tuned)
    check_command_line(checkpoints=(honest, tuned))
    loaded = load_config(config, settings, preset_name=preset)
    from hcnr.plan import plan_run
    from hcnr.record.files.plan import PlanRecord
    from hcnr.report.terminal import print_plan

    planned = plan_run(
        honest, tuned, loaded,
        tokens_per_sample=tokens_per_sample, response_tokens=response_tokens,
    )  # fmt: skip
    print_plan(planned, shown())
    print_json(PlanRecord.model_validate(planned).as_dict())
