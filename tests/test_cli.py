import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import hcnr
from commands import TERMINAL, run
from hcnr.config import RestoreConfig
from pairs import write_pair

COMMANDS = (
    "restore", "measure", "plan", "info", "demo", "evaluate", "probe", "sweep", "report",
    "data build", "data make", "push", "run", "init", "chat", "tune", "apply",
)  # fmt: skip
SMALL = ["--samples", "8", "--token-budget", "64", "--preset", "paper"]


def restore(pair, *more, code=0):
    data = ["--honesty", pair["honesty"], "--task", pair["task"]]
    return run("restore", pair["base"], pair["tuned"], *data, *SMALL, *more, code=code)


def test_version_and_help():
    process = [sys.executable, "-m", "hcnr", "--version"]
    found = subprocess.run(process, capture_output=True, text=True, check=True).stdout
    assert found == run("--version").stdout == f"hcnr {hcnr.__version__}\n"
    listed = run("--help").stdout
    for command in COMMANDS:
        assert command.split()[0] in listed
        shown = run(*command.split(), "--help").stdout
        assert "Examples" in shown
        assert f"hcnr {command}" in shown


def test_the_commands_of_measuring_honesty_run_and_refuse(pair, tmp_path):
    rows = [
        {"question": "q1", "answerable": False, "response": "I do not know."},
        {"question": "q2", "answerable": True, "response": "Paris", "answers": ["Paris"]},
    ]
    said = tmp_path / "said.jsonl"
    said.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "delta" in run("evaluate", "--responses", said, "--out", tmp_path / "eval").stdout
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["macro"]["f1"] == 100
    out = tmp_path / "out"
    restore(pair, "--out", out)
    assert f"written: {out}" in run("report", out, "--no-svg").stdout
    assert "<html" in (out / "report.html").read_text()
    missing = tmp_path / "none"
    for arguments, sentence in (
        (["evaluate", "--responses", said, "--detector", "keywords"], "did you mean"),
        (["evaluate", missing, "--benchmarks", said], "none"),
        (["probe", pair["base"], pair["tuned"], "--honesty", missing], "does not exist"),
        (["sweep", pair["base"], pair["tuned"]], "needs both data sets"),
        (["report", missing], "hcnr_report.json"),
        (["data", "build", "--data-root", missing, "--out", tmp_path / "data"], "none"),
    ):
        last = run(*arguments, code=2).stderr.splitlines()[-1]
        assert last.startswith("hcnr: ")
        assert sentence in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval", "out", "said.jsonl"]


def test_the_starter_set_measures_probes_and_asks(pair, tmp_path):
    models, starter = [pair["base"], pair["tuned"]], ["--honesty", "starter"]
    data = [*starter, "--task", pair["task"], *SMALL]
    out = tmp_path / "out"
    shown = run("restore", *models, *data, "--out", out).stdout
    assert "8 of 512 samples of starter, read as prompt and response" in shown
    assert json.loads((out / "hcnr_report.json").read_text())["data"]["honesty"]["available"] == 512
    shown = run("measure", *models, *data, "--out", tmp_path / "s.safetensors").stdout
    assert "honesty: 8 of 512 samples of starter, read as prompt and response" in shown
    job = tmp_path / "job.csv"
    job.write_text("prompt,completion\nw1 w2,w3\n")
    asked = ["--max-new-tokens", 2, "--limit", 4, "--tasks", job, "--resamples", 0]
    shown = run("evaluate", out, "--benchmarks", "starter", *asked, "--out", tmp_path / "e").stdout
    assert "job: read as TRL (prompt and completion)." in shown
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert (metrics["sets"]["starter"]["n"], metrics["data"]["starter"]["questions"]) == (4, 4)
    last = run("restore", *models, "--honesty", pair["honesty"], "--task", "starter", *SMALL,
               "--out", tmp_path / "no", code=2).stderr.splitlines()[-1]  # fmt: skip
    assert "the starter set holds honesty samples, none of a task" in last


def test_samples_of_own_questions(pair, tmp_path):
    questions = tmp_path / "q.csv"
    questions.write_text("question,answerable\nw1 w2,no\nw3 w4,no\n")
    out = tmp_path / "h.jsonl"
    made = ["--model", pair["base"], "--questions", questions, "--out", out]
    # A random model never ends: nothing is finished, and nothing is written.
    last = run("data", "make", *made, "--max-new-tokens", 2, code=2).stderr.splitlines()[-1]
    assert "none of the 2 questions makes a sample" in last
    assert "2 not finished within the new tokens" in last
    assert not out.exists()


