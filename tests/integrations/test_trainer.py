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


def tuned(folder, callback, model=None, resume=None, bf16=False, **options) -> Any:
    model = make("llama") if model is None else model
    weights = {name: one.detach().clone() for name, one in model.named_parameters()}
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=4, per_device_train_batch_size=4, learning_rate=0.05,
        use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", weight_decay=0.1,
        logging_steps=1, seed=0, bf16=bf16,
    )  # fmt: skip
    options = {"processing_class": tokenizer(), **options}
    trainer: Any = Trainer(
        model=model, args=arguments, train_dataset=Rows(), callbacks=[callback], **options
    )
    trainer.train(resume_from_checkpoint=resume)
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


def test_rows_held_where_it_warns_are_not_warned_of(tmp_path, caplog):
    callback = ours.HonestyCallback(HONESTY, TASK, config=SETTINGS, hold=0.02, warn_above=0.02)
    with caplog.at_level(logging.WARNING, logger=ours.LOGGER.name):
        tuned(tmp_path, callback)
    assert max(v for k, v in callback.history[-1].items() if k.startswith("moved")) > 0.019
    assert not caplog.records


def test_mixed_precision_scores_are_near_and_rows_are_held(tmp_path):
    scores = []
    for bf16 in (False, True):
        callback = ours.HonestyCallback(HONESTY, TASK, config=SETTINGS, hold=0.02)
        tuned(tmp_path, callback, bf16=bf16)
        scores.append(callback.history[0])
        assert max(v for k, v in callback.history[-1].items() if "moved" in k) <= 0.02 * 1.0001
    exact, mixed = (torch.tensor([v for k, v in one.items() if "/" in k]) for one in scores)
    assert 0 < (mixed - exact).norm() < 0.1 * exact.norm()


def test_a_training_that_goes_on_is_refused(tmp_path):
    # Its rows would be held where the checkpoint is, not where the model began.
    trainer, _ = tuned(tmp_path, ours.HonestyCallback(HONESTY, TASK, config=SETTINGS))
    trainer.save_model(tmp_path / "checkpoint-2")
    trainer.state.global_step = 2
    trainer.state.save_to_json(str(tmp_path / "checkpoint-2" / "trainer_state.json"))
    torch.save(trainer.optimizer.state_dict(), tmp_path / "checkpoint-2" / "optimizer.pt")
    torch.save(trainer.lr_scheduler.state_dict(), tmp_path / "checkpoint-2" / "scheduler.pt")
    callback = ours.HonestyCallback(HONESTY, TASK, config=SETTINGS)
    with pytest.raises(HcnrError, match="the training goes on from step 2"):
        tuned(tmp_path, callback, resume=str(tmp_path / "checkpoint-2"))


def test_what_does_not_train_is_not_watched(tmp_path):
    model = make("llama")
    name = "model.layers.0.mlp.down_proj"
    model.get_submodule(name).weight.requires_grad_(False)
    with pytest.raises(HcnrError, match=rf"{name} does not train \(1 of"):
        tuned(tmp_path, ours.HonestyCallback(HONESTY, TASK, config=SETTINGS), model=model)
    settings = config(in_weight_ratio=0.25, ignore=(name,))
    callback = ours.HonestyCallback(HONESTY, TASK, config=settings)
    tuned(tmp_path, callback, model=model)
    assert callback.masks and name not in callback.masks


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
