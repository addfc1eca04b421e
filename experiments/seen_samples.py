"""`python -m experiments.seen_samples`: what task samples are worth that the model was tuned on.

The pair of `hcnr demo --real` (trained where it is not cached yet) is restored twice by the
defaults: with task samples that its tuned model has not learned, the demo's own, and with as many
that it has. Both are judged on the demo's questions.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import hcnr
from hcnr.cli import run
from hcnr.demo.laboratory import quiet
from hcnr.demo.real.demo import RealDemo
from hcnr.demo.real.pair import MEASURED, open_real_pair, read_questions, samples_of
from hcnr.demo.real.rows import COLUMNS
from hcnr.demo.table import markdown
from hcnr.models.model import open_model
from hcnr.models.packages.gguf import convert_gguf
from hcnr.output.bars import Bars


def main(
    model: Annotated[Path, typer.Option(help="Folder of the package, or the installed one.")],
    out: Annotated[Path, typer.Option(help="Gets both checkpoints with their reports.")],
) -> None:
    """Restore with both kinds of samples and print a row for each."""
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    rows = []
    with quiet(), Bars(console, transient=True) as bars:
        pair = open_real_pair(convert_gguf(model))
        # The first MEASURED are the demo's own; tuned has learned the rest.
        learned = samples_of(read_questions()["tuned"])[MEASURED : 2 * MEASURED]
        seen = out / "seen.jsonl"
        seen.write_text("".join(json.dumps(one.record()) + "\n" for one in learned))
        demo = RealDemo(pair, out, bars)
        for name, task in (("new", pair.directory / "task.jsonl"), ("seen", seen)):
            restored = hcnr.restore(
                pair.base, pair.tuned, pair.directory / "honesty.jsonl", task, out / name,
                overwrite=True, watcher=bars,
            )  # fmt: skip
            report = hcnr.read_report(restored)
            row = demo.row(name, open_model(restored, device="cpu", dtype="float32"))
            rows.append((row.cells(), False))
            print(f"{name}: task weight {report['two_sided']['task_weight']:.3g}")
            print("\n".join(report["verdict"]["lines"]), flush=True)
    print(markdown(COLUMNS, rows, ()))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(main)
    run(app)