def test_an_interruption_is_told_without_promising_too_much(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hcnr.info.operators", interrupted)
    shown = run("info", code=130).stderr
    assert shown.startswith("hcnr: interrupted; finished answers and candidates are kept")


def test_an_interruption_names_what_is_kept(pair, tmp_path, monkeypatch):
    """And what it names is there, and is what the same command goes on from."""
    out = tmp_path / "out"
    kept = tmp_path / "out.unfinished"
    monkeypatch.setattr("hcnr.checkpoint.kept_work._RATE", 1e18)
    with monkeypatch.context() as patch:

        def interrupted(*_):
            raise KeyboardInterrupt

        patch.setattr("hcnr.pipeline.run.PairRun._write", interrupted)
        last = restore(pair, "--out", out, code=130).stderr.splitlines()[-1]
    assert last == (
        f"hcnr: interrupted; finished passes are kept in {kept}: the same command goes on from "
        "there (--fresh begins anew), nothing is half-written"
    )
    assert kept.is_dir() and [path.name for path in tmp_path.iterdir()] == ["out.unfinished"]
    assert "taken over from out.unfinished" in restore(pair, "--out", out).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_every_configuration_key_is_an_option():
    shown = run("restore", "--help").stdout
    for name in RestoreConfig.model_fields:
        assert "--" + name.replace("_", "-") in shown


def test_restore_from_options_from_yaml_and_from_statistics(pair, tmp_path):
    out, again = tmp_path / "out", tmp_path / "again"
    shown = restore(pair, "--out", out, "--axis", "input", "--damping", "0.05")
    assert "Restored matrices" in shown.stdout
    assert f"written: {out}" in shown.stdout
    written = yaml.safe_load((out / "hcnr_config.yaml").read_text())
    assert (written["axis"], written["damping"], written["samples"]) == ("input", 0.05, 8)
    restore(pair, "--out", again, "--config", out / "hcnr_config.yaml")
    assert [p.read_bytes() for p in sorted(again.glob("*.safetensors"))] == [
        p.read_bytes() for p in sorted(out.glob("*.safetensors"))
    ]
    # Options win over the file, and statistics replace data and measuring.
    stats = tmp_path / "stats.safetensors"
    data = ["--honesty", pair["honesty"], "--task", pair["task"]]
    settings = [*SMALL, "--axis", "input", "--damping", "0.05"]
    shown = run("measure", pair["base"], pair["tuned"], *data, *settings, "--out", stats)
    assert "scores of 14 matrices, 6 curvatures" in shown.stdout
    run("measure", pair["base"], pair["tuned"], *data, *settings, "--out", stats, code=2)
    arguments = ["--statistics", stats, *settings, "--out", again]
    assert "--overwrite" in run("restore", pair["base"], pair["tuned"], *arguments, code=2).stderr
    run("restore", pair["base"], pair["tuned"], *arguments, "--overwrite")
    assert [p.read_bytes() for p in sorted(again.glob("*.safetensors"))] == [
        p.read_bytes() for p in sorted(out.glob("*.safetensors"))
    ]


def test_home_is_expanded_parents_are_made_and_a_tokenizer_is_named(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, path in pair.items():
        (tmp_path / path.name).symlink_to(path)
        pair = {**pair, name: f"~/{path.name}"}
    bare = shutil.copytree(tmp_path / "tuned", tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    words = ["--tokenizer", "~/base"]
    shown = restore({**pair, "tuned": "~/bare"}, "--out", "~/some/where/out", *words)
    assert (tmp_path / "some" / "where" / "out" / "config.json").is_file()
    assert "written: " in shown.stdout
    assert "base's was taken" not in shown.stdout
    data = ["--honesty", pair["honesty"], "--task", pair["task"]]
    out = "~/else/where/s.safetensors"
    run("measure", pair["base"], "~/bare", *data, *SMALL, "--out", out, *words)
    assert (tmp_path / "else" / "where" / "s.safetensors").is_file()
    run("restore", pair["base"], "~/bare", "--statistics", out, *SMALL, "--out", "~/other/out")
    assert not (tmp_path / "bare" / "~").exists()


def test_measuring_never_replaces_an_input(pair):
    data = ["--honesty", pair["honesty"], "--task", pair["task"]]
    for out in (pair["honesty"], next(pair["tuned"].glob("*.safetensors")), pair["base"] / "s"):
        before = out.read_bytes() if out.exists() else None
        run("measure", pair["base"], pair["tuned"], *data, "--out", out, "--overwrite", code=2)
        assert (out.read_bytes() if out.exists() else None) == before


def test_an_infinite_perturbation_is_printed(tmp_path):
    pair = write_pair(tmp_path)
    for path in pair["base"].glob("*.safetensors"):
        weights = {
            name: torch.zeros_like(value) if "o_proj" in name else value
            for name, value in load_file(path).items()
        }
        save_file(weights, path, metadata={"format": "pt"})
    assert "inf" in restore(pair, "--out", tmp_path / "out").stdout


def test_plan_shows_matrices_and_stages_and_reads_no_data(pair):
    shown = run(
        "plan", pair["base"], pair["tuned"], "--preset", "paper", "--compensation", "balanced"
    ).stdout
    assert "14 target matrices, 6 will be restored" in shown
    for word in (
        "q_proj",
        "24 x 40",
        "score honesty",
        "losses of restored",
        "curvature of task",
        "flop",
    ):
        assert word in shown


def test_info_lists_operators_versions_and_devices():
    shown = run("info").stdout
    for word in (
        "fisher_output_",
        "compensation",
        "cpu",
        "triton",
        "transformers",
        hcnr.__version__,
    ):
        assert word in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--damping", "0"], "damping"),
        (["--in-weight-ratio", "1.5"], "in_weight_ratio"),
        (["--axis", "rows"], "axis"),
        (["--targets", "query"], "candidates are"),
        (["--device", "cuda:99x"], "device"),
    ],
)
def test_bad_settings_are_one_sentence_and_exit_2(pair, tmp_path, arguments, sentence):
    out = tmp_path / "out"
    shown = restore(pair, "--out", out, *arguments, code=2)
    *stages, last = shown.stderr.strip().splitlines()
    assert last.startswith("hcnr: ")
    assert sentence in last
    assert all(line.endswith(" ...") for line in stages if line)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_names_the_nearest(pair, tmp_path):
    bad = tmp_path / "c.yaml"
    bad.write_text("in_wieght_ratio: 0.3\n")
    shown = restore(pair, "--out", tmp_path / "out", "--config", bad, code=2)
    assert "'in_weight_ratio'" in shown.stderr


# SIGTERM: tests/checkpoint/test_output.py.
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_a_killed_run_leaves_no_output_and_the_next_one_succeeds(pair, tmp_path, name):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "hcnr", "restore", pair["base"], pair["tuned"], "--honesty",
               pair["honesty"], "--task", pair["task"], "--out", out, *SMALL]  # fmt: skip
    code = 0
    while code == 0:
        shutil.rmtree(out, ignore_errors=True)  # of a run that was done before the signal came
        process = subprocess.Popen(
            [*map(str, command)],
            stderr=subprocess.DEVNULL,
            # Background jobs of some shells start with Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while not any(tmp_path.iterdir()) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(getattr(signal, name))
        code = process.wait()
    assert not out.exists()
    if name != "SIGKILL":
        assert list(tmp_path.iterdir()) == []
    restore(pair, "--out", out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert json.loads((out / "hcnr_report.json").read_text())["summary"]["selected_matrices"] == 6


HEAVY = ("torch", "transformers", "triton", "sklearn", "jinja2", "scipy", "pyarrow")
LEAN = """
import sys
sys.argv = ["hcnr", *{arguments}]
import hcnr.cli
try:
    hcnr.cli.main()
except SystemExit as ended:
    print(ended.code, *[m for m in {heavy} if m in sys.modules])
"""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["restore", "nowhere", "nowhere", "--out", "o"], "checkpoint 'nowhere' does not exist"),
        (["restore", ".", ".", "--honesty", "h.jsonl", "--out", "o"], "h.jsonl does not exist"),
        (["restore", ".", ".", "--damping", "-1", "--out", "o"], "damping is '-1', expected"),
        (["restore", "--no-such-option"], "No such option: --no-such-option"),
        (["measure", ".", ".", "--honesty", "starter", "--task", "t.txt", "--out", "s"], "t.txt"),
        (["plan", ".", "nowhere"], "checkpoint 'nowhere' does not exist"),
        (["probe", ".", ".", "--honesty", "h.jsonl"], "h.jsonl does not exist"),
        (["sweep", ".", ".", "--validation", "v.jsonl"], "v.jsonl does not exist"),
        (["evaluate", ".", "--benchmarks", "kuqq"], "did you mean kuq?"),
        (["evaluate", ".", "--benchmarks", "starter", "--detector", "x"], "detector 'x' is unknow"),
        (["data", "make", "--model", ".", "--questions", "q.csv", "--out", "h.jsonl"], "q.csv"),
    ],
)
def test_what_names_nothing_is_told_before_torch_is_imported(arguments, told):
    result = subprocess.run(
        [sys.executable, "-c", LEAN.format(heavy=HEAVY, arguments=arguments)],
        capture_output=True, text=True, check=True, env={**os.environ, **TERMINAL},
    )  # fmt: skip
    assert told in result.stderr
    # What costs the time; a clock would measure whatever else runs.
    code, *loaded = result.stdout.split()
    assert (code, loaded) == ("2", [])


