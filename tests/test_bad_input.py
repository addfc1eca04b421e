"""Bad input to `restore`: one clear sentence, and nothing is written."""

from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import hcnr
from families import make, perturbed
from hcnr.errors import (
    CheckpointError,
    DataError,
    HcnrError,
    OutputError,
    StatisticsError,
)
from pairs import HONESTY, TASK, config, hashes, tokenizer, write_jsonl, write_pair


class TestBadInput:
    """One clear sentence; nothing is written."""

    def refused(self, tmp_path, error, match, **arguments):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(error, match=match):
            hcnr.restore(**{"out": tmp_path / "out", "config": config(), **arguments})
        assert sorted(tmp_path.iterdir()) == before

    def test_missing_path(self, pair, tmp_path):
        arguments = {**pair, "base": tmp_path / "nowhere"}
        self.refused(tmp_path, CheckpointError, "nowhere", **arguments)

    def test_different_architectures(self, pair, tmp_path):
        other = write_pair(tmp_path, family="qwen2")
        self.refused(tmp_path, CheckpointError, "llama.*qwen2|qwen2.*llama",
                     **{**pair, "base": other["base"]})  # fmt: skip

    def test_no_target_matched(self, pair, tmp_path):
        self.refused(tmp_path, HcnrError, "candidates are down_proj, gate_proj", **pair,
                     config=config(targets=("query",)))  # fmt: skip

    def test_output_exists(self, pair, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious").write_text("x")
        self.refused(tmp_path, OutputError, "overwrite", **pair)
        assert (tmp_path / "out" / "precious").read_text() == "x"

    @pytest.mark.parametrize("where", ["base", "tuned"])
    def test_output_is_or_is_inside_an_input(self, pair, tmp_path, where):
        before = hashes(pair[where], "*")
        for out in (pair[where], pair[where] / "restored"):
            self.refused(tmp_path, OutputError, str(where), **pair, out=out, overwrite=True)
        assert hashes(pair[where], "*") == before

    def test_not_a_number_in_a_weight(self, pair, tmp_path):
        model = AutoModelForCausalLM.from_pretrained(pair["tuned"])
        model.model.layers[1].mlp.up_proj.weight.data[2, 3] = float("nan")
        model.save_pretrained(tmp_path / "sick")
        tokenizer().save_pretrained(tmp_path / "sick")
        self.refused(tmp_path, CheckpointError, r"layers\.1\.mlp\.up_proj.*NaN",
                     **{**pair, "tuned": tmp_path / "sick"})  # fmt: skip
        self.refused(
            tmp_path, CheckpointError, r"layers\.1\.mlp\.up_proj.*NaN",
            **{**pair, "base": AutoModelForCausalLM.from_pretrained(pair["base"]), "tuned": model},
        )  # fmt: skip

    def test_no_data(self, pair, tmp_path):
        self.refused(tmp_path, DataError, "--honesty FILE", base=pair["base"], tuned=pair["tuned"])

    def test_bad_data(self, pair, tmp_path):
        bad = write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "w1", "response": "w2"}] * 2)
        bad.write_text(bad.read_text() + "{oops\n")
        self.refused(tmp_path, DataError, "bad.jsonl.*line 3", **{**pair, "task": bad})

    def test_statistics_of_another_pair(self, pair, tmp_path, statistics):
        other = perturbed(make("llama", seed=5))
        other.save_pretrained(tmp_path / "other")
        tokenizer().save_pretrained(tmp_path / "other")
        for role in ("base", "tuned"):
            arguments = {"base": pair["base"], "tuned": pair["tuned"], role: tmp_path / "other"}
            self.refused(tmp_path, StatisticsError, f"another {role} model.*fingerprint",
                         statistics=statistics["output"], **arguments)  # fmt: skip

    def test_statistics_that_do_not_fit(self, pair, tmp_path, statistics):
        paths = {"base": pair["base"], "tuned": pair["tuned"]}
        for settings, match in (
            ({"axis": "input"}, "--axis output"),
            ({"fisher_at": "base"}, "--fisher-at tuned"),
            ({"hessian_at": "tuned"}, "--hessian-at base"),
            ({"ignore": ("up_proj",)}, "--targets and --ignore"),
        ):
            self.refused(tmp_path, StatisticsError, match, statistics=statistics["output"],
                         config=config(**settings), **paths)  # fmt: skip
        other = write_jsonl(tmp_path / "other.jsonl", TASK[::-1])
        self.refused(tmp_path, StatisticsError, "other task samples", task=other,
                     statistics=statistics["output"], **paths)  # fmt: skip

    def test_statistics_without_the_curvature_that_is_needed(self, pair, tmp_path):
        paths = {"base": pair["base"], "tuned": pair["tuned"]}
        lean = hcnr.measure(**pair, config=config(compensation="none"))
        self.refused(tmp_path, StatisticsError, "no honesty curvature of model.*--all-hessians",
                     statistics=lean, **paths)  # fmt: skip
        one_sided = hcnr.measure(**pair, config=config())
        self.refused(tmp_path, StatisticsError, "no task curvature of model", statistics=one_sided,
                     config=config(compensation="balanced"), **paths)  # fmt: skip

    def test_models_of_other_shapes(self, tmp_path):
        self.refused(tmp_path, CheckpointError, "different architectures: llama .* phi3",
                     base=make("llama"), tuned=make("phi3"), honesty=HONESTY, task=TASK,
                     tokenizer=tokenizer())  # fmt: skip

    def test_models_of_different_architectures_with_the_same_names(self, tmp_path):
        self.refused(tmp_path, CheckpointError, "llama .* mistral", base=make("llama"),
                     tuned=make("mistral"), honesty=HONESTY, task=TASK,
                     tokenizer=tokenizer())  # fmt: skip
        with pytest.raises(CheckpointError, match=r"llama .* phi3"):
            hcnr.select(None, make("llama"), make("phi3"))  # pyright: ignore[reportArgumentType]

    def test_a_body_without_a_head(self, pair, tmp_path):
        body = AutoModelForCausalLM.from_pretrained(pair["tuned"]).model
        self.refused(tmp_path, HcnrError, "no output head", **{**pair, "tuned": body})

    def test_the_output_must_not_replace_what_is_read(self, pair, tmp_path):
        old = hcnr.restore(**pair, out=tmp_path / "old", config=config())
        data = write_jsonl(old / "honesty.jsonl", HONESTY)
        self.refused(tmp_path, OutputError, "holds the input", **{**pair, "honesty": data},
                     out=old, overwrite=True)  # fmt: skip
        models = {r: AutoModelForCausalLM.from_pretrained(pair[r]) for r in ("base", "tuned")}
        self.refused(tmp_path, OutputError, "the input itself", out=pair["tuned"],
                     overwrite=True, **models, honesty=HONESTY, task=TASK)  # fmt: skip

    def test_settings_a_model_in_memory_cannot_follow(self, tmp_path):
        self.refused(tmp_path, HcnrError, "dtype is 'bfloat16' but .* in memory",
                     base=make("llama"), tuned=perturbed(make("llama")), honesty=HONESTY,
                     task=TASK, tokenizer=tokenizer(), config=config(dtype="bfloat16"))  # fmt: skip

    def test_an_unknown_device_is_found_first(self, pair, tmp_path, statistics):
        self.refused(tmp_path, HcnrError, "tpu", base=pair["base"], tuned=pair["tuned"],
                     statistics=statistics["output"], config=config(device="tpu"))  # fmt: skip

    def test_statistics_of_a_pair_that_differs_outside_the_targets(self, pair, tmp_path):
        narrow = config(targets=("q_proj",), compensation="none")
        statistics = hcnr.measure(**pair, config=narrow)
        model: Any = AutoModelForCausalLM.from_pretrained(pair["tuned"])
        model.model.embed_tokens.weight.data.mul_(2)
        model.save_pretrained(tmp_path / "other")
        self.refused(tmp_path, StatisticsError, "another tuned model", base=pair["base"],
                     tuned=tmp_path / "other", statistics=statistics, config=narrow)  # fmt: skip

    def test_the_same_samples_twice(self, pair, tmp_path):
        self.refused(tmp_path, DataError, "are the same samples",
                     **{**pair, "task": pair["honesty"]})  # fmt: skip

    def test_a_pair_without_a_difference(self, pair, tmp_path):
        self.refused(tmp_path, CheckpointError, "have the same weights: there is nothing to repair",
                     **{**pair, "base": pair["tuned"]})  # fmt: skip

    def test_a_swapped_pair_with_statistics(self, pair, tmp_path, statistics):
        self.refused(tmp_path, StatisticsError, "base and tuned are swapped", base=pair["tuned"],
                     tuned=pair["base"], statistics=statistics["output"])  # fmt: skip

    def test_neither_path_nor_model(self, pair, tmp_path):
        self.refused(tmp_path, HcnrError, "a dict is neither", **{**pair, "base": {}})
