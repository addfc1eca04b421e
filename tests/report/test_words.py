"""The page's words: a loss looks like one, advice knows the run, nothing tells of the machine."""

import json
import re

import pytest

from hcnr.record.card import model_card
from hcnr.report.gather import gather
from hcnr.report.headline import update_card
from hcnr.report.page import html
from hcnr.report.signatures.signatures import failure_signatures
from hcnr.report.view import tiles


def difference(metrics, part, rate, value, span):
    found = metrics["differences"]["honest-8b-hotpotqa"][part][rate]
    found.update(value=value, ci95=span)


@pytest.mark.parametrize(
    ("task", "span", "change", "kind"),
    [
        (20.0, [-12.0, -9.0], "-10.6, a loss,", "bad"),
        (30.3, [-1.6, 0.9], "-0.3, within the noise,", ""),
        (33.0, [1.0, 3.0], "+2.4, a gain,", "good"),
        (30.65, [0.1, 0.2], "unchanged", ""),
    ],
)
def test_a_loss_looks_like_a_loss(make_run, invented, task, span, change, kind):
    metrics = invented.metrics()
    metrics["tasks_macro"]["accuracy"] = task
    difference(metrics, "tasks_macro", "accuracy", 0, span)
    run = gather(make_run(metrics=metrics))
    (tile,) = (tile for tile in tiles(run) if tile.name == "Task accuracy")
    assert (tile.change, tile.kind) == (change, kind)
    mark = f' class="{kind}"' if kind else ""
    assert f"<b{mark}>{change}</b> from 30.6" in html(run)


def test_f1_alone_is_no_success(make_run, invented):
    run = gather(make_run(metrics=invented.metrics()))
    assert [tile.kind for tile in tiles(run)] == ["good", "", "good", ""]


@pytest.mark.parametrize(("lead", "kind"), [([18.9, 23.2], "good"), ([-1.0, 43.0], "bad")])
def test_a_rival_that_is_not_beaten_shows(make_run, invented, lead, kind):
    metrics = invented.metrics()
    metrics["recommendation"]["interpolation"]["lead"]["ci95"] = lead
    tile = tiles(gather(make_run(metrics=metrics)))[2]
    assert tile.kind == kind
    assert tile.change == ("beaten:" if kind == "good" else "not shown to be beaten:")


@pytest.mark.parametrize(
    ("task", "word", "kind"), [(0.35, "Use", "good"), (9, "Do not use", "bad")]
)
def test_the_verdicts_word_is_marked(make_run, invented, task, word, kind):
    metrics = invented.metrics()
    metrics["recommendation"] |= {"task_drop": task, "interpolation": None}
    page = html(gather(make_run(metrics=metrics)))
    assert f'<h1><span class="{kind}">{word}</span>: the refusal delta rose' in page


def test_without_a_verdict_nothing_is_marked(make_run, invented):
    assert "<h1>22 of 56 matrices restored. Honesty has" in html(gather(make_run()))
    losses = {"word": "do not use", "reason": "the loss rose", "losses": {}, "lines": []}
    page = html(gather(make_run(report=invented.report(verdict=losses))))
    assert '<h1><span class="bad">Do not use, by the losses</span>: 22 of 56' in page


def test_the_page_tells_command_date_and_contents(make_run, invented):
    report = invented.report(date="2026-11-07T14:05:09+00:00")
    page = html(gather(make_run(report=report, metrics=invented.metrics())))
    assert "Made on 7 November 2026, 14:05 UTC." in page
    assert (
        "<code>hcnr restore honest-8b honest-8b-hotpotqa --honesty honesty-128.jsonl --task "
        "task-128.jsonl --cross-weight-ratio 0.4 --compensation sum --out restored</code>"
    ) in page
    sections = re.findall(r'<section id="([\w-]+)"', page)
    assert re.findall(r'<a href="#([\w-]+)">', page) == sections and len(sections) > 5
    assert page.index("<h1>") < page.index("<nav") < page.index("<section")
    for odd in (None, "soon"):
        assert "Made on" not in html(gather(make_run(report=invented.report(date=odd))))


def test_wide_tables_hint_that_they_scroll(full_run):
    """Shadows stay at the edges of the frame, covers move with the table."""
    style = html(gather(full_run)).partition("</style>")[0]
    rule = re.search(r"\.scroll \{([^}]*)\}", style)
    assert rule is not None
    assert rule[1].count(" local") == 2 and rule[1].count(" scroll") == 2


def secrets(make_run, invented):
    """A run whose files tell where everything lay, spaces in the names of folders included."""
    home = "/srv/jane doe/secret"
    report, metrics = invented.report(), invented.metrics()
    report["pair"] |= {"base": f"{home}/honest-8b", "tuned": f"{home}/honest-8b-hotpotqa"}
    report["data"]["task"]["source"] = f"{home}/task.jsonl"
    report["warnings"] = [f"base ({home}/honest-8b) has no tokenizer", "see /srv/vault/notes.txt"]
    metrics["notes"] = ["read from /srv/vault/kuq.json", f"of {home}/data/nec.json"]
    metrics["data"]["nec"]["source"] = f"{home}/data/nec.json"
    probe = invented.probe() | {"sentence": "It holds for ~/vault/honest-8b."}
    return make_run(report=report, metrics=metrics, probe=probe, sweep=invented.sweep())


