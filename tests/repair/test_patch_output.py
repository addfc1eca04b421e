"""Results as patches: put on tuned they are the whole checkpoint, to the last byte."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import hcnr
from commands import run
from hcnr.checkpoint import Checkpoint
from hcnr.errors import CheckpointError, ConfigError, DataError, HcnrError, OutputError
from pairs import config, write_pair

PATCH = "hcnr_patch.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HCNR_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A pair in one file each."""
    return write_pair(tmp_path_factory.mktemp("single"), shard_size="1GB")


@pytest.fixture(scope="module")
def made(pair, tmp_path_factory):
    """A patch of few rows of the pair's tuned model; tests leave it as it is."""
    return restored(pair, tmp_path_factory.mktemp("made"), "patch", compensation="none")


def restored(pair, root: Path, out_format: Any, name: str = "", **settings: Any) -> Path:
    return hcnr.restore(
        **pair, out=root / (name or out_format), config=config(**settings), out_format=out_format
    )


def files(directory: Path) -> dict[str, bytes]:
    """Every file by its name; the report without what another run changes."""
    found = {path.name: path.read_bytes() for path in directory.iterdir()}
    report = json.loads(found["hcnr_report.json"])
    for key in ("seconds", "date"):
        report.pop(key)
        report["summary"].pop(key, None)
    found["hcnr_report.json"] = json.dumps(report).encode()
    return found


def assert_round_trip(pair, root: Path, **settings: Any) -> dict[str, Any]:
    """Both forms by the same settings; what the report says of the patch."""
    full = restored(pair, root, "full", **settings)
    patch = restored(pair, root, "patch", **settings)
    assert not list(patch.glob("model*")) and (patch / PATCH).is_file()
    out = hcnr.apply_patch(pair["tuned"], patch, root / "applied")
    assert out == root / "applied"
    assert files(out) == files(full)
    return json.loads((patch / "hcnr_report.json").read_text())["patch"]


@pytest.mark.parametrize("shards", ["one", "many"])
@pytest.mark.parametrize(
    ("settings", "form"),
    [
        ({"compensation": "sum"}, "rows"),
        ({"compensation": "none", "axis": "input"}, "columns"),
        ({"compensation": "spectral", "cross_weight_ratio": 1.0}, "whole"),
        ({"compensation": "interpolate", "coefficient": 0.3}, "whole"),
    ],
    ids=["sum", "none", "spectral", "interpolate"],
)
def test_applied_it_is_the_directory_of_the_full_form(
    pair, single, tmp_path, settings, form, shards
):
    facts = assert_round_trip(single if shards == "one" else pair, tmp_path, **settings)
    assert {one["form"] for one in facts["tensors"].values()} == {form}
    assert facts["tuned"] == "tuned" and facts["stored"] == 21
    index = tmp_path / "applied" / "model.safetensors.index.json"
    assert index.exists() == (shards == "many")


@pytest.mark.parametrize("family", ["gpt2", "mixtral", "gemma3_vision"])
@pytest.mark.parametrize("kind", ["none", "sum"])
def test_transposed_maps_experts_and_names_of_files(tmp_path, family, kind):
    pair = write_pair(tmp_path, family=family)
    assert_round_trip(pair, tmp_path, compensation=kind)


def test_bfloat16_with_wide_tensors_between(pair, tmp_path):
    """Every tensor lies where its dtype may be read without a copy."""
    mixed = {**pair, **{role: halved(pair[role], tmp_path / role) for role in ("base", "tuned")}}
    settings = {"compensation": "interpolate", "coefficient": 0.5, "dtype": "float32"}
    assert_round_trip(mixed, tmp_path, **settings)
    with safe_open(tmp_path / "patch" / PATCH, "pt") as opened:
        kinds = {opened.get_tensor(name).dtype for name in opened.keys()}  # noqa: SIM118
    assert kinds == {torch.float32, torch.bfloat16}
    few = restored(mixed, tmp_path, "patch", "few", compensation="none", dtype="float32")
    with safe_open(few / PATCH, "pt") as opened:
        kinds = {opened.get_tensor(name).dtype for name in opened.keys()}  # noqa: SIM118
    assert kinds == {torch.bfloat16, torch.bool}


