"""Cheaper forms of the curvature that `spectral` uses, tried on a pair of the real trial.

python -m experiments.curvature_forms --task hotpotqa --data-root DATA --out forms/

Each form is made from the same second moments by leaving part of them out: blocks along both axes,
few directions and the mean of the rest, one axis alone, diagonals, fewer samples. Every form is
given the task weight at which it keeps the same share of the task (bisected on the validation
questions), so that the refusal deltas compare. Nothing here is evaluated on test questions, and
nothing is timed: every form is factorised whole, whatever it would cost by itself.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Optional, cast

import torch
import typer
from torch import Tensor

import hcnr
from experiments.trial.real_recipe import RealRecipe, Task
from experiments.trial.real_testbed import open_real
from experiments.trial.real_world import pretrained
from experiments.trial.testbed import TestBed
from hcnr.checkpoint import atomic_file
from hcnr.curvature.moments import Moments, second_moments
from hcnr.data.samples import load_samples
from hcnr.data.tokens import TokenizedSet, tokenize
from hcnr.demo.laboratory import quiet
from hcnr.demo.training import fixed_threads
from hcnr.models.overlay import Overlay
from hcnr.models.pair import Pair
from hcnr.progress import Stages
from hcnr_kernels import SpectralBasis, spectral_basis

KEPT = 97.0
"""Percent of the fine-tuning's gain in likelihood that every form keeps."""
_TOLERANCE = 0.3
_RANGE = 1e-2, 1e4
_HALVINGS = 10

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Second moments of one axis on the honesty and the task data -> what a form keeps of them."""


@dataclasses.dataclass(frozen=True)
class Form:
    """What is kept of both axes' second moments.

    Attributes:
        name: as printed.
        inputs: of the input axis.
        gradients: of the output axis.
        samples: of each data set.
    """

    name: str
    inputs: Change
    gradients: Change
    samples: int = 128


def whole(honesty: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
    """All of it."""
    return honesty, task


def nothing(honesty: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
    """The identity: the axis has no say."""
    return _identity(honesty), _identity(task)


def diagonals(honesty: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
    """Diagonals alone."""
    return honesty.diagonal().diag(), task.diagonal().diag()


def blocks(size: int) -> Change:
    """Blocks of neighbours along the diagonal."""

    def change(honesty: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        place = torch.arange(len(honesty)) // size
        near = place[:, None] == place
        return honesty * near, task * near

    return change


def directions(rank: int) -> Change:
    """The strongest directions of both together, and the mean of what they leave out."""

    def change(honesty: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        if rank >= len(honesty):
            return honesty, task
        both = honesty / honesty.trace() + task / task.trace()
        span = torch.linalg.eigh(both).eigenvectors[:, -rank:]

        def cut(moment: Tensor) -> Tensor:
            inside = span.T @ moment @ span
            left = (moment.trace() - inside.trace()) / (len(moment) - rank)
            inside.diagonal().sub_(left)
            return torch.addmm(left * _identity(moment), span @ inside, span.T)

        return cut(honesty), cut(task)

    return change


def _identity(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=like.dtype)


FORMS = (
    Form("whole", whole, whole),
    *(Form(f"blocks of {size}", blocks(size), blocks(size)) for size in (512, 256, 128, 64)),
    *(Form(f"{rank} directions", directions(rank), directions(rank)) for rank in (256, 64, 16)),
    Form("inputs whole, gradients in blocks of 64", whole, blocks(64)),
    Form("inputs in blocks of 64, gradients whole", blocks(64), whole),
    Form("inputs alone", whole, nothing),
    Form("gradients alone", nothing, whole),
    Form("diagonals", diagonals, diagonals),
    Form("32 samples", whole, whole, samples=32),
    Form("32 samples, blocks of 128", blocks(128), blocks(128), samples=32),
)


class Bench:
    """One pair with its second moments, and a copy of tuned in which forms are tried."""

    def __init__(self, testbed: TestBed) -> None:
        """Load the pair; nothing is measured yet."""
        self._testbed = testbed
        self._config = hcnr.RestoreConfig(device="cpu", seed=testbed.seed)
        self._pair = Pair.open(testbed.base, testbed.tuned, self._config, Stages())
        self._evaluator = testbed.evaluator("validation")
        self._tuned = testbed.load(testbed.tuned)
        self._moments: dict[tuple[str, int], dict[str, Moments]] = {}

    def try_form(self, form: Form) -> dict[str, Any]:
        """Factorise, find the task weight, and ask; a row of the table."""
        honesty, task = (self._measured(name, form.samples) for name in ("honesty", "task"))
        bases = self._bases(form, honesty, task)
        with Overlay(self._tuned) as overlay:
            weight, tries = self._find_weight(bases, overlay)
            metrics = self._evaluator(self._tuned)
        return {
            "form": form.name,
            "samples": form.samples,
            "task_weight": weight,
            "tries": tries,
            "marks": metrics.as_dict(),
        }

    def _measured(self, data: str, samples: int) -> dict[str, Moments]:
        key = data, samples
        if key not in self._moments:
            # Curvature of honesty at base, of the task at tuned, as `hcnr restore` takes them.
            source = self._pair.base if data == "honesty" else self._pair.tuned
            with source.opened(self._config, computing=True) as model:
                layers = {name: model.get_submodule(name) for name in self._pair.matrices}
                self._moments[key] = second_moments(
                    model,
                    cast(Mapping[str, torch.nn.Linear], layers),
                    self._tokens(data, samples),
                    token_budget=self._config.token_budget,
                )
        return self._moments[key]

    def _tokens(self, data: str, samples: int) -> TokenizedSet:
        file = self._testbed.honesty if data == "honesty" else self._testbed.task
        return tokenize(load_samples(file, limit=samples).samples, self._testbed.tokenizer)

    def _bases(
        self, form: Form, honesty: Mapping[str, Moments], task: Mapping[str, Moments]
    ) -> dict[str, SpectralBasis]:
        found: dict[str, SpectralBasis] = {}
        leaders: dict[str, SpectralBasis] = {}
        for name in self._pair.matrices:
            near, far = honesty[name].dense(), task[name].dense()
            wide, tall = form.inputs(near[0], far[0]), form.gradients(near[1], far[1])
            found[name] = spectral_basis(
                self._delta(name),
                (wide[0], tall[0]),
                (wide[1], tall[1]),
                damping=self._config.damping,
                shared=leaders.get(honesty[name].leader),
                name=name,
            )
            leaders.setdefault(honesty[name].leader, found[name])
        return found

    def _delta(self, name: str) -> Tensor:
        return self._pair.tuned.weight(name).float() - self._pair.base.weight(name).float()

    def _find_weight(
        self, bases: Mapping[str, SpectralBasis], overlay: Overlay
    ) -> tuple[float, list[tuple[float, float]]]:
        """The weight that keeps `KEPT` percent, by halving a range on a log scale."""
        low, high = _RANGE
        tries = []
        for _ in range(_HALVINGS):
            weight = (low * high) ** 0.5
            for name, basis in bases.items():
                base = self._pair.base.weight(name).float()
                overlay.put(f"{name}.weight", base + basis.deviation(weight))
            kept = self._evaluator.retention(self._tuned)
            tries.append((weight, kept))
            if abs(kept - KEPT) < _TOLERANCE:
                break
            low, high = (weight, high) if kept < KEPT else (low, weight)
        return tries[-1][0], tries


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| form | mu | kept, % | delta | refused where it should answer, % |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        metrics = row["marks"]
        lines.append(
            f"| {row['form']} | {row['task_weight']:.3g} | {metrics['retention']:.1f} "
            f"| {metrics['refusal_delta']:+.1f} | {metrics['refusal_answerable']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(
    task: Annotated[str, typer.Option()] = "hotpotqa",
    seed: Annotated[int, typer.Option()] = 0,
    world: Annotated[str, typer.Option()] = "smollm2",
    base: Annotated[Optional[Path], typer.Option()] = None,  # noqa: UP045
    data_root: Annotated[Optional[Path], typer.Option()] = None,  # noqa: UP045
    out: Annotated[Path, typer.Option()] = Path("forms"),
    threads: Annotated[int, typer.Option()] = 1,
) -> None:
    """Try every form; an interrupted run goes on where it stopped."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{world}-{task}-{seed}.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    recipe = RealRecipe.of(cast(Task, task), seed)
    with fixed_threads(threads), quiet():
        testbed = open_real(pretrained(world, base), data_root, recipe, world=world)
        bench = Bench(testbed)
        for form in FORMS:
            if form.name in [row["form"] for row in rows]:
                continue
            rows.append(bench.try_form(form))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
            with atomic_file(file) as temporary:
                temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (out / f"{world}-{task}-{seed}.md").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
