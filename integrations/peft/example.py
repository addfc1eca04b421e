"""`python -m integrations.peft.example`: LoRA steps that leave honesty-critical neurons alone."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import torch
from peft import LoraConfig, get_peft_model

from hcnr import NeuronFisher
from hcnr.repair.selection import priority, top
from integrations.peft.lora import clear_neurons, lora_layers
from integrations.tiny import HONESTY, TASK, model, tokenizer


def run() -> None:
    """Score neurons, hold the critical ones, train two steps."""
    base, tokens = model(), tokenizer()
    scores = []
    for records in (HONESTY, TASK):
        with NeuronFisher(base, ["q_proj", "down_proj"]) as fisher:
            for record in records:
                ids = torch.tensor([tokens.encode(f"{record['prompt']} {record['response']}")])
                base(input_ids=ids, labels=ids).loss.backward()
        scores.append(fisher.scores)
    honesty, task = scores
    masks = {name: top(priority(honesty[name], task[name]), len(own) // 4)
             for name, own in honesty.items()}  # fmt: skip
    adapted = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    )
    clear_neurons(adapted, masks, hold=True)  # pyright: ignore[reportArgumentType]
    trained = [one for one in adapted.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05)
    ids = torch.tensor([tokens.encode(f"{TASK[1]['prompt']} {TASK[1]['response']}")])
    for step in range(3):
        loss = adapted(input_ids=ids, labels=ids).loss
        print(f"step {step}: loss {loss.item():.4f}")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, layer in lora_layers(adapted).items():  # pyright: ignore[reportArgumentType]
        moved = (layer.get_delta_weight("default") != 0).any(1)
        held = int((moved & masks[name]).sum())
        print(f"{name}: {int(moved.sum())} rows moved, {held} of the {int(masks[name].sum())} held")


if __name__ == "__main__":
    run()
