"""`hcnr data`: samples of one's own questions, and the data sets of a replication."""

import functools
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hcnr.commands.arguments import Overwrite, examples
from hcnr.output import print_json, say, shown

EPILOG = examples(
    "hcnr data build --data-root data/ --out replication/",
    "hcnr restore base/ tuned/ --honesty replication/honesty-128.jsonl "
    "--task replication/hotpotqa-128.jsonl --out restored/",
)
MAKE_EPILOG = examples(
    "hcnr data make --model base/ --questions questions.jsonl --out honesty.jsonl",
    "hcnr restore base/ tuned/ --honesty honesty.jsonl --task task.jsonl --out restored/",
)
EXAMPLES = 3
FEW = 64
"""Samples of a class below which a note is printed: half of what is measured by default."""


def make_data(
    model: Annotated[Path, typer.Option(help="The honest checkpoint, BASE, which is asked.")],
    questions: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Questions in any format of docs/data.md, with answers where there are some, and "
            "answerable where you know it.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The .jsonl file of samples to write.")],
    limit: Annotated[int | None, typer.Option(min=1, help="The first questions only.")] = None,
    detector: Annotated[
        str, typer.Option(help="Refusal detector, as for evaluate.")
    ] = "unknownbench_keywords",
    chat_template: Annotated[
        str, typer.Option(help="auto uses the tokenizer's; never does not.")
    ] = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Questions at once; halved where memory runs out.")
    ] = 32,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Most tokens of an answer; longer ones make no sample.")
    ] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto (the checkpoint's), float32, bfloat16 or float16.")
    ] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Make honesty samples: ask BASE your questions, keep what it answers rightly or refuses.

    The responses are BASE's own words. Refusals of questions that are not said to be answerable
    and right answers are written in turn; everything else is counted and left out.
    """
    from hcnr.commands.first_checks import check_command_line

    check_command_line(checkpoints=(model,), data=(questions,), detector=detector)
    from hcnr.evaluation.own_samples import KEPT, make_samples
    from hcnr.output.bars import progress_bars
    from hcnr.report.terminal import print_table

    console = shown()
    with progress_bars() as bars:
        made = make_samples(
            model,
            questions,
            out,
            limit=limit,
            detector=detector,
            chat_template=chat_template,  # pyright: ignore[reportArgumentType] (checked there)
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            device=device,
            dtype=dtype,
            overwrite=overwrite,
            watcher=bars,
        )
    counts = made.counts()
    tell = functools.partial(say, console, soft_wrap=True)
    tell(f"{len(made.outcomes)} questions, read as {made.format}; refusals by {made.detector}")
    rows = [(kind, str(count), "kept" if kind in KEPT else "") for kind, count in counts.items()]
    print_table("What the model did", ("outcome", "questions", ""), rows, console)
    for kind in counts:
        for sample in made.of(kind)[:EXAMPLES]:
            text = " ".join(sample.response.split())
            tell(f"{kind}: {sample.item.question!r} -> {text!r}")
    for kind in KEPT:
        if counts[kind] < FEW:
            tell(
                f"note: {counts[kind]} samples {kind}, expected at least {FEW} for a restoration "
                "with 128; add questions, or use --honesty starter"
            )
    tell(f"written: {out} ({sum(counts[kind] for kind in KEPT)} samples)")
    print_json(
        {
            "written": str(out),
            "format": made.format,
            "detector": made.detector,
            "questions": len(made.outcomes),
            "counts": counts,
        }
    )


def build_data(
    out: Annotated[Path, typer.Option(help="Directory to write the data sets to.")],
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder with the authors' files; $HCNR_DATA_ROOT by default."),
    ] = None,
    rait: Annotated[
        bool, typer.Option("--rait", help="Also write 5000 samples to train refusals with.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Build the honesty and task samples and the evaluation sets of a replication, and check them.

    Nothing is drawn at random: the same files give the same output, byte for byte.
    """
    from hcnr.benchmarks.replication import build_replication

    # Soft wrap: a check is one line, also in a file.
    console = shown(Console(soft_wrap=True, highlight=False, markup=False))
    built = build_replication(data_root, out, rait=rait, overwrite=overwrite)
    for check in built.checks:
        console.print(f"ok  {check.name}: {check.finding}")
    lines = sum(built.files.values())
    console.print(
        f"written: {out} ({len(built.files)} files, {lines} lines; all "
        f"{len(built.checks)} self-checks passed)"
    )
    print_json({"written": str(out), "files": dict(built.files), "checks": [
        {"name": check.name, "found": check.finding} for check in built.checks]})  # fmt: skip
