"""Models by their names on the hub: out of its cache, downloaded through a stand-in, or refused."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants, errors

import hcnr
import hcnr.hub
from hcnr.errors import CheckpointError, ConfigError
from hcnr.evaluation.evaluated_models import name_evaluated
from hcnr.hub import is_model_name, model_snapshot
from hcnr.models.pair import Pair
from hcnr.models.resolving import resolve
from hcnr.plan import plan_run
from hcnr.progress import Stages
from hcnr.record.front_matter import read_origin
from hubs import cached, revision_of
from pairs import config, hashes


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty cache that is the hub's, without a network, in an empty working directory."""
    place = tmp_path / "hf" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HCNR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    hcnr.hub._snapshot.cache_clear()
    yield place
    hcnr.hub._snapshot.cache_clear()


@pytest.fixture
def both(cache, pair):
    cached(cache, "org/base", pair["base"], 1, "main")
    cached(cache, "org/tuned", pair["tuned"], 2, "main", "v1.0")
    return cache


def test_names(tmp_path, monkeypatch):
    for name in ("org/model", "Org-1/model.2_b", "org/model@main", "org/model@refs/pr/1"):
        assert is_model_name(name) and is_model_name(Path(name))
    for name in ("model", "./org/model", "/org/model", "a/b/c", "org/", "../model", 3, None):
        assert not is_model_name(name)
    # What lies there is what is meant.
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_model_name("org/model") and is_model_name("org/model@v1")


def test_out_of_the_cache(both, pair, tmp_path):
    """The same bytes as from the directories; names and commits are kept in report and card."""
    data = {"honesty": pair["honesty"], "task": pair["task"], "config": config()}
    named = hcnr.restore("org/base", "org/tuned@v1.0", **data, out=tmp_path / "named")
    placed = hcnr.restore(pair["base"], pair["tuned"], **data, out=tmp_path / "placed")
    assert hashes(named) == hashes(placed)
    report = json.loads((named / "hcnr_report.json").read_text())
    assert report["pair"]["base"] == "org/base" and report["pair"]["tuned"] == "org/tuned@v1.0"
    assert report["pair"]["sources"] == {
        "base": {"hub": "org/base", "revision": revision_of(1)},
        "tuned": {"hub": "org/tuned", "revision": revision_of(2)},
    }
    notes = [line for line in report["warnings"] if "Hugging Face hub" in line]
    assert len(notes) == 2 and f"name it as org/base@{revision_of(1)} to get" in notes[0]
    card = (named / "README.md").read_text()
    assert f"of the hub's `org/tuned` at `{revision_of(2)}`" in card
    assert "base_model:\n- org/tuned\n- org/base\n" in card
    # A commit pins it.
    again = model_snapshot(f"org/tuned@{revision_of(2)}")
    assert again == model_snapshot("org/tuned") and again.revision == revision_of(2)


def test_everywhere(both, pair):
    settings = hcnr.RestoreConfig(samples=8)
    plan = plan_run("org/base", "org/tuned", settings)
    assert plan.kinds == plan_run(pair["base"], pair["tuned"], settings).kinds
    starts = ("'org/base'", "'org/tuned'", "blocks are", "about")
    assert len(plan.messages) == len(starts)
    assert all(map(str.startswith, plan.messages, starts))
    (subject,) = name_evaluated(["org/tuned@v1.0"])
    assert subject.label == "tuned-v1.0"
    assert subject.source.tokenizer() is not None
    origin = read_origin("org/base", "org/tuned@v1.0")
    assert (origin.base, origin.tuned) == ("org/base", "org/tuned")
    found = Pair.open("org/base", pair["tuned"], config(), Stages())
    assert found.facts["sources"].keys() == {"base"}


