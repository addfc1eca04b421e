"""The merge methods inside the real mergekit, against `hcnr restore` and a formula by hand."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import hcnr
import hosts
from pairs import config

command = hosts.load("mergekit", "mergekit.__main__")
main, enable = command.main, command.enable
pytestmark = pytest.mark.filterwarnings("ignore")  # the tool's own


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in directory.glob("*.safetensors"):
        found |= load_file(file)
    return found


def raw(directory: Path) -> dict[str, tuple[torch.dtype, bytes]]:
    return {
        name: (tensor.dtype, tensor.contiguous().view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors(directory).items()
    }


def recipe(folder: Path, pair: dict, method: str = "hcnr", **changes) -> Path:
    content = {
        "merge_method": method,
        "base_model": str(pair["base"]),
        "models": [{"model": str(pair["tuned"])}],
        "parameters": {"statistics": str(folder / "stats.safetensors")},
        **changes,
    }
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("kind", ["none", "sum", "joint", "balanced"])
@pytest.mark.parametrize("axis", ["output", "input"])
def test_every_tensor_is_that_of_restore(pair, statistics, tmp_path, axis, kind):
    statistics[axis].save(tmp_path / "stats.safetensors")
    settings = config(axis=axis, compensation=kind, task_weight=2.0)
    (tmp_path / "settings.yaml").write_text(settings.to_yaml())
    parameters = {
        "statistics": str(tmp_path / "stats.safetensors"),
        "config": str(tmp_path / "settings.yaml"),
    }
    path = recipe(tmp_path, pair, parameters=parameters)
    assert main([str(path), str(tmp_path / "merged"), "--quiet"]) == 0
    hcnr.restore(
        pair["base"], pair["tuned"], out=tmp_path / "restored", config=settings,
        statistics=tmp_path / "stats.safetensors",
    )  # fmt: skip
    merged, tuned = raw(tmp_path / "merged"), raw(pair["tuned"])
    assert merged == raw(tmp_path / "restored")
    assert 0 < sum(merged[name] != tuned[name] for name in tuned) < len(tuned)


def test_without_settings_it_is_the_papers(pair, statistics, tmp_path):
    statistics["output"].save(tmp_path / "stats.safetensors")
    assert main([str(recipe(tmp_path, pair)), str(tmp_path / "merged"), "--quiet"]) == 0
    hcnr.restore(
        pair["base"], pair["tuned"], out=tmp_path / "restored",
        config=hcnr.RestoreConfig.from_preset("paper"),
        statistics=tmp_path / "stats.safetensors",
    )  # fmt: skip
    assert raw(tmp_path / "merged") == raw(tmp_path / "restored")


def test_fisher_is_the_mean_by_scores(pair, statistics, tmp_path):
    measured = statistics["input"]
    measured.save(tmp_path / "stats.safetensors")
    parameters = {"statistics": str(tmp_path / "stats.safetensors"), "task_weight": 3.0}
    path = recipe(tmp_path, pair, "fisher", parameters=parameters)
    assert main([str(path), str(tmp_path / "merged"), "--quiet"]) == 0
    base, tuned, merged = (
        tensors(folder) for folder in (pair["base"], pair["tuned"], tmp_path / "merged")
    )
    changed = {name.removesuffix(".weight") for name in tuned if name.endswith(".weight")}
    assert set(measured.matrices) <= changed
    for key, found in merged.items():
        name = key.removesuffix(".weight")
        if name not in measured.matrices:
            assert torch.equal(found, tuned[key])
            continue
        honesty = measured.scores["honesty"][name].double()
        task = 3 * measured.scores["task"][name].double()
        for column in range(found.shape[1]):
            both = honesty[column] + task[column]
            exact = tuned[key][:, column].double()
            if both > 0:
                exact = (
                    honesty[column] * base[key][:, column].double() + task[column] * exact
                ) / both
            torch.testing.assert_close(found[:, column].double(), exact, rtol=1e-6, atol=1e-8)


def broken(folder: Path, pair: dict, what: str) -> Path:
    if what == "statistics":
        return recipe(folder, pair, parameters={})
    if what == "file":
        return recipe(folder, pair, parameters={"statistics": str(folder / "nowhere")})
    if what == "swapped":
        swapped = {"base": pair["tuned"], "tuned": pair["base"]}
        return recipe(folder, swapped)
    if what == "spectral":
        (folder / "s.yaml").write_text("compensation: spectral\n")
        parameters = {
            "statistics": str(folder / "stats.safetensors"), "config": str(folder / "s.yaml")
        }  # fmt: skip
        return recipe(folder, pair, parameters=parameters)
    if what == "model":
        return recipe(folder, {**pair, "tuned": "nobody/nothing"})
    if what == "nan":
        copy = shutil.copytree(pair["tuned"], folder / "nan")
        file = next(copy.glob("*.safetensors"))
        weights = load_file(file)
        # In a row that the fingerprint, which would be refused first, does not cover.
        next(value for value in weights.values() if value.dim() == 2)[2, 0] = float("nan")
        save_file(weights, file, metadata={"format": "pt"})
        return recipe(folder, {**pair, "tuned": copy})
    if what == "three":
        more = [{"model": str(pair["tuned"])}, {"model": str(folder)}]
        return recipe(folder, pair, models=more)
    path = folder / "recipe.yml"
    path.write_text("merge_method: [")
    return path


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("statistics", "parameters.statistics is None"),
        ("file", "no statistics file at"),
        ("swapped", "base and tuned are swapped"),
        ("spectral", "needs the data"),
        ("model", "is no directory"),
        ("nan", "NaN"),
        ("three", "one tuned model, found 2"),
        ("yaml", "is no recipe of mergekit"),
    ],
)
def test_bad_input_is_one_sentence(pair, statistics, tmp_path, capsys, what, sentence):
    statistics["output"].save(tmp_path / "stats.safetensors")
    assert main([str(broken(tmp_path, pair, what)), str(tmp_path / "out"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weight", [-1, "much"])
def test_a_task_weight_is_a_number(pair, statistics, tmp_path, capsys, weight):
    statistics["output"].save(tmp_path / "stats.safetensors")
    parameters = {"statistics": str(tmp_path / "stats.safetensors"), "task_weight": weight}
    path = recipe(tmp_path, pair, "fisher", parameters=parameters)
    assert main([str(path), str(tmp_path / "out"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert f"task_weight is {weight!r}" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_dtype_that_converts_first_is_refused(pair, statistics, tmp_path, capsys):
    statistics["output"].save(tmp_path / "stats.safetensors")
    path = recipe(tmp_path, pair, dtype="float16")
    assert main([str(path), str(tmp_path / "out"), "--quiet"]) == 2
    assert "leave `dtype` out" in capsys.readouterr().err


def test_enabling_twice_is_harmless():
    enable()
    enable()
