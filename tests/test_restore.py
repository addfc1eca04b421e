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
from hcnr.errors import (
    CheckpointError,
    DataError,
    FactorizationError,
    HcnrError,
    OutputError,
    StatisticsError,
)
from hcnr.model import open_model, target_matrices
from hcnr.source import open_source
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
        report = json.loads((out / "hcnr_report.json").read_text())
        assert any(warning.startswith("nothing was restored") for warning in report["warnings"])


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
        tokens = report["data"]["honesty"]["response_tokens"]
        assert record["rank_deficient"] == (tokens < record["neurons"])
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
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    tuned = AutoModelForCausalLM.from_pretrained(pair["tuned"])
    wanted = torch.cat([p.detach().flatten() for p in tuned.parameters()])
    distances = [
        float((run(compensation="balanced", task_weight=mu) - wanted).norm())
        for mu in (0.0, 1.0, 1e9)
    ]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-3
    joint = run(compensation="joint")
    close = run(compensation="balanced", task_weight=0)
    torch.testing.assert_close(joint, close, rtol=1e-3, atol=1e-4)


def test_the_written_configuration_says_how_the_statistics_were_measured(pair, tmp_path):
    measured = config(samples=4, max_length=6)
    statistics = hcnr.measure(**pair, config=measured)
    first = hcnr.restore(pair["base"], pair["tuned"], out=tmp_path / "a", statistics=statistics)
    again = hcnr.RestoreConfig.from_file(first / "hcnr_config.yaml")
    assert (again.samples, again.max_length) == (4, 6)
    second = hcnr.restore(**pair, out=tmp_path / "b", config=again)
    assert hashes(first) == hashes(second)
    report = json.loads((first / "hcnr_report.json").read_text())
    assert report["config"]["samples"] == 4
    assert "samples is 4, as the statistics were measured, not 128" in report["warnings"]


def test_nothing_selected_opens_no_second_model(pair, monkeypatch):
    opened = []

    def watch(path, **settings):
        opened.append(path.name)
        return open_model(path, **settings)

    monkeypatch.setattr("hcnr.source.open_model", watch)
    hcnr.measure(**pair, config=config(cross_weight_ratio=0))
    assert opened == ["tuned"]


def test_damping_that_was_not_raised_is_not_said_to_be(pair, statistics):
    model = hcnr.restore(
        pair["base"], pair["tuned"], statistics=statistics["output"],
        config=config(damping=0.0123456789),
    )  # fmt: skip
    report = report_of(model)
    assert report["summary"]["damping_raised"] == []
    assert {record["damping"] for record in report["matrices"]} == {0.0123456789}


def test_damping_that_was_raised_is_said_to_be(pair, statistics):
    sick = copy.deepcopy(statistics["output"])
    name = hcnr.select(sick, pair["base"], pair["tuned"], config()).selected[0]
    hessian = sick.hessians["honesty"][name]
    hessian.copy_(torch.eye(len(hessian)))
    hessian[0, 0] = -0.03  # indefinite until damping exceeds about 0.03 of the mean diagonal
    paths = {"base": pair["base"], "tuned": pair["tuned"], "statistics": sick}
    report = report_of(hcnr.restore(**paths, config=config()))
    assert report["summary"]["damping_raised"] == [name]
    record = next(r for r in report["matrices"] if r["name"] == name)
    assert record["damping"] == 0.05
    assert any("damping was raised above 0.01 for 1 matrices" in w for w in report["warnings"])
    hessian[0, 0] = -1e6
    with pytest.raises(FactorizationError, match=rf"{name} .*minor \d+ .*largest damping"):
        hcnr.restore(**paths, config=config())
    hessian[0, 0] = float("nan")
    with pytest.raises(FactorizationError, match=rf"{name} holds NaN or infinity"):
        hcnr.restore(**paths, config=config())


def test_a_compensated_weight_that_overflows_is_refused(pair, statistics):
    models: dict[str, Any] = {
        role: AutoModelForCausalLM.from_pretrained(pair[role], dtype=torch.float16)
        for role in ("base", "tuned")
    }
    huge = copy.deepcopy(statistics["output"])
    for role, model in models.items():
        for name in huge.matrices:
            model.get_parameter(f"{name}.weight").data.mul_(6e4 if role == "base" else -1e4)
    huge.fingerprints.update({r: open_source(m).fingerprint() for r, m in models.items()})
    with pytest.raises(FactorizationError, match="overflows float16"):
        hcnr.restore(**models, statistics=huge, config=config(compensation="joint"))


@pytest.mark.parametrize("device", ["mps", "meta", "cuda:63"])
def test_devices_the_operators_do_not_run_on(pair, device):
    with pytest.raises(HcnrError, match=f"device is '{device}'"):
        hcnr.restore(**pair, config=config(device=device))


def test_head_and_embeddings_are_never_targets():
    model: Any = make("llama")
    model.model.layers = model.model.layers[:1]  # fewer blocks than the config says
    names = list(target_matrices(model))
    assert len(names) == 7
    assert all(name.startswith("model.layers.0.") for name in names)
    assert "lm_head" not in target_matrices(make("llama"), targets=["*"])


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