def test_quiet_says_nothing_and_json_is_one_document(pair, tmp_path):
    arguments = ["plan", pair["base"], pair["tuned"]]
    assert run(*arguments, "--quiet").stdout == ""
    found = json.loads(run(*arguments, "--json").stdout)
    assert (found["matrices"], found["stages"][0]["name"]) == (14, run_stage(arguments))
    out = tmp_path / "out"
    shown = restore(pair, "--out", out, "--quiet")
    assert (shown.stdout, shown.stderr) == ("", "")
    report = json.loads(restore(pair, "--out", out, "--overwrite", "--json").stdout)
    assert report["written"] == str(out)
    assert report["summary"] == json.loads((out / "hcnr_report.json").read_text())["summary"]
    last = run("plan", pair["base"], tmp_path / "none", "--quiet", "--json", code=2)
    assert last.stdout == "" and "does not exist" in last.stderr
    # What was asked of one command is not asked of the next.
    assert "target matrices" in run(*arguments).stdout


def test_a_log_level_lets_hcnr_and_the_libraries_speak(pair, tmp_path):
    arguments = ["plan", pair["base"], pair["tuned"]]
    assert "INFO" not in run(*arguments, "--log-level", "warning").stderr
    shown = restore(pair, "--out", tmp_path / "out", "--log-level", "info", "--json")
    assert re.search(r" INFO hcnr: read the data: \d+\.\d\d s$", shown.stderr, re.MULTILINE)
    assert json.loads(shown.stdout)["written"] == str(tmp_path / "out")
    # What was asked of one command is not asked of the next.
    assert "INFO" not in run(*arguments).stderr
    last = run(*arguments, "--log-level", "loud", code=2).stderr
    assert "log_level is 'loud', expected one of debug, info, warning, error" in last
    assert "leave one out" in run(*arguments, "--log-level", "info", "-q", code=2).stderr