def halved(source: Path, place: Path) -> Path:
    """The checkpoint in bfloat16, its norms in float32, with one row less than a multiple of 4."""
    shutil.copytree(source, place, ignore=shutil.ignore_patterns("*.safetensors*"))
    weights = {n: t for f in source.glob("*.safetensors") for n, t in load_file(f).items()}
    save_file(
        {name: t if "norm" in name else t.bfloat16() for name, t in weights.items()},
        place / "model.safetensors", {"format": "pt"},
    )  # fmt: skip
    return place


def test_two_lines_of_torch_put_it_on(pair, made):
    """What docs/checkpoints.md says of the file is all that it needs."""
    weights = {n: t for f in pair["tuned"].glob("*.safetensors") for n, t in load_file(f).items()}
    patch, changed = load_file(made / PATCH), set()
    for name, values in patch.items():
        key, _, form = name.partition("#")
        if form == "rows":
            weights[key][patch[f"{name}.mask"]] = values
        elif form == "columns":
            weights[key].transpose(-1, -2)[patch[f"{name}.mask"]] = values
        elif not form:
            weights[key] = values
        changed.add(key)
    full = Checkpoint.open(hcnr.apply_patch(pair["tuned"], made, made.parent / "full"))
    for name, weight in weights.items():
        assert torch.equal(weight, full.load(name))
    report = json.loads((made / "hcnr_report.json").read_text())
    assert changed == {f"{one['name']}.weight" for one in report["matrices"]}
    with safe_open(made / PATCH, "pt") as opened:
        facts = opened.metadata()
    fingerprint = report["pair"]["fingerprints"]["tuned"]
    assert facts["tuned_fingerprint"] == fingerprint == report["patch"]["fingerprint"]


def test_small_where_little_changed_and_the_sentence_says_it(pair, made, capsys):
    size = (made / PATCH).stat().st_size
    facts = json.loads((made / "hcnr_report.json").read_text())["patch"]
    assert facts["nbytes"] == size < 0.5 * facts["checkpoint_nbytes"]
    assert {one["form"] for one in facts["tensors"].values()} == {"rows"}
    card = (made / "README.md").read_text()
    assert "library_name: hcnr" in card and "- patch" in card and "hcnr apply TUNED" in card
    count = len(facts["tensors"])
    assert f"changes {count} of 21 tensors ({count} by rows)" in card
    assert "as good" not in card
    whole = (made / "hcnr_card.md").read_text()
    assert "library_name: transformers" in whole and "patch" not in whole


def test_what_is_as_large_as_the_checkpoint_is_told(pair, tmp_path):
    arguments = [pair["base"], pair["tuned"], "--honesty", pair["honesty"], "--task", pair["task"]]
    arguments += ["--compensation", "interpolate", "--coefficient", "0.3", "--device", "cpu"]
    shown = run("restore", *arguments, "--out", tmp_path / "p", "--out-format", "patch")
    said = " ".join(shown.stdout.split())
    assert "the patch on tuned changes 21 of 21 tensors (21 whole)" in said
    assert "the whole checkpoint is as good (--out-format full)" in said
    applied = run("apply", pair["tuned"], tmp_path / "p", "--out", tmp_path / "out")
    assert f"written: {tmp_path / 'out'}" in applied.stdout
    again = ["apply", pair["tuned"], tmp_path / "p", "--out", tmp_path / "out"]
    assert "pass --overwrite" in run(*again, code=2).stderr
    shown = run(*again, "--overwrite", "--json").stdout
    assert json.loads(shown) == {"written": str(tmp_path / "out")}


def test_losses_of_a_patch_are_those_of_what_it_makes(learned, tmp_path):
    """Blocks that are read when they run are read with the patch on them."""
    verdicts = {}
    for name in ("whole", "disk"):
        settings: dict[str, Any] = {} if name == "whole" else {"device_map": "disk"}
        settings |= {"compensation": "spectral", "cross_weight_ratio": 1.0, "samples": 16}
        assert_round_trip(learned, tmp_path / name, **settings)
        report = json.loads((tmp_path / name / "patch" / "hcnr_report.json").read_text())
        verdicts[name] = report["verdict"]
    assert verdicts["whole"] == verdicts["disk"]


