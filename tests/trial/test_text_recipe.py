import dataclasses

from experiments.trial import text_recipe
from experiments.trial.text_recipe import TextRecipe

FILES = {"kuq/knowns_unknowns.jsonl": "ab"}


def test_a_key_is_of_every_field_the_format_and_the_data(monkeypatch):
    recipe = TextRecipe()
    keys = {recipe.key(FILES)}
    assert keys == {TextRecipe().key(dict(FILES))}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        other = not value if isinstance(value, bool) else value + 1
        keys.add(dataclasses.replace(recipe, **{field.name: other}).key(FILES))
    keys.add(recipe.key({**FILES, "kuq/knowns_unknowns.jsonl": "cd"}))
    monkeypatch.setattr(text_recipe, "FORMAT", text_recipe.FORMAT + 1)
    keys.add(recipe.key(FILES))
    assert len(keys) == len(dataclasses.fields(recipe)) + 3
    assert all(key.startswith("text-") and len(key) == 21 for key in keys)


def test_a_world_of_text_and_a_key_of_another_torch(monkeypatch):
    before = TextRecipe().key(FILES)
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"another {name}")
    assert TextRecipe().key(FILES) != before


def test_the_base_has_a_key_of_its_own():
    """All that decides the base is in it, and nothing of the fine-tuning."""
    files = {"a": "1"}
    recipe = TextRecipe()
    assert recipe.base_key(files) == TextRecipe.mild().base_key(files)
    assert recipe.key(files) != TextRecipe.mild().key(files)
    assert TextRecipe.mild(3).seed == 3
    changed = [
        dataclasses.replace(recipe, seed=1).base_key(files),
        dataclasses.replace(recipe, base_rate=2e-3).base_key(files),
        dataclasses.replace(recipe, evaluated=149).base_key(files),
        recipe.base_key({"a": "2"}),
        recipe.key(files),
    ]
    assert len({recipe.base_key(files), *changed}) == 6
