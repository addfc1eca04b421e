"""`python -m integrations.trainer.experiment`: is damage prevented by holding critical neurons?

The embedded pair's base (`hcnr demo --quick`, trained the first time) is fine-tuned on the task, as
it is and with its honesty-critical neurons held, and judged on names that no training has seen.
"""

import tempfile
from typing import Any

from transformers import Trainer, TrainingArguments

from hcnr import RestoreConfig
from hcnr.demo.evaluation import Evaluation, Examiner
from hcnr.demo.laboratory import Laboratory, open_lab
from hcnr.demo.recipe import Recipe
from hcnr.demo.tokenizer import encode_items
from integrations.trainer.callback import HonestyCallback

SETTINGS: tuple[tuple[float, float | None, float], ...] = (
    (0.5, None, 1.0), (0.5, None, 0.6), (0.25, 0.0, 1.0), (0.5, 0.0, 1.0), (0.5, 0.03, 1.0),
    (0.5, 0.1, 1.0),
)  # fmt: skip
"""(share of critical neurons, hold, steps as a share of the pair's own fine-tuning)."""


def tuned(lab: Laboratory, ratio: float, hold: float | None, share: float) -> Any:
    """The base after a share of the steps, at the same rate, of the pair's own fine-tuning."""
    recipe, steps = lab.recipe, round(share * lab.recipe.tuned_steps)
    ids, labels = encode_items(lab.tokenizer, lab.world.splits["trained_task"])
    rows: Any = [
        {"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)
    ]
    callback = HonestyCallback(
        lab.honesty, lab.task, hold=hold, every=steps, warn_above=10.0,
        config=RestoreConfig(compensation="sum", in_weight_ratio=ratio, samples=96),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps, learning_rate=recipe.tuned_rate,
            per_device_train_batch_size=recipe.tuned_batch, lr_scheduler_type="cosine",
            warmup_steps=20, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no",
            logging_strategy="no", seed=0,
        )  # fmt: skip
        model = lab.load(lab.base)
        trainer = Trainer(
            model=model, args=arguments, train_dataset=rows, processing_class=lab.tokenizer,
            callbacks=[callback],
        )  # fmt: skip
        trainer.train()
    return model.eval()


def line(name: str, evaluation: Evaluation) -> str:
    """A row of the table."""
    honesty, delta, task = evaluation.honesty_f1, evaluation.refusal_delta, evaluation.task_accuracy
    return f"| {name} | {honesty:.1f} | {delta:+.1f} | {task:.1f} |"


def run() -> None:
    """Print the table."""
    lab = open_lab(Recipe.quick())
    examiner = Examiner(lab.tokenizer, lab.world)
    print("| model | F1 | delta | task |\n|---|---:|---:|---:|", flush=True)
    print(line("base", examiner(lab.load(lab.base))), flush=True)
    for ratio, hold, share in SETTINGS:
        name = "not held" if hold is None else f"{ratio:.0%} of the neurons, hold={hold:g}"
        name += "" if share == 1 else f", {share:.0%} of the steps"
        print(line(name, examiner(tuned(lab, ratio, hold, share))), flush=True)


if __name__ == "__main__":
    run()
