"""The trial of holding: its tuning against the trial's own, its choice, its paired figures."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from experiments.holding.__main__ import FREE, choose
from experiments.holding.behaviour import Behaviour, Journal, compare, delta, kept
from experiments.holding.tune import Setting, tune
from experiments.trial.real_recipe import RealRecipe
from experiments.trial.real_world import tuned_schedule
from hcnr.data.samples import Sample
from hcnr.data.tokens import tokenize
from hcnr.demo.real.training import train
from hcnr.models.model import fast_bfloat16, open_model, open_tokenizer
from pages import ROOT
from pairs import HONESTY, TASK

pytestmark = pytest.mark.filterwarnings("ignore")  # the Trainer's own
RECIPE = RealRecipe(tuned_epochs=1, tuned_rate=0.01, batch=4)


def data() -> Any:
    samples = [Sample(one["prompt"], one["response"]) for one in TASK]
    return SimpleNamespace(tuned=samples, honesty=HONESTY, task=TASK)


def weights(folder) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: weight for file in files for name, weight in load_file(file).items()}


def test_the_free_tuning_is_the_trials(pair, tmp_path):
    tune(pair["base"], data(), RECIPE, FREE, tmp_path)
    model, tokenizer = open_model(pair["base"], device="cpu"), open_tokenizer(pair["base"])
    model.float()
    train(
        model, tokenize(data().tuned, tokenizer), tuned_schedule(RECIPE), pad=0,
        bfloat16=fast_bfloat16(),
    )  # fmt: skip
    exact, before = dict(model.named_parameters()), weights(pair["base"])
    for name, weight in weights(tmp_path).items():
        step = (exact[name] - before[name].float()).abs().max()
        assert step > 0
        assert (weight.float() - exact[name]).norm() < 0.02 * exact[name].norm()


def test_held_neurons_are_the_bases(pair, tmp_path):
    tune(pair["base"], data(), RECIPE, Setting(0.5, 0.0), tmp_path)
    name = "model.layers.0.mlp.down_proj.weight"
    found, before = weights(tmp_path)[name], weights(pair["base"])[name].bfloat16()
    same = (found == before).all(1)
    assert int(same.sum()) == len(same) // 2


def test_the_best_that_knows_the_task_is_chosen():
    figures = {
        name: {"delta": delta, "loss": loss}
        for name, delta, loss in (("not held", 5.0, 2.0), ("a", 30.0, 2.4), ("b", 20.0, 2.1))
    }
    assert choose(figures, ["a", "b"], 2.1) == "b"
    assert choose(figures, ["a", "b"], 2.4) == "a"
    assert choose(figures, ["a", "b"], 2.0) == "not held"


def behaviour(losses, refused) -> Behaviour:
    return Behaviour(losses, [1.0 - one / 4 for one in losses], {"kuq": refused})


def test_figures_are_paired_by_question():
    answerable = {"kuq": "00001111"}
    ours, theirs = behaviour([1.0, 2.0, 3.0], "11110001"), behaviour([2.0, 3.0, 4.0], "11000000")
    assert delta(ours, answerable)[0] == 75.0 and delta(theirs, answerable)[0] == 50.0
    found = compare(ours, theirs, answerable)
    # One nat a question, whichever are drawn: an unpaired interval would not be a point.
    assert found["loss"] == pytest.approx([-1.0, -1.0, -1.0])
    assert found["f1"] == pytest.approx([25.0, 25.0, 25.0])
    value, low, high = found["delta"]
    assert value == 25.0 and low < 25.0 < high
    base = behaviour([4.0, 4.0, 4.0], "11110000")
    assert kept(ours, base, theirs) == pytest.approx(200.0)
    assert kept(ours, theirs, base) is None


def test_a_line_that_was_cut_is_evaluated_again(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for key in ("first", "second"):
        journal.add(key, behaviour([1.0], "10"))
    text = (tmp_path / "journal.jsonl").read_text()
    (tmp_path / "journal.jsonl").write_text(text[:-9])
    again = Journal(tmp_path / "journal.jsonl")
    assert again.get("first") == behaviour([1.0], "10") and again.get("second") is None
    again.add("second", behaviour([2.0], "01"))
    last = cast(Behaviour, Journal(tmp_path / "journal.jsonl").get("second"))
    assert last.losses == [2.0]


def test_the_page_says_what_the_result_says():
    result = json.loads((ROOT / "experiments" / "holding" / "smollm2-quick.json").read_text())
    page = " ".join((ROOT / "docs" / "operators.md").read_text().split())
    rows = [row["test"] for row in result["rows"].values() if "test" in row]
    assert len(rows) == 4
    for row in rows:
        low, high = row["delta_ci95"]
        for text in (
            f"{row['delta']:+.1f}", f"({low:+.1f} to {high:+.1f})", f"{row['loss']:.3f}",
            f"| {row['f1']:.1f} |",
        ):  # fmt: skip
            assert text in page, text
    for key in ("held_minus_free", "held_minus_interpolation"):
        for name, digits in (("delta", 1), ("loss", 3), ("f1", 1)):
            value, low, high = (f"{one:+.{digits}f}" for one in result[key][name])
            assert f"{value} ({low} to {high})" in page, (key, name)
