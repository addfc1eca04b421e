"""The recipe file: written with comments, read back equal, refused with key and line."""

import pytest
import yaml

from hcnr.errors import ConfigError
from hcnr.guided.recipe import RunRecipe
from hcnr.guided.recipe_file import load_recipe, recipe_of

MINIMAL = "models:\n  base: b\n  tuned: t\ndata:\n  task: task.jsonl\n"


def written(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


def test_round_trip_with_a_comment_for_every_key(tmp_path):
    recipe = recipe_of(
        {
            "models": {"base": "b", "tuned": "t", "base_revision": "12ab", "tuned_id": "o/n"},
            "data": {"task": "task.jsonl", "honesty": "starter", "questions": "hf:a/b:c"},
            "settings": {"samples": 7, "task_weight": 2.5, "device": "cuda:1", "limit": None,
                         "compensation": "spectral+natural"},
            "versions": {"hcnr": "0.1"},
        }
    )  # fmt: skip
    text = recipe.to_yaml()
    assert load_recipe(written(tmp_path, text)) == recipe
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("  ") and not line.startswith("  #") and number < len(lines) - 2:
            assert lines[number - 1].startswith("  # "), line
    assert yaml.safe_load(text)["settings"]["compensation"] == "spectral+natural"


def test_a_short_recipe_means_the_defaults_and_paths_beside_it(tmp_path):
    recipe = load_recipe(written(tmp_path, MINIMAL))
    assert recipe.models.base == str(tmp_path / "b")
    assert recipe.data.task == str(tmp_path / "task.jsonl")
    assert (recipe.data.honesty, recipe.data.validation) == ("starter", "starter-validation")
    assert recipe.settings.config().searches
    assert load_recipe(written(tmp_path, recipe.to_yaml())) == recipe


def test_models_of_the_hub_stay_names_where_no_directory_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = {"base": "org/base", "tuned": "org/tuned@v1", "tokenizer": "org/words"}
    text = yaml.safe_dump({"models": models, "data": {"task": "org/task.jsonl"}})
    found = load_recipe(written(tmp_path, text))
    assert found.models.model_dump(include=set(models)) == models
    assert found.data.task == str(tmp_path / "org" / "task.jsonl")
    assert recipe_of(yaml.safe_load(text)).models == found.models
    (tmp_path / "org" / "base").mkdir(parents=True)
    assert load_recipe(written(tmp_path, text)).models.base == str(tmp_path / "org" / "base")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_recipe(written(tmp_path, text)).models.base == str(tmp_path / "org" / "base")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MINIMAL + "setings:\n  samples: 3\n", r"line 6: unknown key 'setings'; .* 'settings'\?"),
        (MINIMAL + "settings:\n  sampels: 3\n",
         r"line 7: unknown key 'settings.sampels'; did you mean 'samples'\?"),
        (MINIMAL + "settings:\n  samples: many\n",
         r"line 7: settings.samples is 'many', expected a whole number, at least 1; correct it"),
        (MINIMAL + "settings:\n\n  samples: yes\n", r"line 8: settings.samples is True, expected"),
        (MINIMAL + "settings:\n  limit: 2.5\n",
         r"line 7: settings.limit is 2.5, expected a whole number, at least 1, or null"),
        (MINIMAL + "settings:\n  task_weight: heavy\n",
         r"line 7: settings.task_weight is 'heavy', expected auto or a finite number"),
        (MINIMAL + "settings:\n  compensation: interpolate\n",
         r"line 7: settings.compensation is 'interpolate', expected one of none, sum, "),
        (MINIMAL + "settings: 3\n", r"line 6: settings is 3, expected keys with values below it"),
        (MINIMAL.replace("  task: task.jsonl\n", "  honesty: h.jsonl\n"),
         r"line 4: data.task is missing, expected a file of samples.*; write 'task: \.\.\.' below"),
        ("data:\n  task: t\n", r"r.yaml: models is missing, expected keys with values below it"),
        (MINIMAL.replace("base: b", "base: [b]"), r"line 2: models.base is \['b'\], expected a d"),
        (MINIMAL + "data:\n  task: t\n", r"line 6: this is not valid YAML \(the key 'data' is giv"),
        (MINIMAL + "versions:\n  hcnr: 1\n", r"line 7: versions.hcnr is 1, expected"),
        ("- 1\n", "expected a mapping"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence_with_key_and_line(tmp_path, text, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        load_recipe(written(tmp_path, text))
    assert "\n" not in str(caught.value) and "r.yaml" in str(caught.value)


def test_only_what_restore_knows_reaches_it():
    settings = RunRecipe.model_fields["settings"].default
    config = settings.config()
    assert (config.samples, config.task_weight, config.compensation) == (128, "auto", "spectral")
