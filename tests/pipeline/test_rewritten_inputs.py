"""Models that somebody rewrites while they are used: no result is of a mixture of two."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hcnr
from hcnr.choosing.front import Scores
from hcnr.errors import CheckpointError
from hcnr.search.grid import Grid
from pairs import config

GRID = Grid(in_weight=(0.5,), cross_weight=(0.4,), compensation=("none",))


class Rewriting:
    """A watcher that puts one with a bit changed in a weight file's place as a stage begins."""

    def __init__(self, stage: str, directory: Path, pattern: str = "model*.safetensors") -> None:
        self._stage, self._files = stage, sorted(directory.glob(pattern))
        self.done = False

    def begin(self, stage: str) -> None:
        if stage != self._stage:
            return
        self.done = True
        for file in self._files[-1:]:
            content = bytearray(file.read_bytes())
            content[8 + int.from_bytes(content[:8], "little")] ^= 1
            file.with_suffix(".new").write_bytes(content)
            file.with_suffix(".new").replace(file)

    def advance(self, done: int, total: int) -> None: ...


@pytest.fixture
def own(pair, tmp_path) -> dict[str, Any]:
    """A pair that may be changed."""
    models = {role: shutil.copytree(pair[role], tmp_path / role) for role in ("base", "tuned")}
    return {**pair, **models}


def refused(watcher: Rewriting, file: str, work: Callable[[], Any]) -> None:
    with pytest.raises(CheckpointError, match=f"{file}' changed since it was opened"):
        work()
    assert watcher.done


@pytest.mark.parametrize("role", ["base", "tuned"])
@pytest.mark.parametrize("stage", ["score honesty", "compensate, merge and write"])
@pytest.mark.parametrize("out_format", ["full", "patch"])
def test_restoring(own, tmp_path, role, stage, out_format):
    watcher = Rewriting(stage, own[role])
    refused(
        watcher, f"{role}/model-00003-of-00003.safetensors",
        lambda: hcnr.restore(
            **own, out=tmp_path / "out", config=config(), out_format=out_format, watcher=watcher
        ),
    )  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"base", "tuned"}


@pytest.mark.parametrize("role", ["base", "tuned"])
def test_an_adapter(own, tmp_path, role):
    pytest.importorskip("peft", reason="the package peft is not installed")
    watcher = Rewriting("compensate, factorise and write", own[role])
    refused(
        watcher, "model-00003-of-00003.safetensors",
        lambda: hcnr.restore(
            **own, out=tmp_path / "out", config=config(), out_format="adapter", watcher=watcher
        ),
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "stage"),
    [
        ({}, "compensate and merge"),
        ({"compensation": "interpolate", "coefficient": 0.5}, "interpolate"),
    ],
)
def test_a_model_in_memory(own, settings, stage):
    watcher = Rewriting(stage, own["base"])
    refused(
        watcher, "model-00003-of-00003.safetensors",
        lambda: hcnr.restore(**own, config=config(**settings), watcher=watcher),
    )  # fmt: skip


@pytest.mark.parametrize("stage", ["score task", "curvature of honesty"])
def test_measuring(own, stage):
    watcher = Rewriting(stage, own["tuned"])
    refused(
        watcher, "model-00003-of-00003.safetensors",
        lambda: hcnr.measure(**own, config=config(), watcher=watcher),
    )  # fmt: skip


def test_a_sweep(own, tmp_path):
    watcher = Rewriting("candidates", own["base"])
    refused(
        watcher, "model-00003-of-00003.safetensors",
        lambda: hcnr.sweep(
            **own, out=tmp_path / "out", config=config(), grid=GRID, refine=False, coefficients=(),
            evaluate=lambda model: Scores(50, 10, 50), watcher=watcher,
        ),
    )  # fmt: skip
    assert '"complete": false' in (tmp_path / "out" / "sweep.json").read_text()


@pytest.mark.parametrize("which", ["tuned", "patch"])
def test_applying(own, tmp_path, which):
    patch = hcnr.restore(**own, out=tmp_path / "patch", config=config(), out_format="patch")
    watcher = Rewriting("apply the patch", tmp_path / which, "*.safetensors")
    refused(
        watcher, ".safetensors",
        lambda: hcnr.apply_patch(own["tuned"], patch, tmp_path / "out", watcher=watcher),
    )  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"base", "tuned", "patch"}
