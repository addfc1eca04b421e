"""Which steps a changed recipe does again, by the table."""

from hcnr.guided.changes import DEPENDS, affected, at_risk, what_becomes
from hcnr.guided.recipe import DataFiles, Models, Settings


def test_every_key_of_the_table_is_one_of_a_recipe():
    parts = {"models": Models, "data": DataFiles, "settings": Settings}
    keys = {f"{part}.{key}" for part, model in parts.items() for key in model.model_fields}
    named = {key for own in DEPENDS.values() for key in own}
    assert named <= keys
    # What is left changes no result: fingerprints are compared, and batches only cost time.
    assert keys - named == {
        "models.base_revision", "models.tuned_revision", "settings.batch_size",
    }  # fmt: skip


def test_only_what_depends_is_affected():
    assert affected(["settings.max_new_tokens"]) == ["choose", "evaluate"]
    assert affected(["settings.compensation"]) == ["search", "choose", "restore"]
    assert affected(["data.questions"]) == ["evaluate"]
    assert affected(["models.base_id"]) == ["restore"]
    assert affected(["settings.batch_size"]) == []


def test_results_are_at_risk_where_they_are_finished():
    every = list(DEPENDS)
    assert at_risk(["settings.batch_size"], every) == []
    assert at_risk(["data.questions"], every) == ["evaluate", "report"]
    assert at_risk(["settings.limit"], every) == ["restore", "evaluate", "report"]
    assert at_risk(["settings.limit"], every[:3]) == []
    assert at_risk(["settings.max_task_drop_percent"], every[:4]) == ["restore"]


def test_the_sentence():
    assert what_becomes(["data.questions"], ["probe", "search"]) == (
        "the recipe differs in data.questions: no finished step depends on that"
    )
    told = what_becomes(["settings.limit"], ["probe", "evaluate", "choose"])
    assert told.endswith("choose, evaluate are done again; of probe only what rests on a result "
                         "that changes")  # fmt: skip
    assert what_becomes(["settings.limit"], ["choose"]) == (
        "the recipe differs in settings.limit: choose is done again"
    )
