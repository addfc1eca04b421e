"""README.md and docs/: links, commands, examples, and the figures of the trial."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from transformers import AutoModelForCausalLM

import hcnr
from hcnr.cli import app
from pages import DOCS, PAGES, ROOT, anchors, blocks, commands, links, run_blocks, title
from pairs import HONESTY, write_jsonl

README = (ROOT / "README.md").read_text()
CLI = typer.main.get_command(app)
MAKEFILE = (ROOT / "Makefile").read_text()


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_links_lead_somewhere(page: Path):
    for link in links(page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{title(page)} links to {link}"
        assert target.is_relative_to(ROOT), f"{title(page)} links to {link}"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{title(page)} links to {link}"


def options(words: list[str]) -> tuple[str, set[str]]:
    """The command that these words after `hcnr` call, and the options that it has."""
    command, name = CLI, "hcnr"
    for word in words:
        found = getattr(command, "commands", {}).get(word)
        if found is None:
            break
        command, name = found, f"{name} {word}"
    known = {"--help"} if name != "hcnr" else {"--help", "--install-completion", "--version"}
    for parameter in command.params:
        known |= {*parameter.opts, *parameter.secondary_opts}
    return name, known


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_what_a_page_says_to_type_exists(page: Path):
    for line in commands(page.read_text()):
        try:
            words = shlex.split(re.sub(r"[\[\]…]|\.\.\.|<\(.*?\)", " ", line))
        except ValueError:  # a sentence, not a command
            continue
        if words[:1] == ["make"]:
            for target in words[1:2]:
                assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), line
        if words[:1] != ["hcnr"] or len(words) < 2:
            continue
        name, known = options(words[1:])
        assert name != "hcnr" or words[1].startswith("-"), f"{title(page)}: {line}"
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, f"{title(page)}: {name} has no {word}"


def test_the_stations_of_the_way_are_there():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    way = page.partition("## One way through it")[2].partition("\n## ")[0]
    stations = re.findall(r"`([\w/]+\.py):(\w+)`", way)
    assert len(stations) >= 20
    for file, name in stations:
        body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in defined, f"{file} has no {name}"


def test_commands_are_seen():
    """The test above would pass too if it found none."""
    assert sum(line.startswith("hcnr ") for line in commands(README)) >= 5
    assert "--task-weight" in options(["restore"])[1]
    assert "--nonsense" not in options(["data", "make"])[1]
    assert options(["data", "make"])[0] == "hcnr data make"


@pytest.mark.parametrize("page", DOCS, ids=title)
def test_public_names_are_public(page: Path):
    """Modules may move, so pages name what the package exports; the rest are no Python names."""
    named = set(re.findall(r"`hcnr\.([A-Za-z_]\w*)[`(]", page.read_text()))
    assert named - {*hcnr.__all__, "yaml", "detectors", "readers", "repairs"} == set()


@pytest.fixture
def place(learned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to work in, with a pair and data under the names that the pages use."""
    for role in ("base", "tuned"):
        (tmp_path / role).symlink_to(learned[role], target_is_directory=True)
    write_jsonl(tmp_path / "honesty.jsonl", [HONESTY[i % 9] for i in range(192)])
    write_jsonl(tmp_path / "task.jsonl", many(learned["task"], 192))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def many(path: Path, count: int) -> list[dict]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [records[i % len(records)] for i in range(count)]


def test_the_tutorial_runs(place: Path, learned):
    write_jsonl(place / "all-task.jsonl", many(learned["task"], 400))
    (place / "task.jsonl").unlink()
    names = run_blocks((ROOT / "docs" / "tutorial.md").read_text(), {})
    assert isinstance(names["restored"], torch.nn.Module)
    kept = [json.loads(line) for line in (place / "task.jsonl").read_text().splitlines()]
    asked = [json.loads(line) for line in (place / "task-test.jsonl").read_text().splitlines()]
    assert (len(kept), len(asked)) == (192, 200)
    assert asked[0].keys() == {"question", "answers"}


def test_the_tour_runs(place: Path):
    models = {
        role: AutoModelForCausalLM.from_pretrained(place / role) for role in ("base", "tuned")
    }
    ids = torch.arange(12).reshape(2, 6) + 3
    names = {
        "base_model": models["base"],
        "tuned_model": models["tuned"],
        "honesty": HONESTY,
        "task": many(place / "task.jsonl", 24),
        "model": models["tuned"],
        "loader": [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}],
        "per_sample_losses": lambda output, batch: output.logits.logsumexp(-1).mean(1),
    }
    names = run_blocks((ROOT / "docs" / "tour.md").read_text(), names)
    assert names["selection"].masks["model.layers.0.self_attn.q_proj"].dtype == torch.bool
    assert names["fisher"].scores["model.layers.0.mlp.down_proj"].shape == (
        models["tuned"].config.intermediate_size,
    )


