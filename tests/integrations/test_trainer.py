"""The callback inside transformers' own Trainer, on a tiny model."""

import logging
from typing import Any

import pytest
import torch

import hosts
from families import make
from hcnr.errors import HcnrError
from pairs import HONESTY, TASK, config, tokenizer

hosts.require("accelerate")
ours = hosts.load("transformers", "trainer.callback")
pytestmark = pytest.mark.filterwarnings("ignore")  # the tool's own

with hosts.silent():
    from transformers import Trainer, TrainingArguments

SETTINGS = config(in_weight_ratio=0.25)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        ids = torch.arange(3, 11) + index
        return {"input_ids": ids, "labels": ids}


def tuned(folder, callback, **options) -> Any:
    model = make("llama")
    weights = {name: one.detach().clone() for name, one in model.named_parameters()}
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=4, per_device_train_batch_size=4, learning_rate=0.05,
        use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", weight_decay=0.1,
        logging_steps=1, seed=0,
    )  # fmt: skip
    options = {"processing_class": tokenizer(), **options}
    trainer: Any = Trainer(
        model=model, args=arguments, train_dataset=Rows(), callbacks=[callback], **options
    )
    trainer.train()
    return trainer, weights


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_it_logs_scores_and_warns(tmp_path, caplog):
    callback = ours.HonestyCallback(HONESTY, TASK, config=SETTINGS, every=3, warn_above=0.01)
    with caplog.at_level(logging.WARNING, logger=ours.LOGGER.name):
        trainer, weights = tuned(tmp_path, callback)
    assert [entry["step"] for entry in callback.history] == [0, 3, 4]
    name = "model.layers.0.mlp.down_proj"
    first, _, last = callback.history
    assert first[f"moved/{name}"] == 0 and first[f"honesty/{name}"] > 0 < first[f"task/{name}"]
    mask = callback.masks[name]
    assert int(mask.sum()) == 6
    now, before = trainer.model.get_submodule(name).weight[mask], weights[f"{name}.weight"][mask]
    exact = float((now - before).double().norm() / before.double().norm())
    assert last[f"moved/{name}"] == pytest.approx(exact, rel=1e-5) and exact > 0.01
    assert sum(f"moved/{name}" in entry for entry in trainer.state.log_history) == 3
    said = [record.getMessage() for record in caplog.records if name in record.getMessage()]
    assert len(said) == 1 and "have moved by" in said[0]


def test_what_it_watches_is_what_the_measuring_gives(tmp_path):
    callback = ours.HonestyCallback(HONESTY, TASK, config=SETTINGS)
    trainer, _ = tuned(tmp_path, callback)
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    plain: Any = Trainer(
        model=make("llama"), args=trainer.args, train_dataset=Rows(), processing_class=tokenizer()
    )
    plain.train()
    assert losses(plain) == losses(trainer)
    for left, right in zip(plain.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("hold", [0.0, 0.02])
def test_held_neurons_stay_near(tmp_path, hold):
    callback = ours.HonestyCallback(HONESTY, TASK, config=SETTINGS, hold=hold, warn_above=0.05)
    trainer, weights = tuned(tmp_path, callback)
    told = losses(trainer)
    assert told[-1] < told[0]
    for name, mask in callback.masks.items():
        weight, before = trainer.model.get_submodule(name).weight, weights[f"{name}.weight"]
        if hold == 0:
            assert torch.equal(weight[mask], before[mask])
        assert callback.history[-1][f"moved/{name}"] <= hold * (1 + 1e-4)
        assert (weight[~mask] != before[~mask]).any(1).all()
    if hold:
        assert max(v for k, v in callback.history[-1].items() if k.startswith("moved")) > 0.019


def test_a_report_takes_the_place_of_the_history(tmp_path):
    told = []
    callback = ours.HonestyCallback(HONESTY, TASK, config=SETTINGS, report=told.append)
    trainer, _ = tuned(tmp_path, callback)
    assert len(told) == 2
    assert not any("moved" in key for entry in trainer.state.log_history for key in entry)


def test_bad_input_is_one_sentence(tmp_path):
    with pytest.raises(HcnrError, match="hold is -1"):
        ours.HonestyCallback(HONESTY, TASK, hold=-1)
    with pytest.raises(HcnrError, match="every is 0"):
        ours.HonestyCallback(HONESTY, TASK, every=0)
    with pytest.raises(HcnrError, match="the neuron axis is 'input'"):
        ours.HonestyCallback(HONESTY, TASK, config=config(axis="input"))
    callback = ours.HonestyCallback(HONESTY, TASK, config=SETTINGS)
    with pytest.raises(HcnrError, match="the trainer has no tokenizer"):
        tuned(tmp_path, callback, processing_class=None)
    callback = ours.HonestyCallback(tmp_path / "nowhere.jsonl", TASK, config=SETTINGS)
    with pytest.raises(HcnrError, match=r"nowhere.jsonl does not exist"):
        tuned(tmp_path, callback)
