"""The command line: what it runs, writes and refuses."""

import json
import sys

import pytest
import typer
from typer.testing import CliRunner

from hcnr.commands.evaluate import EPILOG, evaluate
from hcnr.errors import ConfigError, HcnrError

ROWS = [
    {"question": "q1", "answerable": False, "response": "I don't know"},
    {"question": "q2", "answerable": True, "response": "Paris", "answers": ["Paris"]},
]


def run(*arguments):
    app = typer.Typer(rich_markup_mode="rich")
    app.command(epilog=EPILOG)(evaluate)
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if isinstance(result.exception, HcnrError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_responses(tmp_path):
    path = write(tmp_path / "r.jsonl", ROWS)
    text = run("--responses", path, "--out", tmp_path / "eval", "--resamples", 20)
    assert "refuse all" in text
    assert f"written: {tmp_path}/eval/metrics.json" in text.replace("\n", "")
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["sets"]["responses"]["f1"] == 100
    assert metrics["intervals"]["resamples"] == 20


def test_a_model_on_jsonl_files(pair, tmp_path):
    mine = [{"question": f"w{i} w{i + 1}", "answerable": i % 2 == 0, "prompt": f"w{i} w9"}
            for i in range(6)]  # fmt: skip
    job = [{"question": f"w{i}", "answerable": True, "answers": ["w4"], "prompt": f"w{i}"}
           for i in range(4)]  # fmt: skip
    text = run(
        pair["tuned"], "--against", pair["base"], "--out", tmp_path, "--resamples", 0,
        "--benchmarks", write(tmp_path / "mine.jsonl", mine), "--device", "cpu",
        "--tasks", write(tmp_path / "job.jsonl", job), "--max-new-tokens", 3, "--limit", 5,
        "--detector", "regex:w1",
    )  # fmt: skip
    assert "difference" in text
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["sets"]["mine"]["n"] == 5
    assert metrics["tasks"]["job"]["n"] == 4
    assert (tmp_path / "answers-base.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected one of MODEL, --responses and --endpoint, found none"),
        (("model", "--responses", "r.jsonl"), "found several"),
        (("--responses", "r.jsonl", "--against", "a", "--against", "b"), "given 2 times"),
        *(
            (("--responses", "r.jsonl", *option), f"{option[0]} is for asking a model")
            for option in (
                ("--benchmarks", "nec"), ("--tasks", "nq"), ("--base", "b"), ("--tuned", "t"),
                ("--limit", 5), ("--data-root", "d"), ("--chat-template", "auto"),
                ("--batch-size", 32), ("--max-new-tokens", 64), ("--calibration",),
                ("--device", "cpu"), ("--dtype", "auto"), ("--max-accuracy-drop", 2.0),
                ("--endpoint-model", "m"),
            )
        ),
        (("model", "--endpoint", "http://localhost:1"), "found several"),
        (("model", "--endpoint-model", "m"), "no --endpoint is given"),
        *(
            (("--endpoint", "http://localhost:1", *option), f"{option[0]} is for models whose wei")
            for option in (
                ("--base", "b"), ("--tuned", "t"), ("--calibration",), ("--dtype", "auto"),
            )
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_together(arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(*arguments)


def test_counts_and_examples_of_made_samples_are_shown(pair, tmp_path, monkeypatch):
    from hcnr.commands.data import make_data
    from hcnr.evaluation.own_samples import make_samples

    module = sys.modules[make_samples.__module__]
    monkeypatch.setattr(module, "generate", lambda *_, **__: ["I do not know", "Rome", "Oslo"])
    rows = [
        {"question": "w1", "answerable": False},
        {"question": "w2", "answerable": True, "answers": ["Rome"]},
        {"question": "w3", "answerable": True, "answers": ["Rome"]},
    ]
    path, out = write(tmp_path / "q.jsonl", rows), tmp_path / "h.jsonl"
    app = typer.Typer()
    app.command()(make_data)
    arguments = ["--model", pair["base"], "--questions", path, "--out", out, "--device", "cpu"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    for line in (
        "3 questions, read as question and answers; refusals by unknownbench_keywords",
        "refused: 'w1' -> 'I do not know'",
        "answered rightly: 'w2' -> 'Rome'",
        "answered wrongly: 'w3' -> 'Oslo'",
        "note: 1 samples refused, expected at least 64",
    ):
        assert line in result.output
    assert [json.loads(line)["response"] for line in out.read_text().splitlines()] == [
        "I do not know",
        "Rome",
    ]
