import json
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from hcnr.errors import CheckpointError, ConfigError, OutputError
from hcnr.record.push import LEFT_OUT, push

CARD = "---\nbase_model:\n- org/tuned\n- org/base\nbase_model_relation: merge\n---\n# Restored\n"


class Hub:
    """Stands for the hub's API; keeps what it was asked."""

    def __init__(self, error=None):
        self.calls, self._error = [], error

    def create_repo(self, repo, **options):
        self.calls.append(("create", repo, options))
        if self._error is not None:
            raise self._error

    def upload_file(self, **options):
        self.calls.append(("file", options))

    def upload_folder(self, **options):
        self.calls.append(("upload", options))
        return SimpleNamespace(commit_url="https://hub/commit/1")


@pytest.fixture
def restored(tmp_path, monkeypatch):
    """A restored directory, and a hub that takes every card."""
    monkeypatch.setattr(ModelCard, "validate", lambda self, repo_type: None)
    (tmp_path / "hcnr_report.json").write_text("{}")
    (tmp_path / "README.md").write_text(CARD)
    return tmp_path


def test_the_directory_is_uploaded_without_answers(restored):
    hub = Hub()
    found = push(restored, "me/restored", private=True, api=hub)
    assert (found.url, found.base_model) == ("https://hub/commit/1", ("org/tuned", "org/base"))
    assert hub.calls[0] == ("create", "me/restored", {"private": True, "exist_ok": True})
    options = hub.calls[1][1]
    assert (options["repo_id"], options["folder_path"]) == ("me/restored", str(restored))
    assert tuple(options["ignore_patterns"]) == LEFT_OUT
    assert (restored / "README.md").read_text() == CARD


def test_the_home_folder_is_found(restored, monkeypatch):
    monkeypatch.setenv("HOME", str(restored.parent))
    hub = Hub()
    push(f"~/{restored.name}", "me/restored", api=hub)
    assert hub.calls[1][1]["folder_path"] == str(restored)


def test_what_is_left_out_matches_answers_and_hidden_files():
    from huggingface_hub.utils import filter_repo_objects

    names = ["model.safetensors", "eval/answers-base.jsonl", "answers-base.jsonl",
             "eval/metrics.json", ".gitignore", "eval/.hidden"]  # fmt: skip
    kept = list(filter_repo_objects(names, ignore_patterns=list(LEFT_OUT)))
    assert kept == ["model.safetensors", "eval/metrics.json"]
    quoting = ["judged.jsonl", "eval/judged.jsonl", "report.html", "report/honesty.svg"]
    assert list(filter_repo_objects(quoting, ignore_patterns=list(LEFT_OUT))) == [
        "report/honesty.svg"
    ]


def test_no_path_of_the_machine_is_uploaded(restored):
    secret = "/srv/jane doe/private"
    texts = {
        "hcnr_report.json": {
            "pair": {"base": f"{secret}/base", "tuned": "org/tuned@main"},
            "data": {"task": {"source": f"{secret}/task.jsonl"}},
            "warnings": [f"tuned ({secret}/base) has 1/2 of /srv/other/words.txt."],
            "matrices": [{"name": "model.layers.0.q_proj"}],
        },
        "eval/metrics.json": {"data": {"kuq": {"source": f"{secret}/kuq.json"}}},
        "sweep/sweep.json": {"pair": {"base": f"{secret}/base"}},
        "adapter_config.json": {"base_model_name_or_path": f"{secret}/tuned", "r": 8},
        "config.json": {"vocab_size": 9},
    }
    for name, content in texts.items():
        (restored / name).parent.mkdir(exist_ok=True)
        (restored / name).write_text(json.dumps(content))
    hub = Hub()
    push(restored, "me/restored", api=hub)
    sent = {call[1]["path_in_repo"]: call[1]["path_or_fileobj"] for call in hub.calls
            if call[0] == "file"}  # fmt: skip
    assert set(sent) == set(texts) - {"config.json"}
    assert hub.calls[-1][0] == "upload"
    assert set(sent) <= set(hub.calls[-1][1]["ignore_patterns"])
    assert not [name for name, text in sent.items() if b"/home" in text or b"/srv" in text]
    report = json.loads(sent["hcnr_report.json"])
    assert report["pair"] == {"base": "base", "tuned": "org/tuned@main"}
    assert report["data"]["task"]["source"] == "task.jsonl"
    assert report["warnings"] == ["tuned (base) has 1/2 of words.txt."]
    assert json.loads(sent["adapter_config.json"])["base_model_name_or_path"] == "org/tuned"
    assert secret in (restored / "adapter_config.json").read_text(), "which is needed here"


@pytest.mark.parametrize("named", ["", "base_model: tuned\n"])
def test_a_base_model_is_asked_for_and_written(restored, named):
    (restored / "README.md").write_text(f"---\nlicense: mit\n{named}---\n# Restored\n")
    hub = Hub()
    with pytest.raises(ConfigError, match=r"as base_model, expected .*pass --base-model"):
        push(restored, "me/restored", api=hub)
    assert not hub.calls
    assert push(restored, "me/restored", base_model="org/tuned", api=hub).base_model == (
        "org/tuned",
    )
    fields = ModelCard.load(restored / "README.md").data.to_dict()
    assert (fields["base_model"], fields["license"]) == ("org/tuned", "mit")


def test_bad_names_and_directories(restored, tmp_path_factory):
    with pytest.raises(ConfigError, match="the repository is 'restored', expected"):
        push(restored, "restored", api=Hub())
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(CheckpointError, match=r"has no hcnr_report\.json"):
        push(empty, "me/restored", api=Hub())
    (restored / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(CheckpointError, match=r"README\.md cannot be read"):
        push(restored, "me/restored", api=Hub())


def test_a_refusal_is_one_sentence_and_changes_nothing(restored, monkeypatch):
    with pytest.raises(OutputError, match=r"not uploaded to me/restored \(401 no token\)") as found:
        push(restored, "me/restored", api=Hub(RuntimeError("401\nno token")))
    assert "\n" not in str(found.value)

    def refuse(self, repo_type):
        raise ValueError("- Error: license is unknown")

    monkeypatch.setattr(ModelCard, "validate", refuse)
    hub = Hub()
    with pytest.raises(OutputError, match="license is unknown"):
        push(restored, "me/restored", base_model="org/other", api=hub)
    assert not hub.calls
    assert (restored / "README.md").read_text() == CARD