def test_every_page_with_python_is_run():
    """operators.md is run by test_operators_page; checkpoints.md shows one line of PEFT's."""
    shown = {page.name for page in DOCS if blocks(page.read_text())}
    assert shown == {"tutorial.md", "tour.md", "operators.md", "checkpoints.md"}
    assert blocks(README) == []
    assert len(blocks((ROOT / "docs" / "checkpoints.md").read_text())) == 1


RESULTS = ROOT / "experiments" / "trial" / "results" / "smollm2-hotpotqa"
TRIAL = json.loads((RESULTS / "trial.json").read_text())
SEED = json.loads((RESULTS / "seed-0.json").read_text())


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = re.split(r"^#+ ", text.partition(f"# {heading}\n")[2], flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines[2:]]


def chosen(way: str, level: str = "95") -> dict:
    return next(row for row in TRIAL["tables"][level]["ways"] if row["name"] == way)


def with_width(figure: dict, sign: str = "") -> str:
    return f"{figure['mean']:{sign}.1f} ±{figure['half_width']:.1f}"


@pytest.mark.parametrize(
    ("page", "heading"),
    [("README.md", "What it does to a pretrained model"), ("docs/choosing.md", "The evidence")],
)
def test_the_table_is_the_trials(page: str, heading: str):
    ends = {end["name"]: end for end in TRIAL["ends"]}
    found = {
        "base": ends["base"],
        "tuned": ends["tuned"],
        "interpolation": chosen("interpolation"),
        "`sum`, the paper's (2 of 3 seeds)": chosen("sum"),
        "`spectral`, blocks of 128": chosen("spectral, blocks of 128"),
        "`spectral` (the default)": chosen("spectral"),
    }
    table = rows((ROOT / page).read_text(), heading)[: len(found)]
    assert [row[0].replace("`spectral`** (the", "`spectral` (the") for row in table] == list(found)
    for (name, one), row in zip(found.items(), table, strict=True):
        assert row[1] == with_width(one["refusal_delta"], "+"), name
        lead = one["leads"].get("interpolation")
        assert row[2] == (with_width(lead["refusal_delta"], "+") if lead else ""), name
        kept = with_width(one["retention"]).removesuffix(" ±0.0")
        figures = [with_width(one["refusal_answerable"]), kept, with_width(one["accuracy"])]
        assert row[3:] == figures, name
        assert one["seeds"] == (2 if "2 of 3" in name else 3)


def test_the_five_rows_are_the_trials():
    trial = [
        chosen("spectral"),
        chosen("spectral, blocks of 128"),
        chosen("spectral", "90"),
        chosen("interpolation"),
        chosen("sum", "90"),
    ]
    long = rows((ROOT / "docs" / "choosing.md").read_text(), "Choose a way")
    short = rows(README, "Choose a way")
    assert len(long) == len(short) == len(trial)
    for one, row, brief in zip(trial, long, short, strict=True):
        said = f"{one['refusal_delta']['mean']:+.1f} at {one['retention']['mean']:.1f} % kept"
        assert said in row[2] and said in brief[2], row
        assert f"{one['refusal_answerable']['mean']:.1f} %" in row[2]
        seconds = one["seconds"]["mean"]
        assert row[3] == (f"{seconds:.0f} s" if seconds > 1 else f"{seconds:.1f} s")


def test_the_weights_are_the_trials():
    text = (ROOT / "docs" / "choosing.md").read_text()
    table = text.partition("| `--task-weight` | delta |")[2].split("\n\n")[0].splitlines()[2:]
    found = []
    for candidate in SEED["ways"]["spectral"]["candidates"]:
        settings, shown = candidate["settings"], candidate["validation"]
        if settings["cross_weight_ratio"] == 1.0:
            numbers = (shown["retention"], shown["refusal_answerable"])
            figures = " | ".join(f"{number:.1f}" for number in numbers)
            found.append(
                f"| {settings['task_weight']:g} | {shown['refusal_delta']:+.1f} | {figures} |"
            )
    assert table == found


