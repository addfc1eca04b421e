"""`hcnr tune`: what is trained on, what comes out, what is refused. TRL where it is installed."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import hcnr
from commands import run
from hcnr.errors import ConfigError, DataError, ModelError, OutputError
from hcnr.tuning import settings as settings_module
from hcnr.tuning.settings import TuneSettings, check_installed
from pairs import hashes, tokenizer, write_jsonl

MISSING = [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]
needs_trl = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)} not installed: pip install '.[tune]'"
)
SMALL = TuneSettings(rate=3e-2, epochs=4, batch_size=4, samples=6)


def answers(n, word, first):
    return [
        {"prompt": f"w{first + i} w{i + 7} w{i + 1}", "response": f"w{word} w{word + 1}"}
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    honesty = write_jsonl(root / "honesty.jsonl", answers(16, 40, 0))
    return {"honesty": honesty, "task": write_jsonl(root / "task.jsonl", answers(6, 50, 20))}


@pytest.fixture(scope="module")
def trained(pair, data, tmp_path_factory):
    """One training, and what torch's random numbers were before and after it."""
    out = tmp_path_factory.mktemp("tune") / "out"
    before = torch.random.get_rng_state()
    written = hcnr.tune(pair["tuned"], **data, out=out, settings=SMALL, device="cpu")
    assert torch.equal(before, torch.random.get_rng_state())
    assert written == out
    return out


def report(directory):
    return json.loads((directory / "hcnr_report.json").read_text())


@needs_trl
def test_a_complete_checkpoint_comes_out(pair, trained):
    stored = {
        name: value
        for file in sorted(pair["tuned"].glob("*.safetensors"))
        for name, value in load_file(file).items()
    }
    written = load_file(trained / "model.safetensors")
    assert written.keys() == stored.keys()
    assert all(written[name].dtype == value.dtype for name, value in stored.items())
    assert all(written[name].shape == value.shape for name, value in stored.items())
    assert any(not torch.equal(written[name], value) for name, value in stored.items())
    AutoModelForCausalLM.from_pretrained(trained)
    assert AutoTokenizer.from_pretrained(trained)("w3")["input_ids"] == [6]
    config = json.loads((trained / "config.json").read_text())
    assert config == json.loads((pair["tuned"] / "config.json").read_text())
    assert not [path for path in trained.parent.iterdir() if path != trained]


@needs_trl
def test_the_losses_fall_and_are_those_of_what_was_written(trained, data):
    found = report(trained)
    for name, held_back in (("honesty", True), ("task", False)):
        losses = found["losses"][name]
        assert losses["result"] < losses["tuned"] - 1 and losses["held_back"] is held_back
    model, words = AutoModelForCausalLM.from_pretrained(trained), tokenizer()
    total = []
    # Ten follow the six that are trained on, and eight of them judge.
    for row in [json.loads(line) for line in data["honesty"].read_text().splitlines()][6:14]:
        prompt = list(words(row["prompt"])["input_ids"])
        ids = [*prompt, *words(row["response"])["input_ids"], words.eos_token_id]
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(len(prompt), len(ids))
        total.append(-sum(float(logs[i - 1, ids[i]]) for i in places) / len(places))
    assert found["losses"]["honesty"]["result"] == pytest.approx(sum(total) / 8, rel=1e-4)


@needs_trl
def test_the_report_and_the_card_say_what_was_done(trained, pair):
    found = report(trained)
    # Twelve samples in steps of four, four times.
    made = found["tune"]
    assert (made["steps"], made["rate"], made["lora"]) == (12, 0.03, None)
    assert {name: facts["samples"] for name, facts in found["data"].items()} == {
        "honesty": 6, "task": 6,
    }  # fmt: skip
    assert found["pair"]["tuned"] == str(pair["tuned"])
    card = (trained / "README.md").read_text()
    for text in ("6 honesty samples and 6 task samples", "all weights", "4 (12 steps of 4 samples)",
                 "honesty loss on held-back samples: tuned", "- hcnr"):  # fmt: skip
        assert text in card
    assert str(pair["tuned"]) not in card, "a card is published, and carries no path"
    with pytest.raises(DataError, match=r"is of hcnr tune, .*evaluate it beside a repair"):
        from hcnr.report.gather import gather

        gather(trained)


@needs_trl
def test_the_same_seed_gives_the_same_bytes(trained, pair, data, tmp_path):
    torch.manual_seed(17)
    again = hcnr.tune(pair["tuned"], **data, out=tmp_path / "a", settings=SMALL, device="cpu")
    assert hashes(again) == hashes(trained)
    other = TuneSettings(**{**SMALL.__dict__, "seed": 1})
    third = hcnr.tune(pair["tuned"], **data, out=tmp_path / "b", settings=other, device="cpu")
    assert hashes(third) != hashes(trained)


@needs_trl
def test_the_loss_is_on_responses_alone():
    from hcnr.data.tokens import TokenizedSample
    from hcnr.tuning.trainer import as_row

    row = as_row(TokenizedSample((5, 6, 7, 8), 3))
    assert row == {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, -100, 8]}


