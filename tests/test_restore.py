import copy
import hashlib
import json
import weakref
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

import hcnr
from families import FAMILIES, make, perturbed
from hcnr.checkpoint import Checkpoint
from hcnr.errors import CheckpointError, DataError, HcnrError, OutputError, StatisticsError
from hcnr.model import open_model
from pairs import HONESTY, TASK, tokenizer, write_jsonl, write_pair

SMALL: dict[str, Any] = {"samples": 8, "token_budget": 64}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def statistics(pair):
    """Everything measured, for the tests that only restore."""
    return {
        axis: hcnr.measure(
            **pair,
            config=hcnr.RestoreConfig(
                axis=axis, compensation="balanced", all_hessians=True, **SMALL
            ),
        )
        for axis in ("output", "input")
    }


def config(**settings: Any):
    return hcnr.RestoreConfig(**{**SMALL, **settings})


def report_of(model) -> dict:
    return model.hcnr_report


def hashes(directory, pattern="*.safetensors"):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.glob(pattern))
    }


def weights(directory):
    checkpoint = Checkpoint.open(directory)
    return {name: checkpoint.load(name) for name in checkpoint.tensors}


def test_the_restored_directory_is_complete_loads_and_generates(pair, tmp_path):
    out = hcnr.restore(**pair, out=tmp_path / "out", config=config())
    assert out == tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert {"README.md", "hcnr_config.yaml", "hcnr_report.json", "config.json",
            "generation_config.json", "tokenizer.json", "tokenizer_config.json",
            "model.safetensors.index.json"} <= names  # fmt: skip
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())
    model: Any = AutoModelForCausalLM.from_pretrained(out)
    ids = AutoTokenizer.from_pretrained(out)("w3 w4", return_tensors="pt").input_ids
    generated = model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert generated.shape == (1, 5)


def test_only_selected_neurons_of_selected_matrices_change(pair, statistics, tmp_path):
    settings = config(compensation="none")
    chosen = hcnr.select(statistics["output"], pair["base"], pair["tuned"], settings)
    out = hcnr.restore(
        pair["base"], pair["tuned"], out=tmp_path / "out", config=settings,
        statistics=statistics["output"],
    )  # fmt: skip
    base, tuned, restored = (weights(d) for d in (pair["base"], pair["tuned"], out))
    assert list(restored) == list(tuned)
    assert 0 < len(chosen.selected) < len(chosen.masks)
    for name in tuned:
        matrix = name.removesuffix(".weight")
        if matrix not in chosen.selected:
            assert torch.equal(restored[name], tuned[name])
            continue
        mask = chosen.masks[matrix]
        assert mask.sum() == mask.shape[0] // 2
        assert torch.equal(restored[name][mask], base[name][mask])
        assert torch.equal(restored[name][~mask], tuned[name][~mask])


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("kind", ["none", "sum", "joint", "balanced"])
def test_nothing_to_restore_gives_tuned_bit_for_bit(pair, statistics, kind, axis, tmp_path):
    for ratios in ({"in_weight_ratio": 0}, {"cross_weight_ratio": 0}):
        out = hcnr.restore(
            pair["base"], pair["tuned"], out=tmp_path / "out", overwrite=True,
            config=config(compensation=kind, axis=axis, **ratios), statistics=statistics[axis],
        )  # fmt: skip
        assert hashes(out) == hashes(pair["tuned"])


@pytest.mark.parametrize("axis", ["output", "input"])
def test_restoring_everything_gives_base_bit_for_bit(pair, statistics, axis, tmp_path):
    out = hcnr.restore(
        pair["base"], pair["tuned"], out=tmp_path / "out", statistics=statistics[axis],
        config=config(
            compensation="none", axis=axis, in_weight_ratio=1, cross_weight_ratio=1
        ),
    )  # fmt: skip
    base, tuned, restored = (weights(d) for d in (pair["base"], pair["tuned"], out))
    for name in tuned:
        matrix = name.removesuffix(".weight")
        wanted = base if matrix in statistics[axis].matrices else tuned
        assert restored[name].view(torch.int32).equal(wanted[name].view(torch.int32)), name


def test_the_written_configuration_gives_the_same_bytes(pair, tmp_path):
    first = hcnr.restore(**pair, out=tmp_path / "a", config=config(axis="input", damping=0.02))
    again = hcnr.RestoreConfig.from_file(first / "hcnr_config.yaml")
    second = hcnr.restore(**pair, out=tmp_path / "b", config=again)
    assert hashes(first) == hashes(second)
    assert (first / "hcnr_config.yaml").read_bytes() == (second / "hcnr_config.yaml").read_bytes()