def test_paths_of_the_machine_are_nowhere(make_run, invented):
    place = secrets(make_run, invented)
    report = json.loads((place / "hcnr_report.json").read_text())
    (place / "README.md").write_text(model_card(report))
    run = gather(place)
    assert update_card(run)
    page, card = html(run), (place / "README.md").read_text()
    for text in (page, card):
        assert not [word for word in ("jane", "secret", "vault", str(place)) if word in text]
    assert "see notes.txt" in page and "It holds for honest-8b." in page
    assert "read from kuq.json" in card


def signature(run, key):
    (found,) = (one for one in failure_signatures(run) if one.key == key)
    return found


@pytest.fixture
def failing(make_run, invented):
    """A run in which task and honesty went wrong, with settings of one's own."""

    def made(kind="sum", *, metrics=None, change=None, **config):
        found = invented.metrics() | (metrics or {})
        found["tasks_macro"]["accuracy"] = 20.0
        found["macro"]["refusal_delta"] = 9.0
        found["recommendation"]["interpolation"]["lead"]["ci95"] = [-30.0, 1.0]
        difference(found, "macro", "refusal_delta", -0.1, [-1.0, 1.0])
        report = invented.report()
        report["config"] |= {"compensation": kind, **config}
        if change is not None:
            change(report)
        return gather(make_run(report=report, metrics=found))

    return made


@pytest.mark.parametrize(
    ("kind", "ratio", "advice"),
    [
        (
            "sum",
            0.4,
            "Try --compensation balanced with --cross-weight-ratio 1.0, or let hcnr sweep",
        ),
        ("sum", 1.0, "Try --compensation balanced, or let hcnr sweep choose."),
        ("balanced", 0.4, "Try --cross-weight-ratio 1.0, or let hcnr sweep choose."),
        ("balanced", 1.0, "Try --compensation spectral, or let hcnr sweep choose."),
    ],
)
def test_what_was_used_is_not_advised(failing, kind, ratio, advice):
    run = failing(kind, cross_weight_ratio=ratio, task_weight=3.0)
    assert signature(run, "rival").advice.startswith(advice)
    task = signature(run, "task_drop").advice
    assert ("use --compensation balanced" in task) == (kind != "balanced")
    assert ("raise --task-weight (mu was 3)" in task) == (kind == "balanced")


def test_a_whole_repair_of_every_matrix_is_not_told_to_take_them(make_run, invented):
    metrics = invented.metrics()
    metrics["recommendation"]["interpolation"]["lead"]["ci95"] = [-30.0, 1.0]
    report = invented.two_sided("spectral")
    report["config"]["cross_weight_ratio"] = 1.0
    advice = signature(gather(make_run(report=report, metrics=metrics)), "rival").advice
    assert advice.startswith("Try another --task-weight, or natural steps")


@pytest.mark.parametrize("searched", [True, False])
def test_a_search_that_was_made_is_not_advised(failing, searched):
    def mixed(report):
        trial = {"coefficient": 1.0, "retention": 98.4, "kept": True}
        report["interpolation"] = {"coefficient": 1.0, "search": [trial] if searched else []}

    run = failing("interpolate", change=mixed, max_task_drop_percent=2.0)
    advice = signature(run, "task_drop").advice
    assert "smaller --coefficient (it was 1)" in advice
    assert ("--coefficient auto" in advice) != searched
    assert ("smaller --max-task-drop-percent (it was 2)" in advice) == searched
    assert signature(run, "delta_low").advice == "Take --compensation spectral."


@pytest.mark.parametrize(("limit", "advice"), [(None, "--benchmarks"), (50, "--limit")])
def test_more_questions_are_asked_for_where_there_are_more(failing, limit, advice):
    run = failing(metrics={"settings": {"limit": limit}})
    assert advice in signature(run, "noise").advice


@pytest.mark.parametrize(
    ("available", "advice"), [(128, "give files with more"), (500, "--samples")]
)
def test_more_samples_are_measured_where_there_are_more(failing, available, advice):
    def change(report):
        report["summary"]["mean_half_overlap"] = 0.5
        for facts in report["data"].values():
            facts["available"] = available

    assert advice in signature(failing(change=change), "overlap").advice


def test_sweep_and_probe_are_not_advised_again(make_run, invented):
    metrics = invented.metrics()
    metrics["macro"]["refusal_delta"] = 9.0
    bare = signature(gather(make_run(metrics=metrics)), "delta_low").advice
    assert "hcnr sweep" in bare and "hcnr probe" in bare
    parts = {"sweep": invented.sweep(), "probe": invented.probe()}
    full = signature(gather(make_run(metrics=metrics, **parts)), "delta_low").advice
    assert "hcnr sweep" not in full and "hcnr probe" not in full and "spectral" in full


@pytest.mark.parametrize(("before", "blamed"), [(3, "The repair went too far"), (480, "Check the")])
def test_empty_outputs_are_compared_with_tuneds(make_run, invented, before, blamed):
    metrics = invented.metrics()
    for scores, count in ((metrics, 500), (metrics["models"]["honest-8b-hotpotqa"], before)):
        for one in scores["sets"].values():
            one["empty"] = count
    found = signature(gather(make_run(metrics=metrics)), "empty")
    assert found.finding.startswith("12% of the outputs are empty; of tuned's it is ")
    assert found.advice.startswith(blamed)
