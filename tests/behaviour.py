"""What hcnr writes and prints, as hashes: two revisions that behave alike print the same.

    PYTHONPATH=tests:tests/support python tests/behaviour.py before.json      # in one checkout
    PYTHONPATH=tests:tests/support python tests/behaviour.py after.json --against before.json

Restored directories of every kind along both axes, their reports and cards, statistics, sweeps, and
every page of help. Hashes hold on one machine, whose processor decides the last bits of sums, so
none are kept in the repository. Seconds, versions and places are left out.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import hcnr
from pairs import write_pair

KINDS = ("none", "sum", "joint", "balanced", "spectral", "natural", "spectral+natural")
COMMANDS = (
    "", "restore", "measure", "sweep", "evaluate", "probe", "plan", "report", "run", "init",
    "data build", "data make", "chat", "push", "demo", "info", "apply",
)  # fmt: skip
SETTINGS: dict[str, Any] = {"samples": 4, "token_budget": 64, "task_weight": 1.0, "steps": 1}
UNSTABLE = {"seconds", "versions", "base", "tuned", "source", "sources", "date", "command"}
"""Keys of reports whose values another run or place changes."""


def stable(value: Any) -> Any:
    """A report without what another run or place changes."""
    if isinstance(value, dict):
        return {key: stable(one) for key, one in value.items() if key not in UNSTABLE}
    if isinstance(value, list):
        return [stable(one) for one in value]
    # The sequence of two kinds was once written with a comma.
    return (
        value.replace("spectral,natural", "spectral+natural") if isinstance(value, str) else value
    )


def digest(content: bytes | str) -> str:
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:16]


def of_directory(directory: Path, root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(directory.iterdir()):
        if path.suffix == ".json" and path.name.startswith("hcnr"):
            content: bytes | str = json.dumps(stable(json.loads(path.read_text())), sort_keys=True)
        elif path.suffix in (".md", ".yaml"):
            text = path.read_text().replace(str(root), "ROOT")
            content = text.replace("spectral,natural", "spectral+natural")
        else:
            content = path.read_bytes()
        yield path.name, digest(content)


def restorations(root: Path) -> Iterator[tuple[str, str]]:
    pair: dict[str, Any] = dict(write_pair(root))
    for axis in ("output", "input"):
        for kind in KINDS:
            config = hcnr.RestoreConfig(compensation=kind, axis=axis, **SETTINGS)
            out = hcnr.restore(**pair, out=root / f"{axis}-{kind}", config=config)
            for name, found in of_directory(out, root):
                yield f"restore/{axis}/{kind}/{name}", found
        config = hcnr.RestoreConfig(
            compensation="balanced", axis=axis, all_hessians=True, **SETTINGS
        )
        statistics = hcnr.measure(**pair, config=config)
        for group in ("scores", "halves", "hessians"):
            for data_set, by_matrix in getattr(statistics, group).items():
                content = b"".join(one.numpy().tobytes() for one in by_matrix.values())
                yield f"measure/{axis}/{group}/{data_set}", digest(content)
    mixed = hcnr.RestoreConfig(compensation="interpolate", coefficient=0.25, **SETTINGS)
    out = hcnr.restore(**pair, out=root / "mixed", config=mixed)
    for name, found in of_directory(out, root):
        yield f"restore/interpolate/{name}", found
    sweep = hcnr.sweep(
        **pair,
        evaluate=lambda model: hcnr.Scores(50.0, 0.0, 50.0),
        grid=hcnr.Grid((0.5,), (0.4,), ("sum", "spectral"), (1.0,)),
        config=hcnr.RestoreConfig(**SETTINGS),
        coefficients=(0.5,),
    )
    found = {
        key: one for key, one in stable(sweep.as_dict()).items() if key not in ("cost", "pair")
    }
    for one in found.get("candidates", []):
        one.pop("cost", None)
    yield "sweep", digest(json.dumps(found, sort_keys=True, default=str))


def pages() -> Iterator[tuple[str, str]]:
    for command in COMMANDS:
        shown = subprocess.run(
            [sys.executable, "-m", "hcnr", *command.split(), "--help"],
            capture_output=True, text=True, check=False,
            env={"COLUMNS": "100", "NO_COLOR": "1", "PATH": "", "PYTHONPATH": ":".join(sys.path)},
        )  # fmt: skip
        text = re.sub(r"spectral,natural", "spectral+natural", shown.stdout)
        yield f"help/{command or 'hcnr'}", digest(text)


def main() -> int:
    """Write the hashes; with `--against` say what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        found = {**dict(restorations(Path(place))), **dict(pages())}
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    if given.against is None:
        print(f"{len(found)} hashes written to {given.out}")
        return 0
    other = json.loads(given.against.read_text())
    names = sorted({*found, *other})
    differing = [name for name in names if found.get(name) != other.get(name)]
    for name in differing:
        print(f"differs: {name}")
    print(f"{len(names) - len(differing)} of {len(names)} are the same")
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
