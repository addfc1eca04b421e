"""docs/paper-figures.md and the results beside it say what `figures.json` says."""

import json
import re

from experiments.curvature_forms import table as table_of_forms
from experiments.paper_figures.page import to_markdown
from pages import ROOT

RESULTS = ROOT / "experiments" / "trial" / "results" / "smollm2-figures"
FORMS = json.loads((RESULTS / "forms.json").read_text())
FOUND = json.loads((RESULTS / "figures.json").read_text())
TEXT = " ".join((ROOT / "docs" / "paper-figures.md").read_text().split())


def auroc(block: dict, name: str) -> str:
    found = block[name]
    return f"{found['auroc']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def test_the_results_are_written_by_the_command():
    assert (RESULTS / "figures.md").read_text() == to_markdown(FOUND)
    assert (RESULTS / "probe.svg").is_file()


def test_the_probes_are_those_of_the_file():
    probe = FOUND["probe"]
    blocks, best = probe["blocks"], probe["blocks"][probe["best_block"]]
    assert f"{auroc(best, 'transfer')} in block {best['block']}" in TEXT
    assert f"its own probes reach {auroc(best, 'tuned')} there" in TEXT
    last = blocks[-1]
    assert f"In the last block it is {auroc(last, 'transfer')}" in TEXT
    assert f"tuned's own {auroc(last, 'tuned')}" in TEXT
    low, high = re.findall(r"(0\.\d\d) to (0\.\d\d) from block 15 on", TEXT)[0]
    late = [one["transfer"]["auroc"] for one in blocks[15:]]
    assert (f"{min(late):.2f}", f"{max(late):.2f}") == (low, high)
    own = [one["tuned"]["auroc"] for one in blocks[3:]]
    assert f"between {min(own):.2f} and {max(own):.2f} from block 3 on" in TEXT
    assert f"{probe['data']['unanswerable']} unanswerable" in TEXT


def test_the_overlaps_are_those_of_the_file():
    text = (ROOT / "docs" / "paper-figures.md").read_text()
    table = text.partition("| ranked by | R_IW |")[2].split("\n\n")[0].splitlines()[2:]
    found = []
    for row in FOUND["overlap"]:
        (paper,) = [one for one in row["matrices"] if one["R_CW"] == 0.4]
        pairs = ((row["neurons"], row["neurons_chance"]), (paper["overlap"], paper["chance"]))
        figures = [f"{100 * value:.0f}" for pair in pairs for value in pair]
        name = "priority" if row["priority"] == "kl" else "honesty alone"
        found.append(f"| {name} | {row['R_IW']:g} | {' | '.join(figures)} |")
    assert table == found
    (half,) = [one for one in FOUND["overlap"] if (one["priority"], one["R_IW"]) == ("kl", 0.5)]
    agreed, chance = (f"{100 * half[name]:.0f} %" for name in ("neurons", "neurons_chance"))
    assert (
        f"halves agree on {agreed} of the neurons, where random choices agree on {chance}" in TEXT
    )
    count = FOUND["settings"]["samples"]
    assert f"{count} samples of each set were parted into two halves of {count // 2}" in TEXT


def test_what_the_trial_has_is_the_trials():
    seed = json.loads((RESULTS.with_name("smollm2-hotpotqa") / "seed-0.json").read_text())
    kept = [f"{one['validation']['retention']:.1f}" for one in seed["ways"]["sum"]["candidates"]]
    assert f"kept {kept[0]}, {kept[1]} and {kept[2]} % of the task" in TEXT


def delta(row: dict) -> str:
    return f"{row['delta']:+.1f} ({row['ci95'][0]:+.1f} to {row['ci95'][1]:+.1f})"


def table(head: str) -> list[str]:
    """The lines of the table that begins so, without its head."""
    text = (ROOT / "docs" / "paper-figures.md").read_text()
    return text.partition(head)[2].split("\n\n")[0].splitlines()[2:]


