import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file

import hcnr
from hcnr import cli
from hcnr.config import RestoreConfig
from pairs import write_pair

COMMANDS = (
    "restore", "measure", "plan", "info", "demo", "evaluate", "probe", "sweep", "report",
    "data build",
)  # fmt: skip
SMALL = ["--samples", "8", "--token-budget", "64", "--preset", "paper"]


TERMINAL = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def run(*arguments, code=0):
    """Run `main` in this process, which spares the import of torch."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TERMINAL.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["hcnr", *map(str, arguments)])
        patch.setattr(cli, "console", Console(width=200))
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            cli.main()
    shown = subprocess.CompletedProcess(
        [], int(ended.value.code or 0), out.getvalue(), err.getvalue()
    )
    assert shown.returncode == code, shown.stdout + shown.stderr
    return shown


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
    assert f"written: {out}" in run("report", out, "--no-png").stdout
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


def test_an_interruption_is_told_without_promising_too_much(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hcnr.info.operators", interrupted)
    shown = run("info", code=130).stderr
    assert shown.startswith("hcnr: interrupted; finished answers and candidates are kept")


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
    for word in ("q_proj", "24 x 40", "score both data sets", "curvature of task", "flop"):
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


LEAN = """
import time, torch
start = time.process_time()
import hcnr.cli, sys
print(time.process_time() - start, *[m for m in {heavy} if m in sys.modules])
"""


def test_importing_the_command_line_is_lean_and_quick_beyond_torch():
    heavy = ("transformers", "triton", "sklearn", "matplotlib", "scipy", "pyarrow")
    result = subprocess.run(
        [sys.executable, "-c", LEAN.format(heavy=heavy)], capture_output=True, text=True, check=True
    )
    seconds, *loaded = result.stdout.split()
    assert float(seconds) < 1
    assert loaded == []
    assert result.stderr == ""