def test_on_an_adapter_and_on_a_quantised_model(pair, tmp_path):
    pytest.importorskip("peft", reason="the package peft is not installed")
    from adapters import lora, write_adapter
    from quantised import write_quantised

    adapter = write_adapter(pair["base"], tmp_path / "lora", lora(target_modules="all-linear"))
    assert_round_trip({**pair, "tuned": adapter}, tmp_path / "a")
    # Where it names no base that is there, BASE says what it is merged into.
    moved = shutil.copytree(pair["base"], tmp_path / "moved")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tmp_path / "gone")
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="is not there"):
        hcnr.apply_patch(adapter, tmp_path / "a" / "patch", tmp_path / "out")
    hcnr.apply_patch(adapter, tmp_path / "a" / "patch", tmp_path / "out", base=moved)
    assert files(tmp_path / "out") == files(tmp_path / "a" / "full")
    with pytest.raises(ConfigError, match="is no adapter, so base"):
        hcnr.apply_patch(pair["tuned"], tmp_path / "a" / "patch", tmp_path / "no", base=moved)
    write_quantised(pair["tuned"], tmp_path / "q", "fp8-blocks")
    assert_round_trip({**pair, "tuned": tmp_path / "q"}, tmp_path / "b", dtype="float32")


def edited(tuned: Path, place: Path, row: int) -> Path:
    """A copy of tuned in which one element of one row is another."""
    shutil.copytree(tuned, place)
    for file in sorted(place.glob("*.safetensors")):
        weights = load_file(file)
        for name, weight in weights.items():
            if name.endswith("0.mlp.up_proj.weight"):
                weight[row, 3] += 1
                save_file(weights, file, {"format": "pt"})
                return place
    raise AssertionError


