"""Data sets of the `datasets` library: through a stand-in here, and the library where it is."""

import sys
import types

import pytest

from hcnr.benchmarks.loading import load_sets
from hcnr.data.samples import load_samples
from hcnr.errors import DataError

ROWS = [{"prompt": f"q{i}", "completion": f"r{i}"} for i in range(3)]


@pytest.fixture
def library(monkeypatch):
    """A `datasets` that knows the two splits of `org/name`, and what it was asked for."""
    asked = []

    def load_dataset(name, config=None, *, split=None, revision=None):
        asked.append((name, config, split, revision))
        if name != "org/name":
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub\nlong story")
        splits = {"train": ROWS, "test": ROWS[:1]}
        return splits if split is None else splits[split.partition("[")[0]]

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("hf:org/name:train", ("org/name", None, "train", None)),
        ("hf:org/name@v1:train[:2]", ("org/name", None, "train[:2]", "v1")),
        ("hf:org/name:main/train", ("org/name", "main", "train", None)),
        ("hf:org/name:main/train[10%:20%]", ("org/name", "main", "train[10%:20%]", None)),
    ],
)
def test_a_name_says_revision_configuration_and_split(library, text, asked):
    found = load_samples(text)
    assert library == [asked]
    assert (found.source, found.available) == (text, 3)
    assert found.format == "TRL (prompt and completion)"
    assert found.locations[0] == f"{text}, record 1"


def test_what_cannot_be_opened_is_one_sentence(library):
    with pytest.raises(DataError, match=r"splits train, test; name one.*hf:org/name:train"):
        load_samples("hf:org/name")
    with pytest.raises(DataError, match=r"cannot be opened .*doesn't exist on the Hub") as caught:
        load_samples("hf:org/nome:train")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="expected the form hf:NAME"):
        load_samples("hf::train")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'hcnr\[datasets\]'"):
        load_samples("hf:org/name:train")


def test_a_missing_file_that_looks_like_a_name():
    with pytest.raises(DataError, match=r"org/name does not exist.*write hf:org/name"):
        load_samples("org/name")


def test_the_library_itself(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    found = load_samples(data)
    assert (found.available, found.locations[0]) == (3, "the given Dataset, record 1")
    both = datasets.DatasetDict({"train": data, "test": data.select([0])})
    with pytest.raises(DataError, match="DatasetDict with the splits train, test"):
        load_samples(both)
    data.save_to_disk(tmp_path / "one")
    both.save_to_disk(tmp_path / "two")
    assert load_samples(str(tmp_path / "one")).samples == found.samples
    assert load_samples(f"hf:{tmp_path}/two:test").available == 1
    with pytest.raises(DataError, match=f"has the splits train, test.*hf:{tmp_path}/two:train"):
        load_samples(tmp_path / "two")
    (tmp_path / "raw").mkdir()
    data.to_json(tmp_path / "raw" / "train.jsonl")
    assert load_samples(str(tmp_path / "raw")).samples == found.samples


def test_a_data_set_is_one_set_of_questions():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([{"question": "Why?", "answerable": False}])
    (found,) = load_sets(data, None, None, task=False).values()
    assert [one.asked for one in found.questions] == ["Why?"]
