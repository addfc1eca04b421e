"""One command to its verdict, interrupted after each step, and told what has changed."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.main import get_command
from typer.testing import CliRunner

from adapters import silent, write_adapter
from commands import run
from hcnr.cli import app
from hcnr.errors import ConfigError, DataError, OutputError
from hcnr.guided import work
from hcnr.guided.changes import affected
from hcnr.guided.job import parted
from hcnr.guided.recipe_file import load_recipe, recipe_of
from hcnr.guided.run import _inputs, run_recipe
from hcnr.models.pair import Pair
from hcnr.progress import Stages
from hubs import cached
from pairs import hashes, write_jsonl

WORK = {
    "probe": "probe_pair", "search": "search_weight", "choose": "choose",
    "restore": "restore_chosen", "evaluate": "evaluate_all", "report": "write_page",
}  # fmt: skip
WORDS = ("use", "do not use", "interpolate instead", "unclear")


def changed(values, part, **changes):
    return recipe_of({**values, part: {**values[part], **changes}})


@pytest.fixture(scope="module")
def first(values, tmp_path_factory):
    """A run that nothing interrupts."""
    out = tmp_path_factory.mktemp("first") / "out"
    return run_recipe(recipe_of(values), out)


def metrics(directory):
    return json.loads((directory / "eval" / "metrics.json").read_text())


def answers(directory):
    return hashes(directory / "eval", "answers-*.jsonl")


def test_a_run_ends_with_a_verdict_and_leaves_everything(first, given):
    out = first.directory
    assert first.steps == list(WORK)
    names = {"hcnr.yaml", "steps.json", "probe.json", "sweep.json", "model", "eval", "data",
             "report.html"}  # fmt: skip
    assert names <= {path.name for path in out.iterdir()}
    parts = {
        name: [
            json.loads(line) for line in (out / "data" / f"{name}.jsonl").read_text().splitlines()
        ]
        for name in ("task", "task-validation", "task-questions")
    }
    whole = [json.loads(line) for line in given["task"].read_text().splitlines()]
    assert parts["task"] + parts["task-questions"] == whole
    assert parts["task"][8:] == parts["task-validation"] and len(parts["task-validation"]) == 8
    found = metrics(out)
    assert found["recommendation"] == dict(first.recommendation) and first.word in WORDS
    assert set(found["models"]) == {"tuned", "base"} and found["interpolation"]
    report = json.loads((out / "model" / "hcnr_report.json").read_text())
    sweep = json.loads((out / "sweep.json").read_text())
    weights = [one["settings"]["task_weight"] for one in sweep["candidates"]]
    chosen = report["config"]["task_weight"]
    assert chosen in weights and weights == pytest.approx([w * weights[0] for w in (1, 3, 10)])
    assert report["data"]["task"]["samples"] == 8
    losses = report["verdict"]["losses"]["task"]
    assert losses["samples"] == 8 and losses["held_back"]
    assert 100 * (losses["base"] - losses["restored"]) / (losses["base"] - losses["tuned"]) >= 60
    page = (out / "report.html").read_text()
    assert "Knowledge boundary" in page and "Trade-off" in page
    assert first.lines[-2].startswith(f"verdict: {first.word}: ")
    assert sum(line.startswith("verdict: ") for line in first.lines) == 1
    assert first.lines[-1] == first.next_step and "hcnr " in first.next_step


def test_the_notes_of_the_restoration_stand_before_its_losses(first, monkeypatch):
    job = SimpleNamespace(
        recipe=first.recipe, pair=("b", "t"), honesty="h", task="t", out=first.directory,
        config=first.recipe.settings.config(), shared={},
    )  # fmt: skip
    report = {"warnings": ["know this"], "verdict": {"lines": ["honesty loss", "verdict: use: so"]}}
    monkeypatch.setattr("hcnr.restore", lambda *_, **__: first.directory / "model")
    monkeypatch.setattr("hcnr.record.writing.read_report", lambda _: report)
    lines = work.restore_chosen(job, {})  # pyright: ignore[reportArgumentType]
    assert lines == ["note: know this", "honesty loss", "verdict: use: so"]
    ended = replace(first, losses=lines).lines
    place = ended.index("note: know this")
    assert ended[place + 1 : place + 3] == ["honesty loss", "by the losses alone: use: so"]


def test_the_next_command_is_one_of_ours(first):
    rival = {"coefficient": 0.2}
    for word in WORDS:
        facts = {**first.recommendation, "word": word, "interpolation": rival}
        arguments = replace(first, recommendation=facts).next_command.split()[1:]
        # Parsed and not run: every option is one that the command has.
        program: Any = get_command(app)
        program.commands[arguments[0]].make_context(arguments[0], list(arguments[1:]))
        if word == "interpolate instead":
            assert arguments[arguments.index("--coefficient") + 1] == "0.2"


def test_interrupted_before_each_step_it_goes_on_and_ends_the_same(
    first, values, tmp_path, monkeypatch
):
    """No finished step is done again, and the bytes are those of the run in one piece."""
    calls = []
    real = {name: getattr(work, name) for name in WORK.values()}
    stop = None

    def counted(name):
        def function(job, **more):
            if name == stop:
                raise KeyboardInterrupt
            calls.append(name)
            return real[name](job, **more)

        return function

    for name in real:
        monkeypatch.setattr(work, name, counted(name))
    out = tmp_path / "out"
    for place, name in enumerate(WORK.values()):
        stop = name
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe_of(values), out)
        finished = json.loads((out / "steps.json").read_text()) if place else {}
        assert list(finished) == list(WORK)[:place]
    stop = None
    told = []
    end = run_recipe(recipe_of(values), out, tell=told.append)
    assert calls == list(WORK.values()) and end.steps == ["report"]
    assert len(told) == 5 and all("finished before" in line for line in told)
    assert hashes(out / "model") == hashes(first.directory / "model")
    assert answers(out) == answers(first.directory)
    assert metrics(out)["recommendation"] == metrics(first.directory)["recommendation"]
    assert (end.choice["config"], end.losses, end.probe) == (
        first.choice["config"], first.losses, first.probe,
    )  # fmt: skip
    assert hashes(out / "data", "*") == hashes(first.directory / "data", "*")

    calls.clear()
    assert run_recipe(recipe_of(values), out).steps == [] and not calls
    # A file that was changed is made again, and what rests on it.
    (out / "sweep.json").write_text("{}")
    again = run_recipe(recipe_of(values), out, tell=told.append)
    assert again.steps == ["choose", "report"] and "choose: its files have" in "".join(told)
    # Another setting makes only what depends on it; finished results are replaced knowingly.
    other = changed(values, "settings", max_new_tokens=2)
    with pytest.raises(OutputError, match=r"another recipe \(it differs in settings.max_new_tok"):
        run_recipe(other, out)
    told.clear()
    end = run_recipe(other, out, overwrite=True, tell=told.append)
    assert end.steps == ["choose", "evaluate", "report"]
    assert told[0] == (
        "the recipe differs in settings.max_new_tokens: choose, evaluate are done again; of "
        "probe, search, restore, report only what rests on a result that changes"
    )
    assert load_recipe(out / "hcnr.yaml").settings.max_new_tokens == 2
    # Nothing depends on that one, so nothing is asked.
    other = changed(values, "settings", max_new_tokens=2, batch_size=5)
    told.clear()
    assert run_recipe(other, out, tell=told.append).steps == []
    assert told[0] == "the recipe differs in settings.batch_size: no finished step depends on that"
    assert load_recipe(out / "hcnr.yaml").settings.batch_size == 5


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("settings", "max_accuracy_drop", 3.0), ("settings", "max_task_drop_percent", 39.0),
        ("settings", "max_new_tokens", 2), ("settings", "limit", 6),
        ("settings", "task_weight", 5.0), ("settings", "compensation", "sum"),
        ("settings", "batch_size", 3), ("models", "tuned_id", "me/tuned"),
    ],
)  # fmt: skip
def test_the_table_of_changes_is_what_the_steps_depend_on(values, tmp_path, part, key, value):
    found = []
    for recipe in (recipe_of(values), changed(values, part, **{key: value})):
        job, _ = parted(recipe, tmp_path, None)
        pair = Pair.open(*job.pair, job.config, Stages())
        found.append(_inputs(recipe, pair, job))
    before, after = found
    differ = [step for step in before if before[step] != after[step]]
    assert differ == affected([f"{part}.{key}"])


def test_an_option_is_corrected_before_results_are_there(values, tmp_path, monkeypatch):
    """What was measured stands; the recipe is the new one, without --overwrite."""
    out = tmp_path / "out"

    def stop(job, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(work, "choose", stop)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe_of(values), out)
    with monkeypatch.context() as patched:
        patched.setattr(work, "choose", stop)
        patched.setattr(work, "probe_pair", None)
        told = []
        with pytest.raises(KeyboardInterrupt):
            run_recipe(
                changed(values, "settings", max_task_drop_percent=39.0), out, tell=told.append
            )
    assert told[0].startswith(
        "the recipe differs in settings.max_task_drop_percent: search is done again"
    )
    assert "probe: finished before, read" in told
    assert load_recipe(out / "hcnr.yaml").settings.max_task_drop_percent == 39


def test_questions_of_one_kind_are_refused_before_anything(given, values, tmp_path, monkeypatch):
    for name in WORK.values():
        monkeypatch.setattr(work, name, None)
    rows = [json.loads(line) for line in given["questions"].read_text().splitlines()]
    one_kind = write_jsonl(tmp_path / "k.jsonl", [row for row in rows if not row["answerable"]])
    for key in ("questions", "validation"):
        with pytest.raises(DataError, match=r"a run weighs refusals .* k has 0 answerable"):
            run_recipe(changed(values, "data", **{key: str(one_kind)}), tmp_path / key)


def test_an_answer_that_does_not_fit_is_refused_before_anything(values, tmp_path, monkeypatch):
    for name in WORK.values():
        monkeypatch.setattr(work, name, None)
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"it exceeds the model.s 64 positions; "
                                        "lower --max-new-tokens to at most 6[01]$"):  # fmt: skip
        run_recipe(changed(values, "settings", max_new_tokens=4096), out)
    assert not (out / "hcnr.yaml").exists() and not (out / "steps.json").exists()


def test_sharegpt_and_the_command_line(given, first, tmp_path):
    out = tmp_path / "out"
    options = [
        "--honesty", given["honesty"], "--validation", given["validation"],
        "--questions", given["questions"], "--task", given["sharegpt"], "--samples", "8",
        "--max-task-drop-percent", "40", "--max-accuracy-drop", "40", "--max-new-tokens", "3",
        "--limit", "8", "--out", out, "--json",
    ]  # fmt: skip
    shown = run("run", given["base"], given["tuned"], *options)
    found = json.loads(shown.stdout)
    assert found["word"] in WORDS and found["steps_done"] == list(WORK)
    # The same facts in another form: the same weights.
    assert hashes(out / "model") == hashes(first.directory / "model")
    recipe = out / "hcnr.yaml"
    before = recipe.read_bytes()
    shown = run("run", "--recipe", recipe)
    last = shown.stdout.strip().splitlines()
    assert last[-2].startswith(f"verdict: {found['word']}: ") and found["next"] in last[-1]
    assert shown.stdout.count("finished before, read") == 6
    assert recipe.read_bytes() == before
    assert run("run", "--recipe", recipe, "--quiet").stdout == ""


def test_bad_arguments_are_one_sentence(given, values, tmp_path):
    pair = given["base"], given["tuned"]
    assert "--task missing" in run("run", *pair, code=2).stderr
    shown = run("run", *pair, "--recipe", tmp_path / "r.yaml", code=2)
    assert "BASE was given beside --recipe" in shown.stderr
    task = ["--task", given["task"]]
    shown = run("run", *pair, *task, "--samples", "many", code=2)
    assert "--samples is 'many', expected a whole number, at least 1" in shown.stderr
    shown = run("run", *pair, *task, "--compensation", "interpolate", code=2)
    assert "--compensation is 'interpolate', expected one of none, sum" in shown.stderr
    assert "hcnr restore --compensation interpolate writes one" in shown.stderr
    shown = run("run", *pair, *task, "--compensation", "spectrall", code=2)
    assert "did you mean 'spectral'?" in shown.stderr
    shown = run("run", *pair, *task, "--task-weight", "heavy", code=2)
    assert "--task-weight is 'heavy', expected" in shown.stderr
    shown = run("run", *pair, *task, "--honesty", "absent.jsonl", code=2)
    assert "absent.jsonl does not exist" in shown.stderr
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_run_is_refused_before_anything_is_computed(given, values, tmp_path):
    out = tmp_path / "out"
    few = write_jsonl(tmp_path / "few.jsonl", [{"prompt": f"w{i}", "response": "w1"}
                                               for i in range(31)])  # fmt: skip
    with pytest.raises(DataError, match="holds 31 samples, expected at least 32"):
        run_recipe(changed(values, "data", task=str(few)), out)
    with pytest.raises(ConfigError, match="questions that choose cannot judge"):
        run_recipe(changed(values, "data", validation=str(given["questions"])), tmp_path / "b")
    with pytest.raises(ConfigError, match=r"has the fingerprint .* 'base_revision: null' to take"):
        run_recipe(changed(values, "models", base_revision="0000"), tmp_path / "c")
    with pytest.raises(ConfigError, match="--tuned-id is 'mine', expected the model's name"):
        run_recipe(changed(values, "models", tuned_id="mine"), tmp_path / "c")
    with pytest.raises(OutputError, match="inside the input"):
        run_recipe(recipe_of(values), given["base"] / "out")
    assert not (given["base"] / "out").exists() and not (tmp_path / "c").exists()


def test_models_of_the_hub_are_run_by_their_names(given, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    for number, role in enumerate(("base", "tuned"), 1):
        cached(cache, f"org/{role}", given[role], number, "main")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("hcnr.guided.run.parted", None)
    monkeypatch.chdir(tmp_path)
    # The pair is opened, and its own output refused, before the data is parted.
    named = ["--task", given["task"], "--honesty", given["honesty"]]
    with pytest.raises(TypeError, match="not callable"):
        run("run", "org/base", "org/tuned", *named)
    shown = run("run", "org/base", "org/nowhere", *named, code=2).stderr
    assert "'org/nowhere' is no directory here, and of the Hugging Face hub" in shown
    assert (tmp_path / "hcnr-run").is_dir() and not (tmp_path / "org").exists()
    monkeypatch.setattr("hcnr.commands.init._at_terminal", lambda: True)
    answers = ["org/base", "org/tuned", given["task"], "", "by-init"]
    result = CliRunner().invoke(app, ["init"], input="".join(f"{a}\n" for a in answers))
    assert result.exit_code == 0, result.output
    assert load_recipe(tmp_path / "by-init" / "hcnr.yaml").models.tuned == "org/tuned"


def test_an_adapter_goes_through_like_a_checkpoint(values, given, tmp_path):
    """It is measured, chosen, restored and asked as what it makes of its base."""
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    adapter = write_adapter(given["tuned"], tmp_path / "adapter", scale=0.4)
    # A base that this adapter turns into the model that has learned the task.
    base = tmp_path / "base"
    shutil.copytree(given["tuned"], base)
    model = AutoModelForCausalLM.from_pretrained(given["tuned"])
    with silent(), torch.no_grad():
        without = peft.PeftModel.from_pretrained(model, adapter)
        for name, parameter in without.named_parameters():
            if "lora_B" in name:
                parameter.neg_()
        for shard in base.glob("*.safetensors*"):
            shard.unlink()
        without.merge_and_unload().save_pretrained(base)
    models = {"base": str(base), "tuned": str(adapter)}
    made = run_recipe(changed(values, "models", **models), tmp_path / "out")
    assert made.steps == list(WORK) and made.word in WORDS
    pair = json.loads((made.directory / "model" / "hcnr_report.json").read_text())["pair"]
    assert pair["tuned"] == adapter.name
    assert set(metrics(made.directory)["models"]) == {"adapter", "base"}
    assert "tuned" in (made.directory / "report.html").read_text()
