import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import hcnr
from hcnr.config import RestoreConfig
from hcnr.errors import CheckpointError, ConfigError, DataError, ModelError
from hcnr.models.directory import DirectorySource
from hcnr.pipeline.memory import MARGIN
from hcnr.pipeline.rates import Rates, measure_rates
from hcnr.plan import plan_run
from hcnr.record.files.plan import PlanRecord
from hcnr.record.writing import read_report

PAPER = RestoreConfig.from_preset("paper")


def stage(plan, name):
    return next(s for s in plan.stages if s.name == name)


def test_matrices_by_role_and_shape(pair):
    plan = plan_run(pair["base"], pair["tuned"], PAPER)
    assert (plan.matrices, plan.selected) == (14, 6)
    found = {kind.role: (kind.shape, kind.count, kind.candidates) for kind in plan.kinds}
    assert found["q_proj"] == ((24, 24), 2, 12)
    assert found["k_proj"] == ((12, 24), 2, 6)
    assert found["down_proj"] == ((24, 40), 2, 12)
    flipped = plan_run(pair["base"], pair["tuned"], PAPER.replace(axis="input"))
    assert next(k for k in flipped.kinds if k.role == "down_proj").neurons == 40


def test_stages_follow_the_configuration(pair):
    def stages(**settings):
        plan = plan_run(pair["base"], pair["tuned"], PAPER.replace(**settings))
        return [s.name for s in plan.stages]

    head = [
        "read the data", "check the weights", "losses of base and tuned", "score honesty",
        "score task", "select",
    ]  # fmt: skip
    last = ["compensate, merge and write", "losses of restored"]
    assert stages() == [*head, "curvature of honesty", *last]
    assert stages(compensation="none") == head + last
    both = ["curvature of task", "curvature of honesty"]
    assert stages(compensation="balanced", task_weight=1.0) == [*head, *both, *last]
    searching = stages(compensation="balanced", task_weight="auto")
    assert searching == [*head, *both, "search the task weight", *last]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_printed_as_json_is_the_whole_plan_by_one_class(pair, device):
    """A new field of the plan has one of the record, or it would not be printed."""
    plan = plan_run(pair["base"], pair["tuned"], PAPER.replace(device=device))
    record = PlanRecord.model_validate(plan)
    document = json.dumps(record.as_dict(), indent=2)
    assert document == json.dumps(dataclasses.asdict(plan), indent=2)
    assert PlanRecord.of(json.loads(document), "plan.json", "plan again") == record
    damaged = {**json.loads(document), "peak": "much"}
    with pytest.raises(DataError, match="holds a str as 'peak', expected a whole number; plan"):
        PlanRecord.of(damaged, "plan.json", "plan again")


