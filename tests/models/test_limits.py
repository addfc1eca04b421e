"""Tokens outside an embedding and samples beyond a context: found before any pass."""

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM

import hcnr
from families import make
from hcnr.errors import DataError, HcnrError
from hcnr.evaluation.generation import generate
from hcnr.models.limits import Limits
from pairs import HONESTY, TASK, config, tokenizer, write_jsonl

FAR = [{"prompt": "w60 w1", "response": f"w{i}"} for i in range(9)]
LONG = [{"prompt": " ".join(f"w{i % 60}" for i in range(90)), "response": "w1"}, *HONESTY]


@pytest.fixture(scope="module")
def small(pair, tmp_path_factory):
    """The pair's models with 40 rows in their embeddings."""
    root = tmp_path_factory.mktemp("small")
    for role in ("base", "tuned"):
        model = AutoModelForCausalLM.from_pretrained(pair[role])
        model.resize_token_embeddings(40)
        model.save_pretrained(root / role)
        tokenizer().save_pretrained(root / role)
    return {"base": root / "base", "tuned": root / "tuned"}


@pytest.fixture
def no_pass(monkeypatch):
    monkeypatch.setattr("hcnr.models.directory.open_model", None)


class TestTokensOutsideAnEmbedding:
    def test_of_tuned(self, pair, small, tmp_path, no_pass):
        far = write_jsonl(tmp_path / "far.jsonl", FAR)
        match = r"tuned .*sample 1 of the honesty data has the token id 63.*40 rows; .*--tokenizer"
        for function in (hcnr.measure, hcnr.restore):
            with pytest.raises(DataError, match=match):
                function(pair["base"], small["tuned"], far, TASK, config=config())

    @pytest.mark.parametrize("settings", [{}, {"compensation": "spectral"}, {"fisher_at": "base"}])
    def test_of_base_names_what_helps(self, pair, small, tmp_path, no_pass, settings):
        far = write_jsonl(tmp_path / "far.jsonl", FAR)
        with pytest.raises(DataError, match=r"base .*token id 63.*--hessian-at tuned"):
            hcnr.measure(small["base"], pair["tuned"], far, TASK, config=config(**settings))

    def test_of_held_back_samples(self, pair, small, tmp_path, no_pass):
        samples = [{"prompt": "w1", "response": f"w{i}"} for i in range(8)] + FAR
        with pytest.raises(DataError, match="sample 1 of the held-back honesty data"):
            hcnr.restore(pair["base"], small["tuned"], samples, TASK, config=config())

    def test_of_base_works_where_base_reads_nothing(self, pair, small, tmp_path):
        settings = config(hessian_at="tuned")
        out = hcnr.restore(
            small["base"], pair["tuned"], FAR, TASK, tmp_path / "out", config=settings
        )
        report = json.loads((out / "hcnr_report.json").read_text())
        assert "verdict" not in report
        assert any("no verdict" in message for message in report["warnings"])
        whole = hcnr.restore(**pair, out=tmp_path / "whole", config=settings)
        assert "verdict" in json.loads((whole / "hcnr_report.json").read_text())

    def test_of_a_question(self):
        model = make("llama")
        model.resize_token_embeddings(40)
        with pytest.raises(DataError, match=r"prompt 2 has the token id 63.*40 rows"):
            generate(model, tokenizer(), [[3], [63]], max_new_tokens=2)


class TestSamplesBeyondTheContext:
    @pytest.mark.parametrize("family", ["llama", "gpt_neox"])
    def test_cut_with_a_count(self, tmp_path, family):
        base, tuned = make(family), make(family, seed=1)
        found = hcnr.restore(
            base, tuned, LONG, TASK, config=config(samples=9), tokenizer=tokenizer()
        )
        report = found.hcnr_report
        assert any(
            "1 samples are longer than the 64 tokens" in message for message in report["warnings"]
        )
        assert report["data"]["honesty"]["prompts_truncated"] == 1

    def test_nothing_is_said_where_nothing_is_cut(self, tmp_path):
        found = hcnr.restore(
            make("llama"), make("llama", seed=1), HONESTY, TASK, config=config(),
            tokenizer=tokenizer(),
        )  # fmt: skip
        assert not any("longer" in message for message in found.hcnr_report["warnings"])


def test_limits_of_two_models():
    assert Limits(40, None) & Limits(67, 64) == Limits(40, 64)
    assert Limits.of(make("llama")) == Limits(67, 64)


class TestTokenizer:
    def bare(self, directory, new):
        shutil.copytree(directory, new)
        for file in new.glob("tokenizer*"):
            file.unlink()
        return new

    def test_of_base_where_tuned_has_none(self, pair, tmp_path):
        tuned = self.bare(pair["tuned"], tmp_path / "bare")
        out = hcnr.restore(**{**pair, "tuned": tuned}, out=tmp_path / "out", config=config())
        report = json.loads((out / "hcnr_report.json").read_text())
        assert any("base's was taken" in message for message in report["warnings"])
        other = hcnr.restore(**pair, out=tmp_path / "other", config=config())
        for name in ("honesty", "task"):
            expected = json.loads((other / "hcnr_report.json").read_text())["data"][name]
            assert report["data"][name]["tokens_sha256"] == expected["tokens_sha256"]

    def test_of_neither(self, pair, tmp_path):
        pair = {**pair, **{r: self.bare(pair[r], tmp_path / r) for r in ("base", "tuned")}}
        with pytest.raises(HcnrError, match=r"no tokenizer can be loaded.*tuned.*--tokenizer"):
            hcnr.measure(**pair, config=config())