def test_every_command_can_be_quiet_and_print_json():
    for command in COMMANDS:
        shown = run(*command.split(), "--help").stdout
        assert all(option in shown for option in ("--quiet", "--json", "--log-level")), command


def run_stage(arguments):
    """The first stage that the table of a plan names."""
    from hcnr.plan import plan_run

    return plan_run(*arguments[1:]).stages[0].name


def test_help_lists_the_settings_that_a_command_uses(pair):
    for command, used, unused in (
        ("probe", ("--samples", "--device", "--targets"), ("--damping", "--axis", "--steps")),
        ("measure", ("--axis", "--all-hessians"), ("--task-weight", "--step-size")),
        ("plan", ("--memory-budget", "--axis", "--block-size"), ("--max-length", "--damping")),
    ):
        shown = run(command, "--help").stdout
        assert all(option in shown for option in used), command
        assert not any(option in shown for option in unused), command
    # In the line of another command they are taken, and a note says what they do.
    shown = run("plan", pair["base"], pair["tuned"], "--damping", "0.1")
    assert "note: --damping makes no difference here" in shown.stderr
    run("plan", pair["base"], pair["tuned"], "--damping", "-1", code=2)


def test_a_shell_can_complete():
    env = {**os.environ, **TERMINAL, "_HCNR_COMPLETE": "complete_bash"}
    words = {"COMP_WORDS": "hcnr restore --axis ", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['hcnr']; import hcnr.cli; hcnr.cli.main()"],
        capture_output=True, text=True, env={**env, **words},
    )  # fmt: skip
    assert done.stdout.split() == ["output", "input"]
