import copy
import importlib.metadata
import json
import shutil
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

import hcnr
from families import FAMILIES, make
from hcnr.checkpoint import Checkpoint
from hcnr.errors import CheckpointError, FactorizationError, HcnrError, OutputError
from hcnr.models.source import open_source
from hcnr.models.targets import target_matrices
from pairs import config, hashes, tensors, tokenizer, write_pair


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


def test_no_output_replaces_what_an_input_reads(pair, tmp_path):
    """The directory of a tokenizer, and files that links of a model lead to."""
    place = shutil.copytree(pair["tuned"], tmp_path / "tokens")
    store, linked = shutil.copytree(pair["base"], tmp_path / "store"), tmp_path / "linked"
    linked.mkdir()
    for file in store.iterdir():
        (linked / file.name).symlink_to(file)
    before = hashes(tmp_path, "*/*")
    cases: list[tuple[Any, dict[str, Any], Any]] = [
        (pair, {"tokenizer": place}, place),
        (pair, {"tokenizer": str(place)}, place),
        ({**pair, "base": linked}, {}, store),
        ({**pair, "base": pair["tuned"], "tuned": linked}, {}, store),
    ]
    for inputs, options, out in cases:
        with pytest.raises(OutputError, match="the input"):
            hcnr.restore(**inputs, **options, out=out, config=config(), overwrite=True)
        assert hashes(tmp_path, "*/*") == before


def test_only_selected_neurons_of_selected_matrices_change(pair, statistics, tmp_path):
    settings = config(compensation="none")
    chosen = hcnr.select(statistics["output"], pair["base"], pair["tuned"], settings)
    out = hcnr.restore(
        pair["base"], pair["tuned"], out=tmp_path / "out", config=settings,
        statistics=statistics["output"],
    )  # fmt: skip
    base, tuned, restored = (tensors(d) for d in (pair["base"], pair["tuned"], out))
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


@pytest.mark.parametrize("compensation", ["sum", "interpolate"])
def test_writing_is_told_in_bytes(pair, tmp_path, compensation):
    told: dict[str, list[tuple[int, int]]] = {}

    class Watcher:
        def begin(self, stage: str) -> None:
            self.told = told.setdefault(stage, [])

        def advance(self, done: int, total: int) -> None:
            self.told.append((done, total))

    settings = config(compensation=compensation, coefficient=0.5)
    hcnr.restore(**pair, out=tmp_path / "out", config=settings, watcher=Watcher())
    writes = next(steps for name, steps in told.items() if name.endswith("and write"))
    total = Checkpoint.open(pair["tuned"]).nbytes
    assert writes[-1] == (total, total) and {of for _, of in writes} == {total}
    assert [done for done, _ in writes] == sorted(done for done, _ in writes)


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
    base, tuned, restored = (tensors(d) for d in (pair["base"], pair["tuned"], out))
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
    assert {value.dtype for value in tensors(out).values()} == {torch.bfloat16}


def test_the_two_checkpoints_may_have_different_dtypes(pair, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(pair["tuned"], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "tuned")
    tokenizer().save_pretrained(tmp_path / "tuned")
    settings = config(in_weight_ratio=1, cross_weight_ratio=1, compensation="none")
    out = hcnr.restore(
        pair["base"], tmp_path / "tuned", pair["honesty"], pair["task"], tmp_path / "out", settings
    )
    base, restored = tensors(pair["base"]), tensors(out)
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(restored[name], base[name].bfloat16())
    report = json.loads((out / "hcnr_report.json").read_text())
    assert any("float32 in base and bfloat16 in tuned" in w for w in report["warnings"])


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
    assert set(report["scores"]) == set(report["perturbation"])
    for found in report["scores"].values():
        for data_set in ("honesty", "task"):
            assert 0 < found[data_set][0] <= found[data_set][4]
    # Not `torch.__version__`, which a build for CUDA ends with `+cu130`.
    assert report["versions"]["torch"] == importlib.metadata.version("torch")
    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    # No local folder's name: `tuned` is none of the hub.
    assert front == {"library_name": "transformers", "pipeline_tag": "text-generation",
                     "tags": ["hcnr"]}  # fmt: skip
    assert "balanced" in card
    assert str(pair["tuned"]) not in card


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["none", "sum", "joint", "balanced", "spectral"])
def test_a_gpu_restores_the_same(pair, tmp_path, kind):
    found = {}
    for device in ("cpu", "cuda"):
        settings = config(compensation=kind, device=device)
        out = hcnr.restore(**pair, out=tmp_path / device, config=settings)
        found[device] = tensors(out)
        report = json.loads((out / "hcnr_report.json").read_text())
        assert {record["device"] for record in report["matrices"]} == {device}
    for name, value in found["cpu"].items():
        assert (found["cuda"][name] - value).norm() <= 1e-3 * value.norm(), name


