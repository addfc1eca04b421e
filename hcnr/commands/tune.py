"""`hcnr tune`: a short fine-tuning on a repair's samples, to compare the repair with."""

from pathlib import Path
from typing import Annotated

import typer

from hcnr.commands.arguments import Overwrite, examples
from hcnr.commands.first_checks import check_command_line
from hcnr.commands.options import Tokenizer, TunedId
from hcnr.output import print_json, say, shown

EPILOG = examples(
    "hcnr tune tuned/ --honesty honesty.jsonl --task task.jsonl --out trained/",
    "hcnr tune tuned/ --honesty starter --task task.jsonl --lora 16 --epochs 1 --out trained/",
    "hcnr evaluate restored/ --against trained/ --against tuned/ --benchmarks mine.jsonl",
)


def tune(
    tuned: Annotated[
        Path, typer.Argument(metavar="TUNED", help="Fine-tuned checkpoint, or a PEFT adapter.")
    ],
    honesty: Annotated[
        str, typer.Option(metavar="FILE|starter", help="Honesty samples, as for restore.")
    ],
    task: Annotated[str, typer.Option(metavar="FILE", help="Task samples, as for restore.")],
    out: Annotated[Path, typer.Option(help="Directory to write the checkpoint to.")],
    rate: Annotated[
        float | None,
        typer.Option(help="Learning rate; 1e-5 by default, 2e-4 with --lora.", show_default=False),
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the samples.")] = 3.0,
    lora: Annotated[
        int | None,
        typer.Option(
            metavar="RANK",
            help="Train a LoRA adapter of this rank and merge it; all weights by default.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples of a step.")] = 8,
    samples: Annotated[int, typer.Option(help="Of each data set, the first ones.")] = 128,
    max_length: Annotated[int, typer.Option(help="Tokens kept of a sample.")] = 1024,
    chat_template: Annotated[
        str, typer.Option(help="auto uses the tokenizer's; never does not.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of order, dropout and adapter.")] = 0,
    tokenizer: Tokenizer = None,
    tuned_id: TunedId = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="Trained in: auto (float32), float32, bfloat16 or float16.")
    ] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Fine-tune TUNED a little on the samples of a repair, as something to compare it with.

    It trains through TRL (the extra tune) on the first samples of both sets, as restore measures
    them, with the loss on the responses alone.
    """
    check_command_line(checkpoints=(tuned,), data=(honesty, task))
    from hcnr.tuning.settings import TuneSettings, check_installed

    settings = TuneSettings(
        rate, epochs, lora, batch_size, samples, seed, max_length, chat_template
    )
    check_installed(settings)
    import hcnr
    from hcnr.output.bars import progress_bars
    from hcnr.record.files.tuning import TuneRecord
    from hcnr.record.writing import read_report
    from hcnr.report.terminal import print_data
    from hcnr.tuning.record import loss_lines

    console = shown()
    with progress_bars() as bars:
        written = hcnr.tune(
            tuned, honesty, task, out, settings, tokenizer=tokenizer, device=device, dtype=dtype,
            tuned_id=tuned_id, overwrite=overwrite, watcher=bars,
        )  # fmt: skip
    record = read_report(written)
    print_data(record["data"], console)
    say(console, *loss_lines(TuneRecord.model_validate(record)), f"written: {written}")
    print_json({"written": str(written), **record})
