"""`python -m integrations.llmcompressor.example`: GPTQ on too few tokens, with stated damping."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import tempfile

import torch
from datasets import Dataset
from llmcompressor import oneshot

from integrations.llmcompressor.gptq import DampedGPTQModifier
from integrations.tiny import WORDS, model, tokenizer


def run() -> None:
    """Quantise a tiny model to 4 bits and say how its Hessians were inverted."""
    torch.manual_seed(0)
    rows = torch.randint(3, WORDS, (2, 8)).tolist()
    data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * 8] * 2})
    modifier = DampedGPTQModifier(
        scheme="W4A16", targets="Linear", ignore=["lm_head"], dampening_frac=1e-9
    )
    with tempfile.TemporaryDirectory() as folder:
        model(width=128).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        oneshot(
            model=folder, dataset=data, recipe=modifier, pipeline="sequential",
            num_calibration_samples=2, max_seq_length=8,
        )  # fmt: skip
    for record in modifier.records:
        print(f"{record.name}: damping {record.damping:g}, condition {record.condition:.1e}")


if __name__ == "__main__":
    run()
