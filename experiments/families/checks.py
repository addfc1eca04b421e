"""One family: a tiny random pair is repaired, and everything about the result is compared."""

import copy
import re
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import hcnr
from experiments.families.oracle import fisher, rows_of, runs
from experiments.families.tiny import tiny, words
from hcnr.errors import HcnrError
from hcnr.models.directory import DirectorySource
from hcnr.models.linear import kind_of
from hcnr.models.model import open_model

TOLERANCE = {"float64": 1e-3, "float32": 1e-2}
"""Relative error of the scores of a matrix, by the dtype of the loop that they are compared with;
what is measured runs in float32."""
FLOOR = 1e-6
"""Share of the largest norm of scores below which a matrix' own are rounding."""
CURES = 8
"""Refusals that are followed, each by the option that it names, before it is the result."""
LARGEST = 60_000_000
"""Parameters of what still counts as tiny."""
HONESTY = [
    {"prompt": " ".join(f"w{(i + 7 * k) % 60}" for k in range(3 + i % 3)),
     "response": f"w{i % 5} w{i % 3}"}
    for i in range(9)
]  # fmt: skip
TASK = [
    {"prompt": " ".join(f"w{(2 * i + 5 * k) % 60}" for k in range(2 + i % 4)),
     "response": f"w{i + 20}"}
    for i in range(9)
]  # fmt: skip


class Difference(Exception):
    """Something came out other than it must."""


def check(name: str, kind: Any) -> dict[str, Any]:
    """Build, run and repair the tiny model of a family.

    Returns:
        `family`, `class`, `result` (`exact`, `refused`, `not run`, `different`, `traceback`),
        `options` that refusals named and that were followed, `note`, and what was measured.
    """
    row: dict[str, Any] = {"family": name, "class": kind.__name__, "options": {}, "note": ""}
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        try:
            model = built(kind)
            # In a copy: some keep what they computed (RecurrentGemma), which cannot be copied.
            row["loop"] = runs(copy.deepcopy(model), rows_of(HONESTY, words()))
        except Exception as error:  # whatever a family's own code raises
            return {**row, "result": "not run", "note": _line(error, directory)}
        try:
            tuned = saved(model, root)
            row.update(repaired(root, tuned, row["options"], row["loop"]), result="exact")
        except HcnrError as error:
            row.update(result="refused", note=_line(error, directory, bare=True))
        except Difference as error:
            row.update(result="different", note=str(error))
        except Exception as error:  # a row of the table, and a fault of ours
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = _line(error, directory)
            at = f"{Path(where.filename).name}:{where.lineno}"
            row.update(result="traceback", note=f"{text} ({at})")
    return row