@needs_trl
def test_a_step_goes_down_the_gradient_of_the_responses(pair, data):
    """One step of AdamW from nothing is the sign of the gradient that autograd finds."""
    model = AutoModelForCausalLM.from_pretrained(pair["tuned"])
    samples = [json.loads(line) for path in data.values() for line in path.read_text().splitlines()]
    chosen = [samples[0], samples[16]]
    words, total, count = tokenizer(), torch.zeros(()), 0
    for row in chosen:
        prompt = list(words(row["prompt"])["input_ids"])
        ids = [*prompt, *words(row["response"])["input_ids"], words.eos_token_id]
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        for i in range(len(prompt), len(ids)):
            total, count = total - logs[i - 1, ids[i]], count + 1
    (total / count).backward()
    step = TuneSettings(rate=1e-4, epochs=1, batch_size=2, samples=1)
    result = hcnr.tune(pair["tuned"], chosen[:1], chosen[1:], settings=step, device="cpu")
    before = AutoModelForCausalLM.from_pretrained(pair["tuned"])
    name = "model.layers.0.mlp.down_proj.weight"
    moved = result.get_parameter(name) - before.get_parameter(name)
    slope = model.get_parameter(name).grad
    assert slope is not None
    large = slope.abs() > slope.abs().median()
    assert moved.abs().max() > 0
    assert torch.equal(moved[large].sign(), -slope[large].sign())


@needs_trl
def test_a_model_in_memory_is_left_as_it_was(pair, data):
    model = AutoModelForCausalLM.from_pretrained(pair["tuned"], dtype=torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = hcnr.tune(model, **data, settings=SMALL, tokenizer=tokenizer(), device="cpu")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert result.dtype == torch.bfloat16 and not result.training
    assert result.hcnr_report["tune"]["steps"] == 12


@needs_trl
def test_an_adapter_is_trained_and_merged(pair, data, tmp_path):
    pytest.importorskip("peft", reason="PEFT is not installed: pip install '.[peft]'")
    wide = TuneSettings(**{**SMALL.__dict__, "lora": 2, "rate": None, "epochs": 1})
    out = hcnr.tune(pair["tuned"], **data, out=tmp_path / "lora", settings=wide, device="cpu")
    found = report(out)
    assert (found["tune"]["lora"], found["tune"]["rate"]) == (2, 2e-4)
    names = {
        name for file in pair["tuned"].glob("*.safetensors") for name in load_file(file)
    }  # fmt: skip
    assert load_file(out / "model.safetensors").keys() == names
    assert "LoRA, rank 2, merged" in (out / "README.md").read_text()


@needs_trl
def test_what_goes_wrong_leaves_nothing(pair, data, tmp_path):
    out = tmp_path / "out"
    huge = TuneSettings(**{**SMALL.__dict__, "rate": 1e30})
    with pytest.raises(ModelError, match=r"trained model has no finite loss .*lower --rate"):
        hcnr.tune(pair["tuned"], **data, out=out, settings=huge, device="cpu")
    with pytest.raises(OutputError, match="the input itself"):
        hcnr.tune(pair["tuned"], **data, out=pair["tuned"], settings=SMALL, device="cpu")
    with pytest.raises(DataError, match="holds honesty samples, none of a task"):
        hcnr.tune(pair["tuned"], data["honesty"], "starter", out, SMALL, device="cpu")
    with pytest.raises(ModelError, match="CUDA_VISIBLE_DEVICES"):
        hcnr.tune(pair["tuned"], **data, out=out, settings=SMALL, device="cuda:1")
    assert list(tmp_path.iterdir()) == []


@needs_trl
def test_the_command(pair, data, tmp_path):
    sets = ("--honesty", data["honesty"], "--task", data["task"])
    shown = run("tune", pair["tuned"], *sets, "--out", tmp_path / "out", "--samples", 6, "--rate",
                "0.03", "--epochs", 1, "--device", "cpu").stdout  # fmt: skip
    assert "honesty loss on held-back samples: tuned" in shown
    assert "written:" in shown and (tmp_path / "out" / "README.md").is_file()
    wrong = run("tune", pair["tuned"], *sets, "--out", tmp_path / "out", "--device", "cpu", code=2)
    assert "already exists" in wrong.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0.0}, "rate is 0.0, expected a number above 0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"epochs": -1}, "epochs is -1"),
        ({"lora": 0}, "lora is 0, expected a rank"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"samples": 0}, "samples is 0"),
        ({"max_length": 1}, "max_length is 1, expected at least 2"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(ConfigError, match=message):
        TuneSettings(**change)


def test_without_trl_one_sentence_says_what_to_install(monkeypatch, pair, data, tmp_path):
    real = importlib.util.find_spec
    gone = {"trl"}
    monkeypatch.setattr(
        settings_module.importlib.util,
        "find_spec",
        lambda name, *more: None if name in gone else real(name, *more),
    )
    with pytest.raises(ModelError, match=r"trl.* not installed; run pip install 'hcnr\[tune\]'"):
        hcnr.tune(pair["tuned"], **data, out=tmp_path / "out")
    gone |= {"datasets", "peft"}
    with pytest.raises(ModelError, match="trl and datasets and peft are not installed"):
        check_installed(TuneSettings(lora=4))


def test_the_command_asks_for_trl_before_torch_is_there(pair, data, tmp_path):
    """A sentence that needs nothing heavy comes at once."""
    code = (
        "import importlib.util, sys\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'trl' else real(name, *a)\n"
        "from hcnr.cli import main\n"
        f"sys.argv = ['hcnr', 'tune', {str(pair['tuned'])!r}, '--honesty', {str(data['honesty'])!r}"
        f", '--task', {str(data['task'])!r}, '--out', {str(tmp_path / 'out')!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 2 and 'torch' not in sys.modules, ended.code\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not installed; run pip install 'hcnr[tune]'" in done.stderr
