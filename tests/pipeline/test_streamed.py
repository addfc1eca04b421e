"""Weights that are read when their block runs: the same bytes, and never more of them at once."""

import os
import sys
from typing import Any

import pytest
import torch
from transformers import LlamaModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel

import hcnr
from bench import streamed
from families import FAMILIES, VOCABULARY, make
from hcnr.config import RestoreConfig
from hcnr.curvature.passes import mean_loss
from hcnr.curvature.scores import score
from hcnr.curvature.selfcheck import check_model
from hcnr.errors import ConfigError, ModelError
from hcnr.models.device_memory import GIB, STREAMED
from hcnr.models.directory import DirectorySource
from hcnr.models.experts import layer_of
from hcnr.models.overlay import Overlay
from hcnr.models.streamed import opening
from hcnr.models.streamed.units import residence
from hcnr.plan import plan_run
from hcnr.record.writing import read_report
from pairs import HONESTY, config, hashes, write_pair
from wholes import data

LOOSE = {"max_task_drop_percent": 90}
CASES: dict[str, dict[str, Any]] = {
    "none": {"compensation": "none"},
    "sum": {"compensation": "sum", "memory_budget": 0.00006},
    "balanced": {"compensation": "balanced", "task_weight": "auto", "axis": "input", **LOOSE},
    "spectral": {"compensation": "spectral", "task_weight": 2.0, "memory_budget": 0.0002},
    "default": {"compensation": "spectral", "task_weight": "auto", **LOOSE},
    "mixed": {"compensation": "interpolate", "coefficient": 0.5},
}
SOME = 0.00004
"""GiB that hold a block of the small pair and what is no block, and not two blocks."""


def settings(**own: Any) -> RestoreConfig:
    return RestoreConfig(**{"samples": 16, "token_budget": 64, "device": "cpu", **own})


@pytest.fixture
def loads(monkeypatch):
    """Bytes of weights that were put into a model and are in it, and the most there were."""
    now, most = {}, []
    before, after = opening._UnitHook.pre_forward, opening._UnitHook.post_forward

    def loaded(self, module, *args, **kwargs):
        found = before(self, module, *args, **kwargs)
        now[self._unit] = sum(p.nbytes for p in module.parameters() if not p.is_meta)
        most.append(sum(now.values()))
        return found

    def let_go(self, module, output):
        found = after(self, module, output)
        assert all(p.is_meta for p in module.parameters())
        now.pop(self._unit)
        return found

    monkeypatch.setattr(opening._UnitHook, "pre_forward", loaded)
    monkeypatch.setattr(opening._UnitHook, "post_forward", let_go)
    return most


@pytest.mark.parametrize("name", CASES)
def test_a_streamed_model_is_restored_to_the_same_bytes(learned, tmp_path, loads, name):
    whole = hcnr.restore(**learned, out=tmp_path / "whole", config=settings(**CASES[name]))
    assert loads == []
    places = {"disk": None} if name == "mixed" else {"disk": None, "auto": SOME}
    for place, most in places.items():
        placed = settings(**CASES[name], device_map=place, max_memory=most)
        out = hcnr.restore(**learned, out=tmp_path / place, config=placed)
        assert hashes(out) == hashes(whole)
        assert read_report(out)["verdict"] == read_report(whole)["verdict"]
        held = residence(DirectorySource(learned["tuned"]).structure, placed)
        assert 0 < max(loads) <= max(held.streamed.values())
        loads.clear()


def openai_gpt() -> OpenAIGPTLMHeadModel:
    """A model whose blocks return lists."""
    torch.manual_seed(0)
    size: dict[str, Any] = {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=VOCABULARY, **size)).eval()