def test_the_sweep_is_that_of_the_file():
    assert table("| R_CW | kept | delta |") == [
        f"| {row['R_CW']:g} | {row['kept']:.1f} | {delta(row)} | {row['refusal_answerable']:.1f} |"
        for row in FOUND["sweep"]
        if row["R_IW"] == 0.5
    ]
    assert f"(tuned: {delta(FOUND['ends']['tuned'])})" in TEXT
    kept = {(row["R_IW"], row["R_CW"]): row for row in FOUND["sweep"]}
    neurons, matrices = (sorted({pair[axis] for pair in kept}) for axis in (0, 1))
    assert table("| R_IW | R_CW 0.2 |") == [
        f"| {share:g} | {' | '.join(both(kept[share, one]) for one in matrices)} |"
        for share in neurons
    ]


def both(row: dict) -> str:
    asked = "not asked" if row["delta"] is None else f"{row['delta']:+.1f}"
    return f"{row['kept']:.1f} / {asked}"


def test_the_ablation_is_that_of_the_file():
    def over(row: dict) -> str:
        if "over_random" not in row:
            return ""
        low, high = row["over_random_ci95"]
        return f"{row['over_random']:+.1f} ({low:+.1f} to {high:+.1f})"

    rows = table("| way, neurons | kept |")
    expected = {
        f"| {row['way'] if row['way'] == 'interpolation' else '`' + row['way'] + '`'}, "
        f"{row['neurons']} | {row['kept']:.1f} | {delta(row)} | {over(row)} | "
        f"{row['refusal_answerable']:.1f} |"
        for row in FOUND["ablation"]
        if row["delta"] is not None
    }
    assert set(rows) == expected and len(rows) == len(expected)
    unasked = {row["way"] for row in FOUND["ablation"] if row["delta"] is None}
    assert unasked == {"joint"} and "`joint`, which changes most, kept less than half" in TEXT
    keep = [row for row in FOUND["ablation"] if row["kept"] >= 95 and row["delta"] is not None]
    best, second = sorted(keep, key=lambda row: -row["delta"])[:2]
    assert (best["way"], best["neurons"]) == ("spectral", "whole matrices")
    assert f"{best['delta']:+.1f} at {best['kept']:.1f} % kept" in TEXT
    assert f"every other row that keeps 95 % has at most {second['delta']:+.1f}" in TEXT


def test_the_sizes_are_those_of_the_file():
    by = {(row["samples"], row["way"]): row for row in FOUND["size"]}
    assert table("| samples of each set |") == [
        f"| {count} | {cells(by[count, 'sum'])} | {cells(by[count, 'spectral'])} |"
        for count in sorted({count for count, _ in by})
    ]
    missing = [name for name in FOUND["not_run"] if name.startswith("size: ")]
    assert missing == FOUND["not_run"] and all("samples 256" in name for name in missing)
    assert "## Not run yet 256 samples of each set." in TEXT


def cells(row: dict) -> str:
    return f"{row['kept']:.1f} | {delta(row)}"


def test_the_forms_of_the_curvature_are_those_of_the_file():
    rows = FORMS["rows"]
    assert (
        table_of_forms(rows, FORMS["asked"]["sets"]).strip() in (RESULTS / "forms.md").read_text()
    )
    text = (ROOT / "docs" / "two-sided.md").read_text()
    assert text.partition("| form | samples |")[2].split("\n\n")[0].splitlines()[2:] == [
        f"| {row['form']} | {row['samples']} | {100 * row['held']:.3g} | "
        f"{100 * row['operations']:.3g} | {row['task_weight']:.3g} | {row['kept']:.1f} | "
        f"{delta(row)} | {row['refusal_answerable']:.1f} |"
        for row in rows
    ]
    by = {row["form"]: f"{row['delta']:+.1f}" for row in rows}
    words = " ".join(text.split())
    assert f"{by['diagonals']} by diagonals, {by['inputs alone']} by the inputs alone" in words
    assert f"{by['gradients alone']} by the gradients alone, where whole has {by['whole']}" in words
    assert f"almost as well** ({by['32 samples']})" in words
