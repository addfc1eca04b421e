"""`python -m experiments.seen_samples`: what task samples are worth that the model was tuned on.

The pair of `hcnr demo --real` (trained where it is not cached yet) is restored by the defaults
with as many task samples of every kind, and judged on the demo's questions:

- `new`: samples that its tuned model has not learned, the demo's own;
- `seen`: samples that it has learned;
- `answered`: the questions of the new ones with tuned's own answers.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

import hcnr
from hcnr.cli import run
from hcnr.data.samples import Sample
from hcnr.demo.laboratory import quiet
from hcnr.demo.real.demo import MAX_NEW_TOKENS, RealDemo
from hcnr.demo.real.pair import MEASURED, RealPair, open_real_pair, read_questions, samples_of
from hcnr.demo.real.rows import COLUMNS
from hcnr.demo.table import markdown
from hcnr.evaluation.generation import generate
from hcnr.models.model import open_model, open_tokenizer
from hcnr.models.packages.gguf import convert_gguf
from hcnr.output.bars import Bars

Kind = Literal["new", "seen", "answered"]
KINDS: tuple[Kind, ...] = ("new", "seen", "answered")


def samples(kind: Kind, pair: RealPair, bars: Bars) -> list[Sample]:
    """As many task samples as the demo has, of a kind."""
    questions = read_questions()["tuned"]
    # The first MEASURED are the demo's own; tuned has learned the rest.
    if kind == "seen":
        return samples_of(questions[MEASURED : 2 * MEASURED])
    new = samples_of(questions[:MEASURED])
    if kind == "new":
        return new
    tuned = open_model(pair.tuned, device="cpu", dtype="float32")
    answers = generate(
        tuned,
        open_tokenizer(pair.tuned),
        [one.prompt for one in new],
        max_new_tokens=MAX_NEW_TOKENS,
        watcher=bars,
    )
    return [replace(one, response=said) for one, said in zip(new, answers, strict=True) if said]


def main(
    model: Annotated[Path, typer.Option(help="Folder of the package, or the installed one.")],
    out: Annotated[Path, typer.Option(help="Gets the checkpoints with their reports.")],
    kinds: Annotated[str, typer.Option(help="Of the samples.")] = "new,seen,answered",
) -> None:
    """Restore with every kind of samples and print a row for each."""
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    rows = []
    with quiet(), Bars(console, transient=True) as bars:
        pair = open_real_pair(convert_gguf(model))
        demo = RealDemo(pair, out, bars)
        for kind in KINDS:
            if kind not in kinds.split(","):
                continue
            task = out / f"{kind}.jsonl"
            lines = (json.dumps(one.record()) for one in samples(kind, pair, bars))
            task.write_text("".join(f"{line}\n" for line in lines))
            restored = hcnr.restore(
                pair.base, pair.tuned, pair.directory / "honesty.jsonl", task, out / kind,
                overwrite=True, watcher=bars,
            )  # fmt: skip
            report = hcnr.read_report(restored)
            row = demo.row(kind, open_model(restored, device="cpu", dtype="float32"))
            rows.append((row.cells(), False))
            print(f"{kind}: task weight {report['two_sided']['task_weight']:.3g}")
            print("\n".join(report["verdict"]["lines"]), flush=True)
    print(markdown(COLUMNS, rows, ()))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(main)
    run(app)