@pytest.mark.parametrize("family", [*sorted(FAMILIES), "openai-gpt"])
def test_every_family_is_measured_the_same(tmp_path, family):
    """Transposed maps, tied heads, several kinds of attention, towers beside the text."""
    (openai_gpt() if family == "openai-gpt" else make(family)).save_pretrained(tmp_path)
    source, samples = DirectorySource(tmp_path), data(HONESTY)
    names = list(source.matrices(("*",), ()))
    found = []
    for place in (None, "disk"):
        with source.opened(config(device_map=place), computing=True) as model:
            layers = {name: layer_of(model, name) for name in names}
            check_model(model, layers, samples, axis="output", token_budget=64)
            scores = score(model, layers, samples, axis="output", token_budget=64)
            loss = mean_loss(model, samples, token_budget=64)
            buffers = {name: value.clone() for name, value in model.named_buffers()}
            found.append((scores.mean, buffers))
            found[-1][0]["loss"] = torch.tensor(loss)
    for before, after in zip(*found, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_bfloat16_and_measured_statistics(learned, tmp_path):
    pair = {key: learned[key] for key in ("base", "tuned", "honesty", "task")}
    files = []
    for place in (None, "disk"):
        own = settings(compensation="sum", dtype="bfloat16", device_map=place, all_hessians=True)
        measured = hcnr.measure(**pair, config=own)
        measured.settings.clear()
        measured.save(file := tmp_path / f"{place}.safetensors")
        files.append(file.read_bytes())
    assert files[0] == files[1]


def test_what_stays_is_what_max_memory_holds(learned):
    structure = DirectorySource(learned["tuned"]).structure
    sizes = residence(structure, settings(device_map="disk")).sizes
    block, total = sizes["model.layers.0"], sum(sizes.values())
    assert block == 4 * (2 * 24 * 24 + 2 * 12 * 24 + 3 * 24 * 40 + 2 * 24)
    assert total == sum(p.nbytes for p in structure.parameters())
    everything = residence(structure, settings(device_map="auto", max_memory=total / GIB))
    assert everything.held == total and everything.streamed == {}
    for room in (total - 4, total - block, 2 * block, block):
        found = residence(structure, settings(device_map="auto", max_memory=room / GIB))
        assert found.streamed and found.held <= room
    assert found.held == block
    with pytest.raises(ConfigError, match=r"and model.layers.0 alone has .* give at least that"):
        residence(structure, settings(device_map="auto", max_memory=(block - 4) / GIB))


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "natural": ({"compensation": "natural"}, {}, "whose steps hold all repaired weights"),
    "coefficient": ({"compensation": "interpolate"}, {}, "give --coefficient a number"),
    "adapter": ({}, {"out_format": "adapter"}, "write the full form"),
    "memory": ({}, {"out": None}, "the result is a model in memory; give out"),
    "little": ({"max_memory": 1e-6}, {}, "alone has"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_refused_before_any_work(learned, tmp_path, monkeypatch, name):
    monkeypatch.setattr("hcnr.pipeline.run.PairRun.__init__", None)
    own, arguments, sentence = REFUSED[name]
    given = {**learned, "out": tmp_path / "out", **arguments}
    with pytest.raises(ConfigError, match=sentence):
        hcnr.restore(**given, config=settings(device_map="disk", **own))
    assert os.listdir(tmp_path) == []


def test_models_in_memory_sweeps_and_several_processes_are_refused(
    learned, loaded, tmp_path, monkeypatch
):
    placed = settings(device_map="auto", compensation="none")
    given = learned["honesty"], learned["task"]
    with pytest.raises(ConfigError, match="is in memory already; give a directory"):
        hcnr.restore(loaded["base"], loaded["tuned"], *given, tmp_path / "out", placed)
    with pytest.raises(ConfigError, match="a sweep puts every candidate into a model in memory"):
        hcnr.sweep(learned["base"], learned["tuned"], *given, evaluate=print, config=placed)
    for own in ({}, {"device_map": "cpu"}):
        with pytest.raises(ConfigError, match="give --device-map auto too"):
            hcnr.measure(learned["base"], learned["tuned"], *given, settings(max_memory=2, **own))
    monkeypatch.setattr("hcnr.ranks.size", lambda: 2)
    with pytest.raises(ConfigError, match="in 2 processes, each of which holds the whole model"):
        hcnr.measure(learned["base"], learned["tuned"], *given, placed)


@pytest.mark.parametrize("compensation", ["sum", "spectral"])
def test_experts_in_one_tensor_are_restored_to_the_same_bytes(tmp_path, compensation):
    """Each is a matrix of its own; a search puts one after the other into its tensor."""
    pair = write_pair(tmp_path, family="mixtral")
    given = [pair[key] for key in ("base", "tuned", "honesty", "task")]
    own: dict[str, Any] = {"compensation": compensation, "cross_weight_ratio": 1.0}
    whole, found = (
        hcnr.restore(*given, out=tmp_path / str(place), config=config(**own, device_map=place))
        for place in (None, "disk")
    )
    assert hashes(whole) == hashes(found)


def test_candidates_of_experts_are_put_into_a_streamed_model(tmp_path):
    pair = write_pair(tmp_path, family="mixtral")
    source, samples = DirectorySource(pair["tuned"]), data(HONESTY)
    names = [n for n in source.matrices(("*",), ()) if ".experts." in n][1::3]
    losses = []
    for place in (None, "disk"):
        with source.opened(config(device_map=place), computing=True) as model:
            found = [mean_loss(model, samples, token_budget=64)]
            with Overlay(model) as overlay:
                for name in names:
                    overlay.put_matrix(name, 2 * overlay.original_matrix(name))
                found.append(mean_loss(model, samples, token_budget=64))
            found.append(mean_loss(model, samples, token_budget=64))
            losses.append(found)
    assert losses[0] == losses[1]
    assert losses[0][0] == losses[0][2] != losses[0][1]


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ({"device_map": "cuda:1", "device": "cpu"}, "a model is on one of them; leave one out"),
        ({"device_map": "the moon"}, "auto, disk, a torch device"),
        ({"device_map": "auto", "max_memory": 0}, "max_memory is 0"),
    ],
)
def test_settings_that_contradict_are_refused(own, sentence):
    with pytest.raises(ConfigError, match=sentence):
        RestoreConfig(**own)