def test_the_other_task_is_the_trials():
    results = RESULTS.with_name("smollm2-medmcqa")
    told = json.loads((results / "trial.json").read_text())
    text = (ROOT / "docs" / "choosing.md").read_text()
    table = text.partition("| seed | base | tuned |")[2].split("\n\n")[0].splitlines()[2:]
    found, leads = [], []
    for seed in told["by_seed"]:
        if seed["level"] != 95:
            continue
        row = {one["name"]: one for one in seed["rows"]}
        best, rival = row["spectral"], row["interpolation"]
        lead = "none keeps as much"
        if "lead" in best:
            low, high = best["lead_ci95"]
            leads.append(f"{best['lead']:+.1f}")
            lead = f"{leads[-1]} ({low:+.1f} to {high:+.1f})"
        else:
            told_at_95 = f"({best['delta']:+.1f} against {rival['delta']:+.1f} at 95 % kept)"
            assert told_at_95 in README
        cells = [
            str(seed["seed"]),
            *(f"{row[end]['delta']:+.1f}" for end in ("base", "tuned")),
            f"{rival['delta']:+.1f}",
            f"{rival['kept']:.1f}",
            f"**{best['delta']:+.1f}**",
            f"{best['kept']:.1f}",
            lead,
        ]
        found.append(f"| {' | '.join(cells)} |")
    assert table == found
    said = f"it leads by {', '.join(leads[:-1])} and {leads[-1]}, each with an interval"
    assert said in " ".join(README.split())
    ways = {one["name"]: one for one in told["tables"]["95"]["ways"] + told["ends"]}
    lead = ways["spectral"]["leads"]["interpolation"]["refusal_delta"]
    assert f"({with_width(lead, '+')})" in text
    means = [with_width(ways[name]["refusal_delta"], "+") for name in
             ("spectral", "interpolation", "base", "tuned")]  # fmt: skip
    assert re.findall(r"[+-][\d.]+ ±\d+\.\d", text.partition("In the mean ")[2])[:4] == means


def test_the_fourth_task_is_the_trials():
    told = json.loads((RESULTS.with_name("smollm2-bioasq") / "trial.json").read_text())
    row, less = (
        {one["name"]: one for seed in told["by_seed"] if seed["level"] == level
         for one in seed["rows"]} for level in (95, 90)
    )  # fmt: skip
    best, rival = row["spectral"], row["interpolation"]
    assert "lead" not in best or best["lead"] is None
    low, high = best["ci95"]
    text = " ".join(
        (ROOT / "docs" / "choosing.md").read_text().partition("**A fourth task")[2].split()
    )
    results = " ".join((RESULTS.parent / "README.md").read_text().split())
    assert f"**{best['delta']:+.1f}** ({low:+.1f} to {high:+.1f}) at {best['kept']:.1f} %" in text
    assert f"{less['interpolation']['delta']:+.1f} at {less['interpolation']['kept']:.1f} %" in text
    assert f"{best['refusal_answerable']:.1f} % of the answerable" in text
    for said in (text, results):
        assert f"{rival['delta']:+.1f} at {rival['kept']:.1f} %" in said
        for name in ("base", "tuned"):
            assert f"{name} {row[name]['delta']:+.1f}" in said
        for name in ("spectral", "tuned"):
            assert f"{row[name]['accuracy']:.1f}" in said
    readme = " ".join(README.split())
    assert f"{best['delta']:+.1f} where interpolation has {rival['delta']:+.1f}" in readme
    lost = row["base"]["delta"] - row["tuned"]["delta"]
    assert 0.28 < (best["delta"] - row["tuned"]["delta"]) / lost < 0.38  # "a third"


def test_results_name_how_much_a_model_was_tuned_on():
    results = " ".join((RESULTS.parent / "README.md").read_text().split())
    said = {
        "hotpotqa": "({} HotpotQA answers {},",
        "medmcqa": "{} MedMCQA answers {})",
        "nq": "tuned on {} answers {}, as HotpotQA)",
        "bioasq": "`--task bioasq --seeds 1 --ways interpolation,spectral`; {} answers {})",
    }
    for task, words in said.items():
        told = json.loads((RESULTS.with_name(f"smollm2-{task}") / "trial.json").read_text())
        recipe = told["results"][0]["facts"]["arena"]["recipe"]
        times = {1: "once", 2: "twice"}[recipe["tuned_epochs"]]
        assert words.format(f"{recipe['task_questions']:,}", times) in results, task


