"""`python -m integrations.mergekit.example`: a merge, and the same by `hcnr restore`."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

import hcnr
from integrations.mergekit.__main__ import main
from integrations.tiny import HONESTY, TASK, write_pair

RECIPE = """\
merge_method: hcnr
base_model: {base}
models:
  - model: {tuned}
parameters:
  statistics: {statistics}
"""


def run() -> None:
    """Merge, restore, compare every tensor."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, tuned = write_pair(folder)
        settings = hcnr.RestoreConfig.from_preset("paper")
        hcnr.measure(base, tuned, HONESTY, TASK, settings).save(folder / "stats.safetensors")
        recipe = folder / "recipe.yml"
        recipe.write_text(
            RECIPE.format(base=base, tuned=tuned, statistics=folder / "stats.safetensors")
        )
        status = main([str(recipe), str(folder / "merged"), "--quiet"])
        assert status == 0, status
        hcnr.restore(
            base, tuned, out=folder / "restored", config=settings,
            statistics=folder / "stats.safetensors",
        )  # fmt: skip
        merged = load_file(folder / "merged" / "model.safetensors")
        restored = load_file(folder / "restored" / "model.safetensors")
        equal = [torch.equal(tensor, restored[name]) for name, tensor in merged.items()]
        print(f"{sum(equal)} of {len(restored)} tensors are those of hcnr restore")


if __name__ == "__main__":
    run()