def test_a_device_map_that_is_a_device_is_the_device():
    found = RestoreConfig(device_map="cuda:1", device="auto")
    assert (found.device, found.streams) == ("cuda:1", False)
    assert RestoreConfig(device_map="disk").device == "auto"
    assert found.replace(samples=3) == RestoreConfig(device_map="cuda:1", samples=3)


def test_a_wrong_layer_is_still_found(learned, monkeypatch):
    """The check of every layer hears of weights that are read when their block runs."""
    real = torch.nn.functional.linear
    monkeypatch.setattr(
        "torch.nn.Linear.forward",
        lambda self, x: real(x * 1.5 if self.in_features == 40 else x, self.weight, self.bias),
    )
    pair = {key: learned[key] for key in ("base", "tuned", "honesty", "task")}
    for place in ("disk", None):
        with pytest.raises(ModelError, match=r"mlp.down_proj .* is no plain y = W x \+ b") as told:
            hcnr.measure(**pair, config=settings(compensation="none", device_map=place))
        # What blocks lose that run one by one looks the same.
        assert ("; or leave --device-map out" in str(told.value)) == (place == "disk")


def test_weights_used_outside_of_their_module_are_refused(learned, tmp_path, monkeypatch):
    own = LlamaModel.forward

    def forward(self, *args, **kwargs):
        found = own(self, *args, **kwargs)
        found.last_hidden_state = found.last_hidden_state + self.embed_tokens.weight[0]
        return found

    monkeypatch.setattr(LlamaModel, "forward", forward)
    streams = settings(compensation="none", device_map="disk")
    with pytest.raises(ModelError, match=r"outside of the modules .*leave --device-map out"):
        hcnr.restore(**learned, out=tmp_path / "out", config=streams)


def test_the_plan_counts_what_is_read_and_what_stays(learned):
    def planned(**own):
        place = learned["base"], learned["tuned"]
        return plan_run(*place, settings(compensation="none", token_budget=256, **own))

    whole, disk = planned(), planned(device_map="disk")
    sizes = residence(DirectorySource(learned["tuned"]).structure, settings(device_map="disk"))
    assert disk.memory.weights["tuned"] == max(sizes.sizes.values())
    assert whole.memory.weights["tuned"] == sum(sizes.sizes.values())
    assert whole.memory.streamed["tuned"] == 0 and disk.peak < whole.peak
    (once,), (often,) = (
        [s for s in plan.stages if s.name == "score honesty"] for plan in (whole, disk)
    )
    # One sample of 256 tokens in a micro-batch; each block for forward and for backward.
    assert often.read == 16 * 2 * disk.memory.streamed["tuned"] > once.read
    with pytest.raises(ConfigError, match="natural"):
        plan_run(
            learned["base"], learned["tuned"],
            settings(compensation="natural", device_map="disk"),
        )  # fmt: skip


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="RLIMIT_DATA counts mappings there"
)
def test_a_process_that_may_not_hold_the_weights_gives_the_same_bytes(tmp_path):
    """The short form of `python -m bench.streamed`."""
    streamed.pair(tmp_path / streamed.SMALL, width=64, blocks=2)
    limit = streamed.pair(tmp_path, width=256, blocks=28) // 2
    whole, kept, found = streamed.three(tmp_path, limit, memory_budget=streamed.budget(256))
    assert whole.error == ""
    assert "GiB of weights do not fit on cpu: give a smaller --max-memory" in kept.error
    assert found == whole


def test_no_model_of_a_user_carries_hooks(learned):
    with DirectorySource(learned["tuned"]).opened(config(), computing=True) as model:
        assert STREAMED not in vars(model)
