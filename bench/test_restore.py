"""Restoring a 1 GB sharded pair: the write rate over `cp` of the same bytes."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import hcnr
from hcnr.checkpoint import Checkpoint, copy_companions, output_directory, write_weights
from hcnr.curvature.statistics import Statistics
from hcnr.models.directory import DirectorySource

Race = Callable[..., dict[str, float]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bfloat16 Llamas of 0.52 billion parameters, five shards each."""
    root = tmp_path_factory.mktemp("pair")
    config = LlamaConfig(
        hidden_size=1536, intermediate_size=4608, num_hidden_layers=16, num_attention_heads=16,
        num_key_value_heads=16, vocab_size=8192, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(root / "base", max_shard_size="220MB")
    for parameter in model.parameters():
        parameter.data.mul_(1.02)  # more than the rounding of bfloat16
    model.save_pretrained(root / "tuned", max_shard_size="220MB")
    return root / "base", root / "tuned"


def invented(base: Path, tuned: Path) -> Statistics:
    """Statistics of the pair with random scores, so that nothing has to be measured."""
    sources = {"base": DirectorySource(base), "tuned": DirectorySource(tuned)}
    layers = sources["tuned"].matrices(("*",), ())
    generator = torch.Generator().manual_seed(0)
    scores = {
        data_set: {
            name: torch.rand(layer.out_features, generator=generator)
            for name, layer in layers.items()
        }
        for data_set in ("honesty", "task")
    }
    prints = {role: source.fingerprint() for role, source in sources.items()}
    return Statistics("output", scores, {}, fingerprints=prints)


def test_restoring_against_cp(pair: tuple[Path, Path], tmp_path: Path, race: Race) -> None:
    base, tuned = pair
    statistics = invented(base, tuned)
    stored = sum(path.stat().st_size for path in tuned.glob("*.safetensors"))
    assert stored > 0.9e9
    out, copied = tmp_path / "out", tmp_path / "copied"
    config = hcnr.RestoreConfig(compensation="none")

    # Before each what it wrote last goes: pages that are given back are there for the next.
    def restore() -> None:
        shutil.rmtree(out, ignore_errors=True)
        hcnr.restore(base, tuned, out=out, config=config, statistics=statistics)

    two_fifths = config.replace(cross_weight_ratio=0.4)
    selected = hcnr.select(statistics, base, tuned, two_fifths).selected
    source, weights = Checkpoint.open(tuned), DirectorySource(base)
    # Where they lie: reading them into fresh memory is no part of writing.
    replaced = {f"{name}.weight": lambda name=name: weights.view(name) for name in selected}

    def write() -> None:
        shutil.rmtree(out, ignore_errors=True)
        with output_directory(out, inputs=[base, tuned], overwrite=True) as directory:
            write_weights(source, directory, replaced)
            copy_companions(source, directory)

    def cp() -> None:
        shutil.rmtree(copied, ignore_errors=True)
        subprocess.run(["cp", "-r", tuned, copied], check=True)
        for path in copied.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    buffer = memoryview(bytearray(32 << 20))

    def read_both_write_one() -> None:
        for path in base.glob("*.safetensors"):
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
        cp()

    race(
        f"{stored / 1e9:.2f} GB",
        {"write, 40 % of matrices replaced": write, "cp + fsync": cp,
         "whole restore, no compensation": restore, "read both, write one": read_both_write_one},
        rounds=3, processor=True,
    )  # fmt: skip