def test_command_line_without_a_network(both, pair, tmp_path):
    """As a user has it: the environment alone says where the cache is."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-m", "hcnr", "plan", "org/base"]
    for tuned, code, text in (
        ("org/tuned", 0, "matrices"),
        ("org/absent", 2, "'org/absent' is no directory here, and of the Hugging Face hub it"),
    ):
        done = subprocess.run(
            [*command, tuned], env=environment, capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == code, done.stderr
        said = " ".join((done.stdout + done.stderr).split())
        assert text in said and "Traceback" not in said
    assert "HF_HUB_OFFLINE forbids downloading" in said
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_adapter_and_its_base(both, pair, tmp_path):
    """Both by name; what the adapter names is fetched where it comes alone, at its revision."""
    if importlib.util.find_spec("peft") is None:
        pytest.skip("the package peft is not installed")
    from adapters import write_adapter

    place = write_adapter(pair["base"], tmp_path / "adapter")
    settings = json.loads((place / "adapter_config.json").read_text())
    settings |= {"base_model_name_or_path": "org/base", "revision": revision_of(1)}
    (place / "adapter_config.json").write_text(json.dumps(settings))
    cached(both, "org/lora", place, 3, "main")
    found = resolve("org/lora")
    assert found.facts["hub"] == "org/lora" and found.facts["revision"] == revision_of(3)
    assert found.facts["base"] == {"hub": "org/base", "revision": revision_of(1)}
    assert found.name == "org/lora" and "although" not in " ".join(found.notes)
    opened = Pair.open("org/base", "org/lora", config(), Stages())
    assert "although" not in " ".join(opened.messages) and str(opened.tuned) == "org/lora"
    settings |= {"base_model_name_or_path": "org/absent", "revision": None}
    (place / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"names 'org/absent' as its base.*HF_HUB_OFFLINE"):
        resolve(place)


@pytest.mark.parametrize("missing", ["config.json", "model-00002-of-00003.safetensors"])
def test_a_part_of_a_model(cache, pair, missing):
    """A cache that other tools filled in part is not taken for the model."""
    snapshot = cached(cache, "org/base", pair["base"], 1, "main")
    (snapshot / missing).unlink()
    with pytest.raises(CheckpointError, match="or not whole, and HF_HUB_OFFLINE forbids"):
        model_snapshot("org/base")


ANSWER: Any = SimpleNamespace(status_code=404, headers={}, request=None)
REFUSED: list[tuple[Any, str]] = [
    (errors.GatedRepoError("long\nstory", response=ANSWER), "granted on request; ask for it"),
    (errors.RepositoryNotFoundError("x", response=ANSWER), "shows no such model; check the"),
    (errors.RevisionNotFoundError("x", response=ANSWER), "has no revision 'v9'; name a branch"),
    (ConnectionError("no route\nto host"), r"ConnectionError: no route; download it where"),
]


@pytest.mark.parametrize(("error", "text"), REFUSED, ids=lambda one: type(one).__name__)
def test_refused_by_the_hub(cache, monkeypatch, error, text):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def download(*, local_files_only=False, **_):
        raise errors.LocalEntryNotFoundError("not cached") if local_files_only else error

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(CheckpointError, match=text) as caught:
        model_snapshot("org/model@v9")
    assert "\n" not in str(caught.value)


def test_downloaded_once_and_no_more_than_needed(cache, pair, monkeypatch):
    asked = []

    def download(*, repo_id, revision, allow_patterns, ignore_patterns, local_files_only=False):
        asked.append((repo_id, revision, local_files_only))
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not cached")
        from huggingface_hub.utils import filter_repo_objects

        files = [
            "model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json",
            "tokenizer.json", "tokenizer.model", "chat_template.jinja", "README.md", "LICENSE",
            "additional_chat_templates/tool.jinja", "adapter_model.safetensors", "merges.txt",
        ]  # fmt: skip
        others = [
            "pytorch_model.bin", "consolidated.safetensors", "original/params.json", "x.gguf",
            "model.onnx", "onnx/config.json", "modeling_x.py", "logo.png", "tf_model.h5",
        ]  # fmt: skip
        kept = filter_repo_objects(
            [*files, *others], allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        assert list(kept) == files
        return str(cached(cache, repo_id, pair["base"], 7, "main"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    first = model_snapshot("org/model@main")
    assert first.revision == revision_of(7) and first.name == "org/model"
    assert model_snapshot("org/model@main") is first
    assert asked == [("org/model", "main", True), ("org/model", "main", False)]
