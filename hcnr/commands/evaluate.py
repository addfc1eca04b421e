"""`hcnr evaluate`: measure a model, or score answers that were produced elsewhere."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hcnr.commands.arguments import examples
from hcnr.commands.options import config_options, given
from hcnr.config import EvaluateConfig
from hcnr.config.shared import JUDGING, QUESTIONS, WEIGHTS
from hcnr.output import print_json, say, shown
from hcnr.settings import of_group

WEIGHING = ("base", "tuned", *of_group(EvaluateConfig, WEIGHTS), "max_task_drop")
"""What only a model whose weights are here can do."""
SERVED = ("endpoint_model", "endpoint_timeout")
ASKING = (
    "benchmarks",
    "tasks",
    *of_group(EvaluateConfig, QUESTIONS),
    *WEIGHING,
    "endpoint",
    *SERVED,
)
"""What only the asking of a model needs."""

EPILOG = examples(
    "hcnr evaluate restored/ --against tuned/ --benchmarks falseqa,nec,refunq,kuq,selfaware "
    "--tasks hotpotqa --out eval/",
    "hcnr evaluate restored/ --benchmarks mine.jsonl --tasks task.jsonl --base base/ "
    "--tuned tuned/ --out eval/",
    "hcnr evaluate --endpoint http://localhost:8000/v1 --endpoint-model restored "
    "--endpoint-model tuned --benchmarks mine.jsonl --out eval/",
    "hcnr evaluate --responses answers.jsonl --detector unknownbench_keywords --out eval/",
)


@config_options(EvaluateConfig)
def evaluate(
    context: typer.Context,
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL", help="Checkpoint to measure; none with --responses or --endpoint."
        ),
    ] = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory for metrics.json and the answers, which a rerun reuses."),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Checkpoint (or responses) to compare with; may be repeated."),
    ] = None,
    benchmarks: Annotated[
        str,
        typer.Option(
            help="Honesty sets, separated by commas: names, files in a format of docs/data.md, or "
            "starter, the questions that come with hcnr."
        ),
    ] = "falseqa,nec,refunq,kuq,selfaware",
    tasks: Annotated[
        str, typer.Option(help="Task sets: hotpotqa, nq, medmcqa, bioasq, or files.")
    ] = "",
    responses: Annotated[
        Path | None,
        typer.Option(help="Answers to score instead: jsonl of question, answerable, response."),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="OpenAI-compatible server (vLLM, SGLang, llama.cpp) that answers instead; its key "
            "is read from $HCNR_ENDPOINT_KEY.",
        ),
    ] = None,
    endpoint_model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="With --endpoint: the model's name there; repeated, the others are compared with.",
        ),
    ] = None,
    endpoint_timeout: Annotated[
        float, typer.Option(min=0.001, help="With --endpoint: seconds that an answer may take.")
    ] = 120.0,
    base: Annotated[
        Path | None,
        typer.Option(help="With --tuned: honest end of the interpolation to compare with."),
    ] = None,
    tuned: Annotated[Path | None, typer.Option(help="With --base: the other end.")] = None,
    settings: dict[str, Any],
) -> None:
    """Measure honesty and task accuracy of MODEL, or score answers from elsewhere.

    With --base, --tuned and --tasks it ends with a recommendation: use, do not use, or interpolate
    instead. The refusal delta decides, by its interval and at a kept share of the task.
    """
    from hcnr.commands.first_checks import check_command_line
    from hcnr.errors import ConfigError
    from hcnr.search.grid import read_names

    console = shown()
    asked, jobs = read_names(benchmarks), read_names(tasks)
    how = EvaluateConfig(**settings)
    if (model, responses, endpoint).count(None) != 2:
        how_many = "none" if model is responses is endpoint else "several"
        raise ConfigError(
            f"expected one of MODEL, --responses and --endpoint, found {how_many}; give one of them"
        )
    others = against or []
    if responses is not None:
        _refuse(context, ASKING, "is for asking a model, and --responses asks none")
        if len(others) > 1:
            raise ConfigError(
                f"--against was given {len(others)} times, expected at most one file of responses"
            )
        check_command_line(detector=how.detector)
        from hcnr.evaluation.responses import score_responses

        other = others[0] if others else None
        judging = {name: getattr(how, name) for name in of_group(EvaluateConfig, JUDGING)}
        metrics = score_responses(responses, against=other, out=out, **judging)
    else:
        models: list[Any] = [model, *others]
        if endpoint is None:
            _refuse(context, SERVED, "is about a server, and no --endpoint is given")
        else:
            if not others:
                why = "is for models whose weights are here, and --endpoint asks a server"
                _refuse(context, WEIGHING, why)
            from hcnr.evaluation.endpoints.server import Endpoint

            names = endpoint_model or [None]
            served = [Endpoint(endpoint, name, endpoint_timeout) for name in names]
            models = [*served, *others]
        check_command_line(
            checkpoints=(model, *others, base, tuned),
            questions=(*asked, *jobs),
            detector=how.detector,
        )
        from hcnr.evaluation.evaluating import evaluate as run
        from hcnr.output.bars import progress_bars

        with progress_bars() as bars:
            metrics = run(
                models[0],
                benchmarks=asked,
                tasks=jobs,
                against=models[1:],
                base=base,
                tuned=tuned,
                out=out,
                settings=how,
                watcher=bars,
            )
    from hcnr.evaluation.table import print_evaluation

    print_evaluation(metrics, console)
    if out is not None:
        say(console, f"written: {out}/metrics.json")
    print_json(metrics)


def _refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Refuse the options of these names where one was given."""
    from hcnr.errors import ConfigError

    for name in names:
        if given(context, name):
            raise ConfigError(f"--{name.replace('_', '-')} {why}; leave one of the two out")