@pytest.mark.parametrize("kind", ["none", "sum", "joint", "balanced"])
def test_saved_statistics_give_the_same_bytes_without_measuring(pair, tmp_path, kind):
    settings = config(compensation=kind)
    measured = hcnr.measure(**pair, config=settings)
    measured.save(tmp_path / "stats.safetensors")
    first = hcnr.restore(**pair, out=tmp_path / "a", config=settings)
    second = hcnr.restore(
        pair["base"], pair["tuned"], out=tmp_path / "b", config=settings,
        statistics=tmp_path / "stats.safetensors",
    )  # fmt: skip
    assert hashes(first) == hashes(second)
    report = json.loads((second / "hcnr_report.json").read_text())
    assert not any(stage.startswith(("score", "curvature")) for stage in report["seconds"])


def test_models_in_memory_give_the_model_of_the_directories(pair, tmp_path):
    base, tuned = (AutoModelForCausalLM.from_pretrained(pair[r]) for r in ("base", "tuned"))
    before = [copy.deepcopy(m.state_dict()) for m in (base, tuned)]
    tuned.train()
    restored = hcnr.restore(base, tuned, HONESTY, TASK, config=config())
    assert tuned.training
    assert not restored.training
    assert restored is not tuned
    for model, state in zip((base, tuned), before, strict=True):
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name])
        assert all(p.requires_grad for p in model.parameters())
    out = hcnr.restore(**pair, out=tmp_path / "out", config=config())
    written = weights(out)
    for name, value in restored.state_dict().items():
        assert torch.equal(value, written[name]), name
    assert report_of(restored)["summary"]["selected_matrices"] == 6


def test_models_can_be_written_to_a_directory(pair, tmp_path):
    base, tuned = (AutoModelForCausalLM.from_pretrained(pair[r]) for r in ("base", "tuned"))
    out = hcnr.restore(base, tuned, HONESTY, TASK, out=tmp_path / "m", config=config())
    same = hcnr.restore(**pair, out=tmp_path / "d", config=config())
    one, other = weights(out), weights(same)
    assert {n: v.tolist() for n, v in one.items()} == {n: v.tolist() for n, v in other.items()}
    assert AutoTokenizer.from_pretrained(out)("w3").input_ids == [6]
    assert {"README.md", "hcnr_config.yaml", "hcnr_report.json"} <= {p.name for p in out.iterdir()}


def test_directories_without_out_give_a_model(pair):
    restored = hcnr.restore(**pair, config=config())
    assert "hcnr" in report_of(restored)["versions"]


def test_a_model_without_a_known_tokenizer_asks_for_one():
    base = make("llama")
    tuned = perturbed(base)
    with pytest.raises(HcnrError, match=r"pass tokenizer="):
        hcnr.restore(base, tuned, HONESTY, TASK, config=config())
    restored = hcnr.restore(base, tuned, HONESTY, TASK, config=config(), tokenizer=tokenizer())
    assert report_of(restored)["data"]["honesty"]["samples"] == 8


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_survives_the_way_from_disk_to_disk(family, tmp_path):
    pair: Any = write_pair(tmp_path, family=family)
    # AutoTokenizer goes by the model type; this test's tokenizer belongs to none.
    out = hcnr.restore(
        **pair, out=tmp_path / "out", config=config(in_weight_ratio=0.3), tokenizer=tokenizer()
    )
    AutoModelForCausalLM.from_pretrained(out)
    assert hashes(out) != hashes(pair["tuned"])
    assert list(hashes(out)) == list(hashes(pair["tuned"]))


def test_bfloat16_checkpoints_keep_their_dtype(pair, tmp_path):
    for role in ("base", "tuned"):
        model = AutoModelForCausalLM.from_pretrained(pair[role], dtype=torch.bfloat16)
        model.save_pretrained(tmp_path / role)
        tokenizer().save_pretrained(tmp_path / role)
    out = hcnr.restore(
        tmp_path / "base", tmp_path / "tuned", pair["honesty"], pair["task"],
        tmp_path / "out", config(),
    )  # fmt: skip
    assert {value.dtype for value in weights(out).values()} == {torch.bfloat16}