OUTPUTS: dict[str, dict[str, Any]] = {
    "paper": {"compensation": "sum"},
    "plain": {"compensation": "none", "axis": "input"},
    "balanced": {"compensation": "balanced", "task_weight": 2.0},
    "searched": {"compensation": "balanced", "task_weight": "auto", "max_task_drop_percent": 90},
    "default": {"compensation": "spectral", "task_weight": "auto", "max_task_drop_percent": 90},
    "given": {"compensation": "spectral", "task_weight": 1.0},
    "groups": {"compensation": "spectral", "task_weight": 1.0, "memory_budget": 0.0002},
    "neurons in groups": {
        "compensation": "balanced",
        "task_weight": 2.0,
        "memory_budget": 0.0001,
    },
    "searched in groups": {
        "compensation": "balanced",
        "task_weight": "auto",
        "max_task_drop_percent": 90,
        "memory_budget": 0.0001,
    },
    "steps": {"compensation": "spectral+natural", "task_weight": 1.0, "steps": 1},
    "mixed": {"compensation": "interpolate", "coefficient": 0.5},
    "mixed best": {
        "compensation": "interpolate",
        "coefficient": "auto",
        "max_task_drop_percent": 90,
    },
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_run_takes_the_planned_stages(learned, tmp_path, name):
    """By name and in order: the plan prices what the run's clock counts."""
    config = RestoreConfig(samples=16, token_budget=64, **OUTPUTS[name])
    plan = plan_run(learned["base"], learned["tuned"], config)
    hcnr.restore(**learned, out=tmp_path / "out", config=config)
    taken = list(read_report(tmp_path / "out")["seconds"])
    assert taken[0] == "check the checkpoints"
    assert taken[1:] == [stage.name for stage in plan.stages]
    if name.endswith("groups"):
        assert len(plan.groups) == 2


def test_models_are_opened_as_often_as_planned(learned, tmp_path, monkeypatch):
    """One that is held already costs no reading."""
    opened = []
    real = DirectorySource.opened

    def counted(self, *args, **kwargs):
        opened.append(self.path.name)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(DirectorySource, "opened", counted)
    size = {
        role: sum(p.stat().st_size for p in learned[role].glob("*.safetensors"))
        for role in ("base", "tuned")
    }
    names = (
        "paper", "default", "groups", "balanced", "steps", "neurons in groups",
        "searched in groups",
    )  # fmt: skip
    for name in names:
        config = RestoreConfig(samples=16, token_budget=64, **OUTPUTS[name])
        plan = plan_run(learned["base"], learned["tuned"], config)
        opened.clear()
        hcnr.restore(**learned, out=tmp_path / name, config=config)
        models = {"losses", "score", "curvature", "natural", "search"}
        read = sum(s.read for s in plan.stages[:-1] if s.name.split()[0] in models)
        assert read == sum(size[role] for role in opened if role in size), name


def test_blocks_are_what_is_held_and_factorised(pair):
    def planned(size):
        settings = RestoreConfig(compensation="spectral", task_weight=1.0, block_size=size)
        return plan_run(pair["base"], pair["tuned"], settings)

    whole, small = planned(None), planned(4)
    assert planned(40).groups == whole.groups and small.groups[0] < whole.groups[0]
    for name in ("curvature of honesty at base", "factorise"):
        assert planned(40).stages == whole.stages
        assert stage(small, name).flops < stage(whole, name).flops


def test_whole_matrices_are_measured_in_groups(pair):
    def planned(**settings):
        settings = {"task_weight": 1.0, **settings}
        return plan_run(pair["base"], pair["tuned"], RestoreConfig(**settings))

    plan = planned(compensation="spectral")
    assert len(plan.groups) == 1
    assert [(s.name, s.detail) for s in plan.stages[4:]] == [
        ("curvature of honesty at base", "1 pass"),
        ("curvature of task at tuned", "1 pass"),
        ("factorise", ""),
        ("compensate, merge and write", ""),
        ("losses of restored", ""),
    ]
    # A little less does not hold both blocks at once.
    both = planned(compensation="spectral+natural")
    assert len(both.groups) == 1 and both.groups[0] > plan.groups[0]
    budget = 0.99 * both.groups[0] / 2**30
    split = planned(compensation="spectral+natural", memory_budget=budget, steps=2)
    assert len(split.groups) == 2 and max(split.groups) <= budget * 2**30
    assert [(s.name, s.detail) for s in split.stages[4:-2]] == [
        ("curvature of honesty at base", "2 passes"),
        ("curvature of honesty at tuned", "2 passes"),
        ("curvature of task at tuned", "2 passes"),
        ("factorise", ""),
        ("natural steps", "4 passes over the honesty data"),
    ]
    first, twice = (stage(p, p.stages[4].name) for p in (plan, split))
    assert twice.flops > 1.5 * first.flops
    assert plan.kinds[0].candidates == plan.kinds[0].neurons
    searching = planned(compensation="natural", task_weight="auto")
    names = [s.name for s in searching.stages]
    search = names.index("search the task weight")
    assert names[search - 1] == "factorise" and names[search + 1].startswith("natural steps")
    # Each candidate walks as the result does.
    assert searching.stages[search].flops > 8 * 0.9 * searching.stages[search + 1].flops
    with pytest.raises(ConfigError, match="raise --memory-budget"):
        planned(compensation="natural", memory_budget=1e-6)


def test_curvature_along_one_axis_is_measured_in_groups(pair):
    def planned(**settings):
        settings = {"compensation": "balanced", "task_weight": 2.0, **settings}
        return plan_run(pair["base"], pair["tuned"], RestoreConfig(**settings))

    assert planned(compensation="none", memory_budget=1e-6).groups == []
    whole = planned()
    (both,) = whole.groups
    split = planned(memory_budget=0.99 * both / 2**30)
    assert len(split.groups) == 2 and max(split.groups) < both
    name = "curvature of task"
    assert (stage(whole, name).detail, stage(split, name).detail) == ("", "2 passes")
    assert stage(split, name).held < stage(whole, name).held
    assert stage(split, name).flops > 1.5 * stage(whole, name).flops
    # Of each group but the first at least one of the two models has to be loaded.
    curvature = [[s.read for s in p.stages if s.name.startswith("curv")] for p in (whole, split)]
    assert sum(curvature[1]) > sum(curvature[0])
    fewer = planned(memory_budget=0.99 * both / 2**30, cross_weight_ratio=0.4)
    assert len(fewer.groups) == 1
    with pytest.raises(ConfigError, match="raise --memory-budget, or leave the matrix out"):
        planned(memory_budget=1e-6)


def test_bytes_are_those_of_the_files(pair):
    plan = plan_run(pair["base"], pair["tuned"])
    size = {
        role: sum(path.stat().st_size for path in pair[role].glob("*.safetensors"))
        for role in ("base", "tuned")
    }
    assert stage(plan, "check the weights").read == size["base"] + size["tuned"]
    assert stage(plan, "compensate, merge and write").written == size["tuned"]


def test_operations_grow_as_they_should(pair):
    short, long = (
        plan_run(pair["base"], pair["tuned"], PAPER, tokens_per_sample=n) for n in (256, 512)
    )
    assert long.tokens == 2 * short.tokens == 2 * 128 * 256
    name = "score task"
    # 2 flops per weight and token, forward and backward; scores on top.
    weights = 2 * (2 * 24 * 24 + 2 * 12 * 24 + 3 * 24 * 40)
    bare = 2 * 2 * weights * short.tokens
    assert bare < stage(short, name).flops < 2 * bare
    assert stage(long, name).flops > 1.9 * stage(short, name).flops
    everything = plan_run(pair["base"], pair["tuned"], PAPER.replace(cross_weight_ratio=1.0))
    name = "curvature of honesty"
    assert stage(everything, name).held > stage(short, name).held


def test_refusals(pair, tmp_path):
    with pytest.raises(CheckpointError):
        plan_run(pair["base"], tmp_path)
    with pytest.raises(ModelError, match="candidates"):
        plan_run(pair["base"], pair["tuned"], RestoreConfig(targets=("query",)))


def test_what_a_pass_holds_is_counted_and_what_does_not_fit_is_said(pair, monkeypatch):
    monkeypatch.setattr("hcnr.pipeline.memory.free_memory", lambda _: 10**9)
    plan = plan_run(pair["base"], pair["tuned"], PAPER)
    assert plan.memory.backward is not None and plan.memory.forward is not None
    assert plan.memory.backward > plan.memory.forward > 0 and not plan.memory.unknown
    assert plan.memory.batch == (32, 256, 128)
    scoring = stage(plan, "score task")
    assert scoring.held == plan.memory.weights["tuned"] + plan.memory.backward
    assert plan.peak == max(one.held for one in plan.stages) + plan.memory.libraries
    assert "1 GB are free here" in plan.messages[-1]
    smaller = plan_run(pair["base"], pair["tuned"], PAPER.replace(token_budget=256))
    assert smaller.memory.batch == (1, 256, 128) and smaller.peak < plan.peak
    answers = plan_run(pair["base"], pair["tuned"], PAPER, response_tokens=1)
    assert answers.memory.batch == (32, 256, 1)
    monkeypatch.setattr("hcnr.pipeline.memory.free_memory", lambda _: 10**8)
    assert "more than is free" in plan_run(pair["base"], pair["tuned"], PAPER).messages[-1]
    # What fits without a margin may not fit.
    monkeypatch.setattr("hcnr.pipeline.memory.free_memory", lambda _: int(1.1 * plan.peak))
    assert "more than is free" in plan_run(pair["base"], pair["tuned"], PAPER).messages[-1]


def write_8b(root: Path) -> None:
    """Files of the shapes of Llama 3.1 8B that hold nothing but zeros, which take no room."""
    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    for role in ("base", "tuned"):
        config.save_pretrained(root / role)
        end, entries = 0, {}
        for name, value in model.state_dict().items():
            begin, end = end, end + 2 * value.numel()
            shape = list(value.shape)
            entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        header = json.dumps(entries).encode()
        with open(root / role / "model.safetensors", "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            if role == "tuned":
                place = entries["model.layers.0.self_attn.q_proj.weight"]["data_offsets"][0]
                file.seek(place, 1)
                file.write(b"\x00\x3f")
            file.truncate(8 + len(header) + end)


def test_an_8b_model_fits_a_card_of_80_gb_without_options(tmp_path, monkeypatch):
    for module in ("hcnr.pipeline.memory", "hcnr.curvature.groups"):
        monkeypatch.setattr(f"{module}.free_memory", lambda _: 80 * 10**9)
    rates = Rates(products=1e12, pencils=1e12, reading=1e9)
    monkeypatch.setattr("hcnr.plan.measure_rates", lambda *_: rates)
    write_8b(tmp_path)
    places = tmp_path / "base", tmp_path / "tuned"
    plan = plan_run(*places, RestoreConfig(device="cpu"))
    assert plan.memory.batch == (32, 256, 128)
    assert plan.memory.weights["tuned"] == 16_060_522_496
    assert plan.recomputes and plan.memory_budget is not None
    assert max(plan.groups) <= plan.memory_budget * 2**30 < 40e9
    assert MARGIN * plan.peak < 80e9
    assert not any("more than is free" in message for message in plan.messages)
    assert sum("blocks are recomputed" in message for message in plan.messages) == 1
    # On a card where all of it fits nothing is recomputed.
    for module in ("hcnr.pipeline.memory", "hcnr.curvature.groups"):
        monkeypatch.setattr(f"{module}.free_memory", lambda _: 10**12)
    roomy = plan_run(*places, RestoreConfig(device="cpu"))
    assert roomy.memory.backward is not None and 50e9 < roomy.memory.backward < 65e9
    assert not roomy.recomputes and roomy.memory_budget is None
    assert any("kept for backward" in message for message in roomy.messages)


@pytest.mark.parametrize("device", ["xpu", "nonsense"])
def test_a_kind_of_device_that_no_run_takes_is_refused(pair, device):
    with pytest.raises(ModelError, match=device):
        plan_run(pair["base"], pair["tuned"], PAPER.replace(device=device))


def test_weights_count_as_they_are_computed_with(pair):
    def weights(**settings):
        plan = plan_run(pair["base"], pair["tuned"], PAPER.replace(device="cpu", **settings))
        return plan.memory.weights["tuned"]

    assert weights() == weights(dtype="float32") == 2 * weights(dtype="bfloat16")


def test_a_dry_run_that_fails_is_said(pair, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("shapes depend on values")

    monkeypatch.setattr("hcnr.pipeline.memory.footprint", fail)
    plan = plan_run(pair["base"], pair["tuned"], PAPER)
    assert plan.memory.backward is None and plan.peak > 0
    assert any("RuntimeError: shapes depend on values" in one for one in plan.messages)


def test_times_are_those_of_the_rates(pair, monkeypatch):
    rates = Rates(products=1e6, pencils=1e5, reading=1e4)
    monkeypatch.setattr("hcnr.plan.measure_rates", lambda *_: rates)
    plan = plan_run(pair["base"], pair["tuned"], RestoreConfig(task_weight=1.0))
    found = stage(plan, "factorise")
    assert 0 < found.pencils < found.flops
    products = (found.flops - found.pencils) / 1e6
    assert found.seconds == pytest.approx(products + found.pencils / 1e5 + found.read / 1e4)
    assert stage(plan, "check the weights").seconds == stage(plan, "check the weights").read / 1e4
    away = plan_run(pair["base"], pair["tuned"], RestoreConfig(device="cuda:7"))
    assert away.memory.free is None and {one.seconds for one in away.stages} == {None}


def test_rates_are_measured(pair):
    file = next(pair["tuned"].glob("*.safetensors"))
    for block in (None, 8):
        rates = measure_rates(torch.device("cpu"), torch.float32, (24, 40), block, file)
        assert all(0 < rate < 1e15 for rate in rates)
        assert rates.seconds(0, 0, 0) == 0 and rates.seconds(2, 1, 1) > 0
