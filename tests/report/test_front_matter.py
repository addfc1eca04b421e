from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard

import hcnr
from hcnr.errors import ConfigError
from hcnr.record.card import model_card
from hcnr.record.front_matter import Origin, front_matter, read_origin
from pairs import config

CARD = """---
language: [en, de]
license: llama3.2
license_link: LICENSE
base_model: meta/base-8b
base_model_relation: finetune
datasets: [org/tuning]
tags: [medical, hcnr]
model-index:
- name: tuned
  results:
  - task: {type: text-generation}
    dataset: {type: x, name: x}
    metrics: [{type: acc, value: 1}]
---
# Tuned
"""


@pytest.fixture
def tuned(tmp_path):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "README.md").write_text(CARD)
    return tmp_path / "tuned"


def test_what_tuned_says_is_kept_and_its_measurements_are_not(tuned):
    origin = read_origin("base/", tuned, tuned_id="org/tuned")
    assert (origin.tuned, origin.base, origin.is_named) == ("org/tuned", "meta/base-8b", True)
    data = {"honesty": {"source": "starter"}, "task": {"source": "hf:org/job@v1:train"}}
    fields = yaml.safe_load(front_matter(origin, data))
    assert fields == {
        "base_model": ["org/tuned", "meta/base-8b"],
        "base_model_relation": "merge",
        "datasets": ["org/tuning", "amayuelas/KUQ", "org/job"],
        "language": ["en", "de"],
        "library_name": "transformers",
        "license": "llama3.2",
        "license_link": "LICENSE",
        "pipeline_tag": "text-generation",
        "tags": ["medical", "hcnr"],
    }


def test_an_unknown_tuned_keeps_the_chain(tuned):
    origin = read_origin("base/", tuned)
    fields = yaml.safe_load(front_matter(origin))
    assert fields["base_model"] == "meta/base-8b"
    assert fields["base_model_relation"] == "finetune"
    assert origin.is_named


def test_a_folder_of_a_machine_is_no_base_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "tuned").mkdir()
    for name in ("/home/me/base", "./base", "models/base", "base"):
        (tmp_path / "tuned" / "README.md").write_text(f"---\nbase_model: {name}\n---\n")
        origin = read_origin("base", "tuned")
        assert not origin.is_named
        assert "base_model" not in yaml.safe_load(front_matter(origin))


def test_names_from_the_cache_and_from_models_in_memory(tmp_path):
    cached = tmp_path / "models--org--name-8b" / "snapshots" / "0f3a"
    cached.mkdir(parents=True)
    model = SimpleNamespace(config=SimpleNamespace(_name_or_path="org/tuned"))
    origin = read_origin(cached, model)
    assert (origin.base, origin.tuned) == ("org/name-8b", "org/tuned")
    local = SimpleNamespace(config=SimpleNamespace(_name_or_path=str(tmp_path)))
    assert read_origin(cached, local).tuned is None


@pytest.mark.parametrize("value", ["tuned", "a/b/c", "/home/tuned", "", "."])
def test_an_id_that_is_none(value):
    with pytest.raises(ConfigError, match=r"--tuned-id is .*expected the model's name on the"):
        read_origin("base", "tuned", tuned_id=value)


def test_bad_front_matter_is_told(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    origin = read_origin("base", tmp_path)
    assert origin.metadata == {}
    assert "nothing of tuned's model card is kept" in origin.notes[0]


def test_the_hub_reads_the_card(tuned, invented):
    for origin in (None, Origin(tuned="org/tuned"), read_origin("b", tuned, "o/b", "o/t")):
        fields = ModelCard(model_card(invented.report(), origin)).data.to_dict()
        assert fields["library_name"] == "transformers"
        assert "hcnr" in fields["tags"]


def test_restore_writes_it(pair, statistics, tmp_path):
    out = hcnr.restore(
        pair["base"], pair["tuned"], statistics=statistics["output"], config=config(),
        out=tmp_path / "out", base_id="org/base", tuned_id="org/tuned",
    )  # fmt: skip
    fields = ModelCard.load(out / "README.md").data.to_dict()
    assert fields["base_model"] == ["org/tuned", "org/base"]
    assert fields["base_model_relation"] == "merge"


def test_of_an_adapter():
    """The hub takes base_model for what the adapter is put on, so tuned's own parent is not it."""
    metadata = {"license": "mit", "base_model": "owner/parent", "tags": ["mine"]}
    origin = Origin(metadata, base="owner/base", tuned="owner/tuned")
    for on in ("base", "tuned"):
        found = yaml.safe_load(front_matter(origin, adapter_on=on))
        assert found["base_model"] == f"owner/{on}" and found["library_name"] == "peft"
        assert found["base_model_relation"] == "adapter"
        assert found["tags"] == ["mine", "lora", "hcnr"] and found["license"] == "mit"
    unnamed = yaml.safe_load(front_matter(Origin(metadata), adapter_on="tuned"))
    assert "base_model" not in unnamed and "base_model_relation" not in unnamed