def test_the_third_task_is_the_trials():
    told = json.loads((RESULTS.with_name("smollm2-nq") / "trial.json").read_text())
    (seed,) = [one for one in told["by_seed"] if one["level"] == 95]
    row = {one["name"]: one for one in seed["rows"]}
    best, rival = row["spectral"], row["interpolation"]
    low, high = best["lead_ci95"]
    lead = f"{best['lead']:+.1f} ({low:+.1f} to {high:+.1f}"
    text = " ".join(
        (ROOT / "docs" / "choosing.md").read_text().partition("**A third task")[2].split()
    )
    results = " ".join((RESULTS.parent / "README.md").read_text().split())
    for said in (text, " ".join(README.split()), results):
        assert lead in said
    for name in ("base", "tuned"):
        assert f"{name} {row[name]['delta']:+.1f}" in text
    for said in (text, results):
        assert f"{rival['delta']:+.1f} at {rival['kept']:.1f} %" in said
        assert f"{best['delta']:+.1f}" in said and f"at {best['kept']:.1f} %" in said
    assert f"{best['refusal_answerable']:.1f} % of the answerable" in text
    back, rait, dpo, orpo, prompt = (
        row[name] for name in ("fine-tuning, both", "rait", "dpo", "orpo", "prompt")
    )
    seed_0 = told["results"][0]["ways"]
    seconds = {
        one["name"]: one["seconds"]["mean"]
        for one in told["tables"]["95"]["ways"]
        if "seconds" in one
    }
    names = {
        "spectral": "spectral", "fine-tuning back": "fine-tuning, both", "RAIT": "rait",
        "interpolation": "interpolation", "DPO": "dpo", "a prompt": "prompt", "ORPO": "orpo",
    }  # fmt: skip
    page = (ROOT / "docs" / "choosing.md").read_text()
    table = page.partition("| way | learns from |")[2].split("\n\n")[0].splitlines()[2:]
    lines = [[cell.strip(" *`") for cell in line.strip("|").split("|")] for line in table]
    assert [cells[0] for cells in lines] == list(names)
    by_label = {cells[0]: cells[2:] for cells in lines}
    for label, name in names.items():
        one = row[name]
        cells = [
            bracketed(one["delta"], one["ci95"]),
            bracketed(one["lead"], one["lead_ci95"]) if "lead" in one else "",
            *(f"{one[figure]:.1f}" for figure in ("kept", "refusal_answerable", "accuracy")),
            f"{seconds[name]:.0f}",
        ]
        assert by_label[label] == cells, label
    assert f"{prompt['delta']:+.1f} at {prompt['kept']:.1f} % kept" in results
    kept = f"at {back['kept']:.1f} % kept"
    assert f"{back['delta']:+.1f} {kept}, {bracketed(back['lead'], back['lead_ci95'])}" in results
    assert f"{best['delta'] - back['delta']:.1f} below `spectral`" in results
    lead = bracketed(rait["lead"], rait["lead_ci95"])
    assert (
        f"{rait['delta']:+.1f} at {rait['kept']:.1f} % kept, as interpolation ({lead})" in results
    )
    for one in (dpo, orpo):
        assert f"{one['delta']:+.1f} at {one['kept']:.1f} %" in results
    assert f"{-dpo['lead']:.1f} and {-orpo['lead']:.1f} below it" in results
    too_much = {name: seed_0[name]["candidates"][1]["validation"] for name in ("rait", "orpo")}
    refused = seed_0["fine-tuning, both"]["candidates"][1]["validation"]
    assert f"RAIT at 3e-5 kept {too_much['rait']['retention']:.0f} % of the task" in text
    assert f"fine-tuning back {refused['retention']:.0f} %" in text
    assert f"ORPO {too_much['orpo']['retention']:.0f} %)" in text
    assert f"kept {refused['retention']:.0f} %" in results
    (lower,) = [one for one in told["by_seed"] if one["level"] == 90]
    again = {one["name"]: one for one in lower["rows"]}["rehearsal"]
    assert "rehearsal" not in row
    assert f"**{bracketed(again['delta'], again['ci95'], '**')} at {again['kept']:.1f} %" in text
    for said in (results, " ".join(README.split())):
        assert f"{again['delta']:+.1f}" in said


def bracketed(value: float, interval: list[float], after: str = "") -> str:
    return f"{value:+.1f}{after} ({interval[0]:+.1f} to {interval[1]:+.1f})"