@pytest.mark.parametrize("axis", ["output", "input"])
def test_compensation_lowers_the_honesty_objective(pair, statistics, axis):
    found = {}
    for kind in ("sum", "joint"):
        model = hcnr.restore(
            pair["base"], pair["tuned"], statistics=statistics[axis],
            config=config(compensation=kind, axis=axis),
        )  # fmt: skip
        found[kind] = model.hcnr_report["summary"]
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
    kind = config(samples=128, max_length=1024)
    first = hcnr.restore(
        pair["base"], pair["tuned"], out=tmp_path / "a", config=kind, statistics=statistics
    )
    again = hcnr.RestoreConfig.from_file(first / "hcnr_config.yaml")
    assert (again.samples, again.max_length) == (4, 6)
    second = hcnr.restore(**pair, out=tmp_path / "b", config=again)
    assert hashes(first) == hashes(second)
    report = json.loads((first / "hcnr_report.json").read_text())
    assert report["config"]["samples"] == 4
    assert "samples is 4, as the statistics were measured, not 128" in report["warnings"]


def test_damping_that_was_not_raised_is_not_said_to_be(pair, statistics):
    model = hcnr.restore(
        pair["base"], pair["tuned"], statistics=statistics["output"],
        config=config(damping=0.0123456789),
    )  # fmt: skip
    report = model.hcnr_report
    assert report["summary"]["damping_raised"] == []
    assert {record["damping"] for record in report["matrices"]} == {0.0123456789}


def test_damping_that_was_raised_is_said_to_be(pair, statistics):
    sick = copy.deepcopy(statistics["output"])
    name = hcnr.select(sick, pair["base"], pair["tuned"], config()).selected[0]
    hessian = sick.hessians["honesty"][name]
    hessian.copy_(torch.eye(len(hessian)))
    hessian[0, 0] = -0.03  # indefinite until damping exceeds about 0.03 of the mean diagonal
    paths = {"base": pair["base"], "tuned": pair["tuned"], "statistics": sick}
    report = hcnr.restore(**paths, config=config()).hcnr_report
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
    with pytest.raises(CheckpointError, match="overflows float16"):
        hcnr.restore(**models, statistics=huge, config=config(compensation="joint"))


def test_base_weights_that_tuned_cannot_hold_are_refused(pair, tmp_path):
    base: Any = AutoModelForCausalLM.from_pretrained(pair["base"])
    for block in base.model.layers:
        block.mlp.up_proj.weight.data.mul_(1e6)
    base.save_pretrained(tmp_path / "base")
    tuned = AutoModelForCausalLM.from_pretrained(pair["tuned"], dtype=torch.float16)
    tuned.save_pretrained(tmp_path / "tuned")
    tokenizer().save_pretrained(tmp_path / "tuned")
    settings = config(
        compensation="none", cross_weight_ratio=1, dtype="float32", targets=("up_proj",)
    )
    with pytest.raises(CheckpointError, match=r"up_proj overflows float16, the dtype of tuned"):
        hcnr.restore(
            tmp_path / "base", tmp_path / "tuned", pair["honesty"], pair["task"],
            tmp_path / "out", settings,
        )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


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