def test_the_report_says_everything_numeric(pair, tmp_path):
    out = hcnr.restore(**pair, out=tmp_path / "out", config=config(compensation="balanced"))
    report = json.loads((out / "hcnr_report.json").read_text())
    summary = report["summary"]
    assert summary["selected_matrices"] == len(report["matrices"]) == 6
    assert summary["target_matrices"] == len(report["perturbation"]) == 14
    assert 0 < summary["mean_half_overlap"] <= 1
    assert report["data"]["honesty"]["samples"] == 8
    assert report["data"]["honesty"]["available"] == 9
    assert {"check the checkpoints", "score honesty", "score task", "select",
            "curvature of honesty", "curvature of task"} <= set(report["seconds"])  # fmt: skip
    for record in report["matrices"]:
        assert record["damping"] >= 0.01
        assert record["condition"] > 1
        assert record["objective"] > 0
        assert record["objective_none"] > 0
        assert record["perturbation"] == pytest.approx(report["perturbation"][record["name"]])
        assert record["rank_deficient"] == (report["data"]["honesty"]["tokens"] < record["neurons"])
        assert record["device"] == "cpu"
    assert report["versions"]["torch"] == torch.__version__
    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"base_model": "tuned", "library_name": "transformers",
                     "pipeline_tag": "text-generation", "tags": ["hcnr"]}  # fmt: skip
    assert "balanced" in card
    assert str(pair["tuned"]) not in card


@pytest.mark.parametrize("axis", ["output", "input"])
def test_compensation_lowers_the_honesty_objective(pair, statistics, axis):
    found = {}
    for kind in ("sum", "joint"):
        model = hcnr.restore(
            pair["base"], pair["tuned"], statistics=statistics[axis],
            config=config(compensation=kind, axis=axis),
        )  # fmt: skip
        found[kind] = report_of(model)["summary"]
    assert found["joint"]["objective"] < found["joint"]["objective_none"]
    assert found["joint"]["objective"] <= found["sum"]["objective"]


def test_balanced_goes_from_joint_to_tuned_with_the_task_weight(pair, statistics):
    def run(**settings):
        model = hcnr.restore(
            pair["base"], pair["tuned"], statistics=statistics["output"],
            config=config(**settings),
        )  # fmt: skip
        return torch.cat([p.flatten() for p in model.parameters()])

    tuned = torch.cat([v.flatten() for v in weights(pair["tuned"]).values()])
    distances = [
        (run(compensation="balanced", task_weight=mu).sort().values - tuned.sort().values).norm()
        for mu in (0.0, 1.0, 1e9)
    ]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-3
    joint = run(compensation="joint")
    close = run(compensation="balanced", task_weight=0)
    torch.testing.assert_close(joint, close, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("recompute", [False, True])
def test_one_model_is_in_memory_at_a_time(pair, tmp_path, monkeypatch, axis, recompute):
    opened, alive = [], []

    def watch(path, **settings):
        alive.append(sum(reference() is not None for reference in opened))
        model = open_model(path, **settings)
        opened.append(weakref.ref(model))
        return model

    monkeypatch.setattr("hcnr.source.open_model", watch)
    settings = config(compensation="balanced", axis=axis, gradient_checkpointing=recompute)
    hcnr.restore(**pair, out=tmp_path / "out", config=settings)
    assert alive == [0, 0]  # tuned for the scores, base for the curvature
    assert opened[1]() is None


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
        self.refused(tmp_path, CheckpointError, "of one architecture|not of base",
                     base=make("llama"), tuned=make("phi3"), honesty=HONESTY, task=TASK,
                     tokenizer=tokenizer())  # fmt: skip

    def test_neither_path_nor_model(self, pair, tmp_path):
        self.refused(tmp_path, HcnrError, "a dict is neither", **{**pair, "base": {}})


def test_vocabulary_and_tied_embeddings_may_differ(pair, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(pair["tuned"])
    model.resize_token_embeddings(70, mean_resizing=False)
    model.save_pretrained(tmp_path / "tuned")
    tokenizer().save_pretrained(tmp_path / "tuned")
    out = hcnr.restore(
        pair["base"], tmp_path / "tuned", pair["honesty"], pair["task"], tmp_path / "out",
        config(),
    )  # fmt: skip
    report = json.loads((out / "hcnr_report.json").read_text())
    assert any("vocabulary" in warning for warning in report["warnings"])
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.get_slice("model.embed_tokens.weight").get_shape()[0] == 70
