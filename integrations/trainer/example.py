"""`python -m integrations.trainer.example`: tuning that is watched, then tuning that is held."""

import tempfile
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from hcnr import RestoreConfig
from integrations.tiny import HONESTY, TASK, model, tokenizer
from integrations.trainer.callback import HonestyCallback


def train(hold: float | None) -> None:
    """Six steps on the task samples."""
    tokens = tokenizer()
    rows: list[Any] = []
    for record in TASK:
        ids = torch.tensor(tokens.encode(f"{record['prompt']} {record['response']}"))
        rows.append({"input_ids": ids, "labels": ids})
    config = RestoreConfig(in_weight_ratio=0.25, compensation="sum")
    callback = HonestyCallback(HONESTY, TASK, config=config, every=3, hold=hold, warn_above=0.1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=6, per_device_train_batch_size=4, learning_rate=0.01,
            use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", logging_steps=6,
        )  # fmt: skip
        trainer = Trainer(
            model=model(), args=arguments, train_dataset=rows,  # pyright: ignore[reportArgumentType]
            processing_class=tokens, callbacks=[callback],
        )  # fmt: skip
        trainer.train()
    for entry in callback.history:
        moved = max(value for key, value in entry.items() if key.startswith("moved/"))
        print(f"hold {hold}: step {entry['step']}: critical neurons moved by {moved:.3f} at most")


if __name__ == "__main__":
    train(None)
    train(0.05)