@pytest.mark.parametrize(
    ("row", "sentence"), [(0, "the fingerprint is"), (3, "some of its weights differ")]
)
def test_another_tuned_is_refused_whatever_row_differs(pair, made, tmp_path, row, sentence):
    other = edited(pair["tuned"], tmp_path / "other", row)
    with pytest.raises(CheckpointError, match=f"made for another TUNED .*{sentence}"):
        hcnr.apply_patch(other, made, tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()
    with pytest.raises(CheckpointError, match="made for another TUNED"):
        hcnr.apply_patch(pair["base"], made, tmp_path / "out")


def test_another_architecture_is_refused(made, tmp_path):
    small = write_pair(tmp_path, family="gpt2")
    with pytest.raises(CheckpointError, match=r"another TUNED .*is not stored there"):
        hcnr.apply_patch(small["tuned"], made, tmp_path / "out")
    wide = write_pair(tmp_path / "wide", family="qwen3")
    with pytest.raises(CheckpointError, match=r"another TUNED .*(does not fit|fingerprint)"):
        hcnr.apply_patch(wide["tuned"], made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def flipped(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(bytes(content))


def test_a_damaged_patch_is_refused_wherever_a_bit_is_flipped(pair, made, tmp_path):
    """Whatever byte of the header or the data it is."""
    copy = shutil.copytree(made, tmp_path / "patch")
    file, whole = copy / PATCH, (made / PATCH).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    used = len(whole[8 : 8 + length].rstrip())
    places = [*range(0, 8), *range(8, 8 + used, max(used // 150, 1))]
    places += [8 + length, len(whole) - 1, (8 + length + len(whole)) // 2]
    for place in places:
        file.write_bytes(whole)
        flipped(file, place)
        with pytest.raises(CheckpointError) as error:
            hcnr.apply_patch(pair["tuned"], copy, tmp_path / "out")
        assert str(error.value).count("\n") == 0
        assert not (tmp_path / "out").exists()
    file.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        hcnr.apply_patch(pair["tuned"], copy, tmp_path / "out")
    assert not list(tmp_path.glob(".out*"))


def rewritten(patch: Path, change: Any) -> None:
    """The patch with other tensors and facts, and the digest of what it held before."""
    tensors = load_file(patch / PATCH)
    with safe_open(patch / PATCH, "pt") as opened:
        facts = dict(opened.metadata())
    change(tensors, facts)
    save_file(tensors, patch / PATCH, facts)


def a_mask_less(tensors, facts):
    tensors.pop(next(name for name in tensors if name.endswith(".mask")))


def values_less(tensors, facts):
    tensors.pop(next(name for name in tensors if name.endswith("#rows")))


def without_facts(tensors, facts):
    facts.pop("tuned_sha256")


def of_a_later_version(tensors, facts):
    facts["hcnr_patch"] = "2"


def more_places(tensors, facts):
    tensors[next(name for name in tensors if name.endswith(".mask"))][:] = True


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (a_mask_less, "does not fit together"),
        (values_less, "a mask of .* and no values"),
        (without_facts, "no tuned_sha256"),
        (of_a_later_version, "format '2', and '1' is read here"),
        (more_places, "is damaged"),
    ],
)
def test_what_does_not_fit_is_refused(pair, made, tmp_path, change, sentence):
    copy = shutil.copytree(made, tmp_path / "patch")
    rewritten(copy, change)
    with pytest.raises(CheckpointError, match=sentence):
        hcnr.apply_patch(pair["tuned"], copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_missing_are_named(pair, made, tmp_path):
    def refused(kind: type[HcnrError], name: str, text: str) -> None:
        copy = shutil.copytree(made, tmp_path / name)
        (copy / name).unlink()
        with pytest.raises(kind, match=text):
            hcnr.apply_patch(pair["tuned"], copy, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    refused(CheckpointError, PATCH, "holds no patch")
    refused(DataError, "hcnr_report.json", "no hcnr_report.json")
    refused(CheckpointError, "hcnr_card.md", "hcnr_card.md")
    refused(CheckpointError, "hcnr_config.yaml", "hcnr_config.yaml")
    with pytest.raises(CheckpointError, match=r"none' does not exist.*hf download"):
        hcnr.apply_patch(pair["tuned"], tmp_path / "none", tmp_path / "out")


def test_nothing_is_replaced_and_nothing_is_left(pair, made, tmp_path, monkeypatch):
    with pytest.raises(OutputError, match=r"inside the input|the input itself"):
        hcnr.apply_patch(pair["tuned"], made, made, overwrite=True)
    with pytest.raises(OutputError, match=r"the input itself|holds the input"):
        hcnr.apply_patch(pair["tuned"], made, pair["tuned"], overwrite=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(OutputError, match="already exists"):
        hcnr.apply_patch(pair["tuned"], made, tmp_path / "out")

    def full(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hcnr.checkpoint.companions.copy_companions", full)
    with pytest.raises(KeyboardInterrupt):
        hcnr.apply_patch(pair["tuned"], made, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["out"]


class Told:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: dict[str, tuple[int, int]] = {}
        self.name = ""

    def begin(self, stage: str) -> None:
        self.name = stage

    def advance(self, done: int, total: int) -> None:
        self.stages[self.name] = done, total


def test_progress_goes_by_bytes_and_one_tensor_is_held(pair, made, tmp_path, monkeypatch):
    told = Told()
    hcnr.apply_patch(pair["tuned"], made, tmp_path / "out", watcher=told)
    total = Checkpoint.open(pair["tuned"]).nbytes
    assert told.stages["apply the patch"] == (total, total)
    checked, of = told.stages["check the weights"]
    assert 0 < checked <= of == total
    assert told.stages["check the patch"][0] <= (made / PATCH).stat().st_size


def test_a_patch_is_no_checkpoint(pair, made, tmp_path):
    with pytest.raises(CheckpointError, match=r"is a patch .*hcnr apply TUNED PATCH"):
        hcnr.restore(pair["base"], made, pair["honesty"], pair["task"], tmp_path / "o", config())
    shown = run("evaluate", made, "--benchmarks", "starter", code=2).stderr
    assert "is a patch" in shown.splitlines()[-1]
    assert "report.html" in run("report", made, "--out", tmp_path / "report.html").stdout


def test_refusals_of_restore(pair, loaded, tmp_path):
    data = pair["honesty"], pair["task"]

    def refused(text: str, tuned: Any = pair["tuned"], **options: Any) -> None:
        given = {"out": tmp_path / "out", "config": config(), "out_format": "patch", **options}
        with pytest.raises(ConfigError, match=text):
            hcnr.restore(pair["base"], tuned, *data, **given)
        assert not (tmp_path / "out").exists()

    refused("out is None", out=None)
    refused("a patch has none", adapter_rank=4)
    refused("is a model in memory", loaded["tuned"], tokenizer=pair["tuned"])
    refused("expected 'full', 'adapter' or 'patch'", out_format="pach")


def test_nothing_changed_is_a_patch_of_nothing(pair, tmp_path):
    facts = assert_round_trip(pair, tmp_path, compensation="none", in_weight_ratio=0.0)
    assert facts["tensors"] == {}


def test_in_memory_a_model_from_what_was_applied_runs(pair, made, tmp_path):
    out = hcnr.apply_patch(pair["tuned"], made, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.num_parameters() > 0
