"""Cheaper forms of the curvature that `spectral` uses, tried on a pair of the real trial.

python -m experiments.curvature_forms --task nq --data-root DATA --out forms/

Each form is made from the same second moments by leaving part of them out: blocks along both axes,
few directions and the mean of the rest, one axis alone, diagonals, fewer samples. Every form is
given the task weight at which it keeps the same share of the task (bisected on the validation
questions), so that the refusal deltas compare. Nothing here is evaluated on test questions, and
nothing is timed: every form is factorised whole, and what it would hold and cost by itself is
counted from the shapes.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional, cast

import torch
import typer
from torch import Tensor

import hcnr
from experiments.paper_figures.page import figure_cells
from experiments.paper_figures.results import figures_of
from experiments.paper_figures.stage import cut_down
from experiments.trial.real_recipe import RealRecipe, Task
from experiments.trial.real_testbed import open_real
from experiments.trial.real_world import pretrained
from experiments.trial.testbed import TestBed
from experiments.trial.within_seed import answerable_digits
from hcnr.checkpoint import atomic_file
from hcnr.cli import run
from hcnr.curvature.moments import Moments, second_moments
from hcnr.data.samples import load_samples
from hcnr.data.tokens import TokenizedSet, tokenize
from hcnr.demo.laboratory import quiet
from hcnr.demo.table import markdown
from hcnr.demo.training import fixed_threads
from hcnr.errors import ConfigError
from hcnr.models.overlay import Overlay
from hcnr.models.pair import Pair
from hcnr.progress import Stages
from hcnr.versions import versions
from hcnr_kernels import SpectralBasis, spectral_basis

KEPT = 97.0
"""Percent of the fine-tuning's gain in likelihood that every form keeps."""
_TOLERANCE = 0.3
_RANGE = 1e-2, 1e4
_HALVINGS = 10

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Second moments of one axis on the honesty and the task data -> what a form keeps of them."""


@dataclasses.dataclass(frozen=True)
class AxisForm:
    """What is kept of one axis' second moments.

    Attributes:
        change: leaves the rest out.
        width: numbers that are kept for each neuron, which is also the side of the eigenvalue
            problems; None for as many as there are neurons.
    """

    change: Change
    width: int | None = None

    def numbers(self, neurons: int) -> int:
        """Numbers that are kept of an axis of so many neurons."""
        return neurons * self._side(neurons)

    def operations(self, neurons: int) -> int:
        """Operations of factorising it, but for a factor that all forms share."""
        return neurons * self._side(neurons) ** 2

    def _side(self, neurons: int) -> int:
        return neurons if self.width is None else min(self.width, neurons)


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
    inputs: AxisForm
    gradients: AxisForm
    samples: int = 128

    def numbers(self, shapes: Iterable[Sequence[int]]) -> int:
        """Numbers that are kept of matrices `(out, in)`, of each data set."""
        return sum(self.gradients.numbers(o) + self.inputs.numbers(i) for o, i in shapes)

    def operations(self, shapes: Iterable[Sequence[int]]) -> int:
        """Operations of factorising them, but for a factor that all forms share."""
        return sum(self.gradients.operations(o) + self.inputs.operations(i) for o, i in shapes)


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
        block = torch.arange(len(honesty)) // size
        same_block = block[:, None] == block
        return honesty * same_block, task * same_block

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


WHOLE, NOTHING, DIAGONALS = AxisForm(whole), AxisForm(nothing, 0), AxisForm(diagonals, 1)


def blocks_of(size: int) -> AxisForm:
    """Blocks of neighbours."""
    return AxisForm(blocks(size), size)


def directions_of(rank: int) -> AxisForm:
    """The strongest directions, and the mean of the rest."""
    return AxisForm(directions(rank), rank)


def _both(name: str, axis: AxisForm, samples: int = 128) -> Form:
    return Form(name, axis, axis, samples)


# What decides most comes first: a run may end early.
FORMS = (
    _both("whole", WHOLE),
    _both("blocks of 128", blocks_of(128)),
    _both("64 directions", directions_of(64)),
    _both("diagonals", DIAGONALS),
    _both("32 samples", WHOLE, samples=32),
    _both("32 samples, blocks of 128", blocks_of(128), samples=32),
    Form("inputs alone", WHOLE, NOTHING),
    Form("gradients alone", NOTHING, WHOLE),
    *(_both(f"blocks of {size}", blocks_of(size)) for size in (64, 512, 256)),
    *(_both(f"{rank} directions", directions_of(rank)) for rank in (256, 16)),
    Form("inputs whole, gradients in blocks of 64", WHOLE, blocks_of(64)),
    Form("inputs in blocks of 64, gradients whole", blocks_of(64), WHOLE),
)


class FormTrial:
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
        """Factorise, find the task weight, and ask; a row of the table.

        Returns:
            Metrics in percent, the delta with its 95 % interval over questions; `held` and
            `operations` over those of the whole second moments.
        """
        honesty, task = (self._measured(name, form.samples) for name in ("honesty", "task"))
        bases = self._bases(form, honesty, task)
        with Overlay(self._tuned) as overlay:
            weight, tries = self._find_weight(bases, overlay)
            metrics = self._evaluator(self._tuned)
        shapes = [self._tuned.get_parameter(f"{name}.weight").shape for name in bases]
        unabridged = _both("whole", WHOLE)
        return {
            "form": form.name,
            "samples": form.samples,
            "task_weight": weight,
            "tries": tries,
            "held": form.numbers(shapes) / unabridged.numbers(shapes),
            "operations": form.operations(shapes) / unabridged.operations(shapes),
            **figures_of(metrics, answerable_digits(self._testbed.question_sets["validation"])),
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
        bases: dict[str, SpectralBasis] = {}
        leaders: dict[str, SpectralBasis] = {}
        for name in self._pair.matrices:
            honesty_moments, task_moments = honesty[name].dense(), task[name].dense()
            inputs, gradients = (
                form.inputs.change(honesty_moments[0], task_moments[0]),
                form.gradients.change(honesty_moments[1], task_moments[1]),
            )
            bases[name] = spectral_basis(
                self._delta(name),
                (inputs[0], gradients[0]),
                (inputs[1], gradients[1]),
                damping=self._config.damping,
                shared=leaders.get(honesty[name].leader),
                name=name,
            )
            leaders.setdefault(honesty[name].leader, bases[name])
        return bases

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


def table(rows: Sequence[Mapping[str, Any]], sets: Sequence[str]) -> str:
    """The rows as Markdown.

    Args:
        rows: of `FormTrial.try_form`.
        sets: honesty sets, each of which gets a column.
    """
    heads = ("form", "samples", "held, %", "operations, %", "mu", "kept", "delta", *sets,
             "ref. ans.", "F1")  # fmt: skip
    lines = [
        (
            [
                row["form"],
                str(row["samples"]),
                f"{100 * row['held']:.3g}",
                f"{100 * row['operations']:.3g}",
                f"{row['task_weight']:.3g}",
                *figure_cells(row, sets),
            ],
            False,
        )
        for row in rows
    ]
    return markdown(heads, lines, [])


def page(rows: Sequence[Mapping[str, Any]], sets: Sequence[str], settings: Sequence[str]) -> str:
    """The table under its command, with what its columns are and what was not run."""
    missing = [form.name for form in FORMS if form.name not in {row["form"] for row in rows}]
    parts = [
        "## Cheaper forms of the curvature that `spectral` uses",
        f"```\npython -m experiments.curvature_forms {' '.join(settings)}\n```",
        "Figures of **validation questions**: nothing is chosen by them and judged again. Each "
        f"form was given the task weight mu at which it keeps {KEPT:g} ±{_TOLERANCE:g} % of the "
        "fine-tuning's gain in likelihood of held-out task answers, so the refusal deltas "
        "compare; brackets are 95 % intervals over the questions (bootstrap), about this one pair "
        "alone. held, operations: numbers that the form keeps of the second moments, and "
        "operations of their eigenvalue problems, counted over the shapes of this model's "
        "matrices; whole second moments are 100. ref. ans.: refusals of answerable questions.",
        table(rows, sets).strip(),
        f"Not run: {'; '.join(missing)}." if missing else "",
        ", ".join(f"{name} {version}" for name, version in versions().items()) + ".",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main(
    task: Annotated[str, typer.Option()] = "hotpotqa",
    seed: Annotated[int, typer.Option()] = 0,
    world: Annotated[str, typer.Option()] = "smollm2",
    base: Annotated[Optional[Path], typer.Option()] = None,  # noqa: UP045
    data_root: Annotated[Optional[Path], typer.Option()] = None,  # noqa: UP045
    out: Annotated[Path, typer.Option()] = Path("forms"),
    sets: Annotated[
        str,
        typer.Option(help="Honesty sets, separated by commas; all that base tells apart if empty."),
    ] = "",
    questions: Annotated[int, typer.Option(min=1, help="Of each class and set.")] = 100,
    task_questions: Annotated[int, typer.Option(min=1)] = 120,
    threads: Annotated[int, typer.Option()] = 1,
) -> None:
    """Try every form; an interrupted run goes on where it stopped."""
    out.mkdir(parents=True, exist_ok=True)
    names = [name.strip() for name in sets.split(",") if name.strip()]
    asked = {"sets": names, "questions": questions, "task_questions": task_questions}
    settings = [f"--world {world} --task {task} --seed {seed} --base PACKAGE --data-root DATA"]
    settings += [f"--sets {','.join(names)}"] if names else []
    settings += [f"--questions {questions} --task-questions {task_questions} --out OUT"]
    file = out / f"{world}-{task}-{seed}.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if kept and kept["asked"] != asked:
        raise ConfigError(
            f"{file} was asked {kept['asked']}, expected {asked}; choose another --out, or the "
            "settings that it was begun with"
        )
    rows = kept.get("rows", [])
    recipe = RealRecipe.of(cast(Task, task), seed)
    with fixed_threads(threads), quiet():
        testbed = open_real(pretrained(world, base), data_root, recipe, world=world)
        testbed = cut_down(testbed, out, names, questions, task_questions)
        honesty_sets = list(testbed.question_sets["validation"].honesty)
        trial = FormTrial(testbed)
        for form in FORMS:
            if form.name in [row["form"] for row in rows]:
                continue
            rows.append(trial.try_form(form))
            print(table(rows[-1:], honesty_sets).splitlines()[-1], flush=True)
            with atomic_file(file, overwrite=True) as temporary:
                content = {"asked": asked, "rows": rows}
                temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            with atomic_file(file.with_suffix(".md"), overwrite=True) as temporary:
                temporary.write_text(page(rows, honesty_sets, settings), encoding="utf-8")


app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command()(main)


if __name__ == "__main__":
    run(app)
