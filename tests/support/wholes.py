"""What tests of two-sided repairs share: settings, dense quantities, what was written."""

import json

import torch
from transformers import AutoModelForCausalLM

import oracle
from hcnr.checkpoint import Checkpoint
from hcnr.curvature.groups import curvature_bytes
from hcnr.data.samples import load_samples
from hcnr.data.tokens import tokenize
from pairs import tokenizer, write_jsonl

WHOLE = {"cross_weight_ratio": 1.0, "damping": 0.05}
KINDS = ("spectral", "natural", "spectral+natural")
SMALL = {"targets": ("*.0.*q_proj", "*.0.*k_proj", "*.1.*down_proj"), **WHOLE}
"""Dense systems of `out * in` unknowns are solved beside these."""


def data(records):
    return tokenize(load_samples(records, limit=8), tokenizer())


def moments(model, names, records):
    sides = [
        oracle.second_moment(model, names, data(records), axis) for axis in ("input", "output")
    ]
    return {name: (sides[0][name], sides[1][name]) for name in names}


def deltas(loaded, names):
    base, tuned = (
        {name: loaded[role].get_parameter(f"{name}.weight").double() for name in names}
        for role in ("base", "tuned")
    )
    return base, {name: (tuned[name] - base[name]).detach() for name in names}


def written(out, names):
    checkpoint = Checkpoint.open(out)
    return {name: checkpoint.load(f"{name}.weight").double() for name in names}


def report(out):
    return json.loads((out / "hcnr_report.json").read_text())


def largest_block(pair, places):
    model = AutoModelForCausalLM.from_pretrained(pair["tuned"])
    blocks = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            blocks.setdefault(name.split(".")[2], []).append(tuple(module.weight.shape))
    return max(curvature_bytes(shapes, places) for shapes in blocks.values())


def write_learned(pair, root):
    """The pair with a tuned model that has learned the task, and more task samples than used."""
    records = [{"prompt": f"w{2 * i} w{i}", "response": f"w{i + 20}"} for i in range(24)]
    model = AutoModelForCausalLM.from_pretrained(pair["base"])
    batch = tokenize(load_samples(records, limit=99), tokenizer())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        loss = torch.stack(
            [oracle.sample_loss(model, one.input_ids, one.response_start) for one in batch.samples]
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(root / "tuned")
    tokenizer().save_pretrained(root / "tuned")
    return {
        **pair,
        "tuned": root / "tuned",
        "task": write_jsonl(root / "task.jsonl", records),
    }
