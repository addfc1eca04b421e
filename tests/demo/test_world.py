import dataclasses
import itertools
import json

import pytest

from hcnr.demo.recipe import Recipe
from hcnr.demo.world import REFUSAL, TASK_RELATION, World, build_world


@pytest.fixture(scope="module", params=[Recipe(), Recipe.quick(seed=3)], ids=["full", "quick"])
def world(request: pytest.FixtureRequest) -> World:
    return build_world(request.param)


def list_splits(world: World) -> dict[str, dict[str, list[str]]]:
    """The names and the prompts of every split, to check that they are apart."""
    return {
        split: {
            "names": sorted({item.name for item in items}),
            "prompts": [item.prompt for item in items],
        }
        for split, items in world.splits.items()
    }


def test_unknown_names_of_all_stages_are_disjoint(world: World):
    splits = list_splits(world)
    names = {split: set(content["names"]) for split, content in splits.items()}
    stages = [f"{s}_unknown" for s in ("trained", "measured", "validation", "evaluated")]
    for one, other in itertools.combinations([*stages, "trained_known"], 2):
        assert not names[one] & names[other], (one, other)


def test_known_names_measured_and_evaluated_are_disjoint(world: World):
    splits = list_splits(world)
    measured = {*splits["measured_known"]["names"], *splits["measured_task"]["names"]}
    evaluated = {*splits["evaluated_known"]["names"], *splits["evaluated_task"]["names"]}
    assert not measured & evaluated
    assert not {*splits["measured_known"]["names"]} & {*splits["measured_task"]["names"]}
    assert measured | evaluated <= set(splits["trained_known"]["names"])


def test_settings_are_chosen_by_names_that_are_not_evaluated(world: World):
    splits = list_splits(world)
    names = {
        stage: {
            name for split in splits if split.startswith(stage) for name in splits[split]["names"]
        }
        for stage in ("validation", "evaluated")
    }
    assert names["validation"] and not names["validation"] & names["evaluated"]
    validated = [len(splits[f"validation_{part}"]["prompts"]) for part in ("unknown", "known")]
    assert validated == [len(world.task)] * 2


def test_no_prompt_is_asked_twice_but_for_training(world: World):
    splits = list_splits(world)
    asked = [
        prompt
        for split, content in splits.items()
        if not split.startswith("trained")
        for prompt in content["prompts"]
    ]
    assert len(set(asked)) == len(asked)
    for content in splits.values():
        assert len(set(content["prompts"])) == len(content["prompts"])


def test_every_known_or_task_fact_that_is_asked_was_taught(world: World):
    taught = {
        "known": set(world.splits["trained_known"]),
        "task": set(world.splits["trained_task"]),
    }
    for stage, kind in itertools.product(("measured", "validation", "evaluated"), taught):
        assert set(world.splits[f"{stage}_{kind}"]) <= taught[kind]


def test_refusals_are_for_unknown_names_only_and_the_task_has_none(world: World):
    for split, items in world.splits.items():
        assert items
        assert {item.response == REFUSAL for item in items} == {split.endswith("unknown")}
        assert {item.relation == TASK_RELATION for item in items} == {split.endswith("task")}


def test_sample_files_have_the_tools_format_and_the_measured_items(world: World, tmp_path):
    honesty, task = world.write_samples(tmp_path)
    lines = [json.loads(line) for line in honesty.read_text().splitlines()]
    measured = len(world.task)
    assert len(lines) == measured
    assert [set(line) for line in lines] == [{"prompt", "response"}] * measured
    assert sum(line["response"] == REFUSAL for line in lines) == measured // 2
    assert sum(line["response"] == REFUSAL for line in lines[:10]) == 5
    lines = [json.loads(line) for line in task.read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [i.prompt for i in world.splits["measured_task"]]


def test_the_full_world_measures_128_samples_of_each_kind():
    world = build_world(Recipe())
    assert len(world.honesty) == len(world.task) == 128


def test_evaluation_is_balanced_so_that_f1_means_the_same_as_elsewhere(world: World):
    unknown, known = (len(world.splits[f"evaluated_{part}"]) for part in ("unknown", "known"))
    assert 0.9 < unknown / known < 1.1


def test_a_world_is_its_recipe():
    assert build_world(Recipe(seed=4)) == build_world(Recipe(seed=4))
    assert build_world(Recipe(seed=4)) != build_world(Recipe(seed=5))


def test_too_small_a_world_says_so():
    with pytest.raises(ValueError, match="the world has 100"):
        build_world(dataclasses.replace(Recipe(), first_names=10, last_names=10))


def test_recipe_key_depends_on_every_field():
    keys = {Recipe().key}
    for field in dataclasses.fields(Recipe):
        value = getattr(Recipe(), field.name)
        keys.add(dataclasses.replace(Recipe(), **{field.name: value * 2 + 1}).key)
    assert len(keys) == 1 + len(dataclasses.fields(Recipe))
    assert Recipe().key == Recipe(seed=0).key