def built(kind: Any) -> Any:
    """The random base model of a family.

    Raises:
        ValueError: it is not tiny.
    """
    torch.manual_seed(0)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in kind(tiny(kind.config_class)).parameters())
    if size > LARGEST:
        raise ValueError(f"it has {size / 1e6:.0f} million parameters")
    model = kind(tiny(kind.config_class)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    _blank_padding(model)
    return model


def saved(model: Any, root: Path) -> Any:
    """Write `base` and `tuned` below `root`; returns the latter."""
    tuned = copy.deepcopy(model)
    for parameter in tuned.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    _blank_padding(tuned)
    for name, source in (("base", model), ("tuned", tuned)):
        source.save_pretrained(root / name)
        words().save_pretrained(root / name)
    return tuned


def _blank_padding(model: Any) -> None:
    """Zero the rows of padding, as training leaves them and some models load them (Youtu)."""
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            module.weight.data[module.padding_idx] = 0


def repaired(root: Path, model: Any, options: dict[str, Any], loop: str) -> dict[str, Any]:
    """Measure and restore, from directories and from memory, and compare.

    Args:
        root: holds `base` and `tuned`.
        model: tuned, in memory.
        options: filled with what refusals name as their cure.
        loop: dtype of the oracle.

    Returns:
        Facts of the row.
    """
    base, tuned = root / "base", root / "tuned"
    while True:
        config = hcnr.RestoreConfig(
            compensation="joint", cross_weight_ratio=1.0, task_weight=1.0, samples=9, device="cpu",
            token_budget=options.get("token_budget", 64), ignore=tuple(options.get("ignore", ())),
        )  # fmt: skip
        try:
            statistics = hcnr.measure(base, tuned, HONESTY, TASK, config, tokenizer=words())
            break
        except HcnrError as error:
            if not _follow(str(error), options):
                raise
    error = scores_differ(statistics, model, loop)
    out = hcnr.restore(base, tuned, out=root / "out", config=config, statistics=statistics)
    ours, theirs = (open_model(path, device="cpu") for path in (base, tuned))
    # The statistics' fingerprints are those of the models in memory too, or they are refused.
    restored = hcnr.restore(ours, theirs, config=config, statistics=statistics)
    before, after = DirectorySource(tuned), DirectorySource(Path(out))
    bytes_differ(before, after, restored, statistics)
    reach = before.reach
    return {
        "matrices": len(statistics.matrices),
        "kinds": list(dict.fromkeys(map(kind_of, statistics.matrices))),
        "left": len(statistics.left),
        "out_of_reach": None if reach is None else round(reach.share, 3),
        "error": float(f"{error:.1e}"),
    }


def _follow(text: str, options: dict[str, Any]) -> bool:
    """Take up the option that a refusal names; False where there is none, or none new."""
    ignored: list[str] = options.get("ignore", [])
    if named := re.search(r"(?:--ignore |ignore=\[)'([^']+)'", text):
        new = [pattern for pattern in named[1].split(",") if pattern not in ignored]
        if new and len(ignored) < CURES and "--token-budget 1" not in text:
            options["ignore"] = [*ignored, *new]
            return True
    if "--token-budget 1" in text and options.get("token_budget") != 1:
        options["token_budget"] = 1
        return True
    return False


def scores_differ(statistics: Any, model: Any, loop: str) -> float:
    """Largest relative error of a matrix' scores against the loop over samples.

    Raises:
        Difference: naming the matrix.
    """
    worst = 0.0
    for data, records in (("honesty", HONESTY), ("task", TASK)):
        measured: Mapping[str, torch.Tensor] = statistics.scores[data]
        exact = fisher(model, measured, rows_of(records, words()), getattr(torch, loop))
        least = FLOOR * max(float(one.norm()) for one in exact.values())
        for name, scores in measured.items():
            error = float((scores.double() - exact[name]).norm()) / max(
                float(exact[name].norm()), least
            )
            if not error <= TOLERANCE[loop]:
                raise Difference(f"the {data} scores of {name} are {error:.1%} off the {loop} loop")
            worst = max(worst, error)
    return worst


def bytes_differ(before: Any, after: Any, restored: Any, statistics: Any) -> None:
    """Compare the written result with tuned and with the one made in memory.

    Raises:
        Difference: naming the tensor.
    """
    if list(after.checkpoint.tensors) != list(before.checkpoint.tensors):
        raise Difference("the output's tensors have other names than tuned's")
    parameters = dict(restored.named_parameters())
    held: dict[str, list[str]] = {}
    for matrix in statistics.matrices:
        weight = f"{matrix}.weight"
        held.setdefault(weight if weight in parameters else matrix.rpartition(".")[0], []).append(
            matrix
        )
    for name in before.parameters:
        own, written = before.parameter(name), after.parameter(name)
        if own is None or written is None or own.dtype != written.dtype:
            raise Difference(f"{name} is not stored as in tuned")
        if name in parameters and not torch.equal(written, parameters[name]):
            raise Difference(f"{name} differs between the directory and the model in memory")
        if name not in held and not torch.equal(own, written):
            raise Difference(f"{name} is no target and differs from tuned")
    changed = 0
    for matrix in statistics.matrices:
        own, written = before.weight(matrix), after.weight(matrix)
        rows = int((own != written).any(1).sum())
        if rows > (len(own) + 1) // 2:
            raise Difference(f"{rows} of {len(own)} rows of {matrix} were changed")
        changed += rows
    if not changed:
        raise Difference("nothing was changed")


def _line(error: Exception, directory: str, bare: bool = False) -> str:
    text = " ".join(str(error).replace(directory, "").split())
    text = text if len(text) <= 300 else f"{text[:300]}..."
    return text if bare else f"{type(error).__name__}: {text}"
