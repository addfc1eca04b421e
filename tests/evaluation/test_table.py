import io

from rich.console import Console

from hcnr.evaluation.responses import score_responses
from hcnr.evaluation.table import print_evaluation

ROWS = [
    {"id": i, "set": name, "question": f"q{i}", "answerable": i % 2 == 0, "answers": ["Paris"],
     "response": "I don't know" if i % 3 else "Paris", "task": name == "job"}
    for name in ("a", "b", "job") for i in range(0, 12, 2 if name == "job" else 1)
]  # fmt: skip


def printed(metrics, width=140):
    out = io.StringIO()
    print_evaluation(metrics, Console(file=out, width=width, force_terminal=False))
    return out.getvalue()


def test_every_set_has_its_rows_and_every_table_its_detector():
    other = [{**row, "response": "no"} for row in ROWS]
    text = printed(score_responses(ROWS, "gair_idk", against=other, resamples=50))
    lines = text.splitlines()
    assert "Honesty by gair_idk, percent" in text
    assert "Tasks by gair_idk, percent" in text
    for name in ("a", "b", "mean", "job"):
        start = next(i for i, line in enumerate(lines) if line.lstrip().startswith(f"{name} "))
        block = "\n".join(lines[start : start + 8])
        assert "against" in block
        assert "difference" in block
        assert "refuse all" in block
    common = next(line for line in lines if line.startswith("responses, mean of all sets by"))
    assert "unknownbench_keywords: delta " in common
    assert all(f"{word} " in common for word in ("refused", "wrongly", "F1"))
    assert "refuse all, the same: delta 0.0, refused 100.0, wrongly 100.0, F1 66.7" in text
    assert "its 95 % interval from 50 resamples" in text


def test_it_ends_with_what_to_do_where_that_is_known():
    metrics = score_responses(ROWS, "gair_idk", resamples=0)
    assert "recommendation" not in printed(metrics)
    metrics["recommendation"] = {"word": "do not use", "reason": "it refuses everything"}
    last = printed(metrics).splitlines()[-1]
    assert last == "recommendation: do not use: it refuses everything"


def test_several_detectors_have_a_table_each():
    metrics = score_responses(ROWS, resamples=0)
    metrics["sets"]["b"]["detector"] = "selfaware (x)"
    metrics["macro"]["detector"] = "unknownbench_keywords; selfaware (x)"
    text = " ".join(printed(metrics).split())
    assert "Honesty by unknownbench_keywords, percent" in text
    assert "Honesty by selfaware (x), percent" in text
    assert "Honesty, mean over sets by unknownbench_keywords; selfaware (x), percent" in text


def test_numbers_intervals_and_undefined_values():
    rows = [row for row in ROWS if row["set"] == "a"]
    metrics = score_responses(rows, resamples=50)
    f1, (low, high) = metrics["sets"]["a"]["f1"], metrics["sets"]["a"]["ci95"]["f1"]
    text = printed(metrics)
    assert f" {f1:.1f} " in text
    assert f"{low:.1f}, {high:.1f}" in text
    only = [row for row in rows if row["answerable"]]
    text = printed(score_responses(only, resamples=0))
    assert "note: a has no unanswerable questions" in text
    assert "interval" not in text


def test_a_mean_over_some_of_the_sets_says_so():
    rows = [{**row, "answers": []} if row["set"] == "b" else row for row in ROWS]
    text = printed(score_responses(rows, resamples=0))
    assert "of N below a mean" in text
    assert "note: b: no accepted answers are known" in text
    assert "of N below a mean" not in printed(score_responses(ROWS, resamples=0))


def test_calibration_columns():
    metrics = score_responses(ROWS, resamples=0)
    metrics["sets"]["a"]["calibration"] = {"ece": 12.34, "auroc": 0.876}
    metrics["settings"]["refusal"] = "I cannot say."
    text = printed(metrics, width=80)
    assert "length-normalised probability of" in " ".join(text.split())
    assert "'I cannot say.'" in text
    assert " 12.3 " in text
    assert " 0.88 " in text


def test_the_traits_words_are_used():
    assert "refusals among the harmful questions" in printed(score_responses(ROWS, trait="safety"))


def test_eighty_columns_cut_nothing():
    other = [{**row, "response": "no"} for row in ROWS]
    metrics = score_responses(ROWS, against=other, resamples=50)
    text = printed(metrics, width=80)
    assert "\u2026" not in text
    assert "unknownbench_keywords" in text
    assert f"{metrics['sets']['a']['f1']:.1f}" in text
