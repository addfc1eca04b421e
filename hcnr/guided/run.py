"""Probe, choose, restore, evaluate, report: one run from its recipe, going on where it stopped."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hcnr._version import __version__
from hcnr.checkpoint import atomic_file, check_output
from hcnr.data.samples import data_files
from hcnr.directories import check_outside, make_directory
from hcnr.errors import ConfigError, OutputError
from hcnr.guided import work
from hcnr.guided.changes import at_risk, what_becomes
from hcnr.guided.job import Job, check_questions, overlap_notes, parted, questions_digest
from hcnr.guided.outcome import LEAST_RIGHT, RunOutcome
from hcnr.guided.parts import SAMPLES, digest_of
from hcnr.guided.recipe import FILE, RunRecipe
from hcnr.guided.recipe_file import load_recipe
from hcnr.guided.steps import Steps, contents_of, fingerprint_of
from hcnr.models.pair import Pair
from hcnr.progress import Stages, Watcher
from hcnr.record.front_matter import check_id
from hcnr.versions import versions

PROBED = ("max_length", "chat_template", "token_budget", "attention", "device", "dtype")
"""Settings of measuring that probes have to do with, beside `samples`."""


def run_recipe(
    recipe: RunRecipe,
    out: Path,
    *,
    overwrite: bool = False,
    watcher: Watcher | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> RunOutcome:
    """Run a recipe into a directory, or go on with the run that is there.

    The directory gets `hcnr.yaml` (the recipe), `data/` (the parts of the task samples),
    `probe.json`, `sweep.json`, `model/` (what `restore` writes), `eval/`, `report.html` and
    `steps.json`, by which a further run knows what is finished.

    Args:
        recipe: with absolute paths.
        out: the directory.
        overwrite: whether finished results of another recipe that is there may be replaced; steps
            on the way to them are done again anyway, where they depend on what has changed.
        watcher: told about stages and progress.
        tell: told in sentences what becomes of each step.

    Raises:
        HcnrError: anything wrong; finished steps are kept.
    """
    recipe.settings.config()
    models = recipe.models
    # Needed by the model card alone, and found wrong before anything is done.
    check_id("--base-id", models.base_id)
    check_id("--tuned-id", models.tuned_id)
    pair = Pair.open(models.base, models.tuned, recipe.settings.config(), Stages(watcher))
    _check_revisions(recipe, pair)
    out = _prepare(recipe, pair, out)
    steps = Steps(out, tell)
    same = _compare(recipe, out, overwrite, steps.finished, tell)
    notes = _version_notes(recipe)
    job, sizes = parted(recipe, out, watcher)
    check_questions(job, pair)
    recipe = recipe if same else _keep(recipe, pair, out)
    known = _inputs(recipe, pair, job)
    notes += overlap_notes(job)
    notes.append(f"of the task samples {sizes}")

    def done(name: str, outputs: tuple[str, ...], function: Callable[..., Any], **more: Any) -> Any:
        inputs = {**known[name], **more}
        return steps.step(
            name, inputs, lambda: _outputs(out, outputs), lambda: function(job, **more)
        )

    probed = done("probe", ("probe.json",), work.probe_pair)
    weight = done("search", (), work.search_weight)
    choice = done("choose", ("sweep.json",), work.choose, weight=weight)
    lines = done("restore", ("model",), work.restore_chosen, settings=choice["config"])
    outcome = done(
        "evaluate", ("eval/metrics.json",), work.evaluate_all,
        coefficient=choice["coefficient"],
        mark=fingerprint_of({**known["evaluate"], **_outputs(out, ("model",))}),
    )  # fmt: skip
    done(
        "report", ("report.html",), work.write_page,
        written=_outputs(out, ("model", "eval/metrics.json", "sweep.json", "probe.json")),
    )  # fmt: skip
    right = outcome["tuned_right"]
    notes += _accuracy_notes(right)
    return RunOutcome(
        out, recipe, probed, choice, lines, outcome["recommendation"], right,
        [*notes, *choice["notes"]], steps.done,
    )  # fmt: skip


def _check_revisions(recipe: RunRecipe, pair: Pair) -> None:
    for role in ("base", "tuned"):
        wanted, now = getattr(recipe.models, f"{role}_revision"), pair.fingerprints[role]
        source = pair.base if role == "base" else pair.tuned
        if wanted is not None and not source.has_fingerprint(wanted):
            raise ConfigError(
                f"models.{role}_revision is {wanted}, but the checkpoint in "
                f"{getattr(recipe.models, role)} has the fingerprint {now}; name the one that "
                f"the recipe was written for, or write '{role}_revision: null' to take this one"
            )


def _prepare(recipe: RunRecipe, pair: Pair, out: Path) -> Path:
    """The directory, made and known to take the output, outside of everything that is read."""
    data = recipe.data
    files = data_files(*(getattr(data, name) for name in type(data).model_fields))
    files = [file for file in files if file.exists()]
    directory = Path(os.path.abspath(out.expanduser()))
    inputs = [*pair.base.read_paths, *pair.tuned.read_paths]
    own = [file for file in files if file.resolve().is_relative_to(directory / "model")]
    check_output(directory / "model", inputs=[*inputs, *own], overwrite=True, nbytes=pair.nbytes)
    check_outside(directory, inputs)
    return make_directory(directory)


def _compare(
    recipe: RunRecipe,
    out: Path,
    overwrite: bool,
    finished: list[str],
    tell: Callable[[str], None],
) -> bool:
    """Whether the recipe is there already; one whose results would be lost is refused."""
    file = out / FILE
    if not file.exists():
        return False
    there = _unless_unreadable(file, overwrite)
    if there is not None and _plain(there) == _plain(recipe):
        return True
    changed = list(_plain(recipe)) if there is None else _differing(there, recipe)
    if not overwrite and (lost := at_risk(changed, finished)):
        raise OutputError(
            f"{file} holds another recipe (it differs in {', '.join(changed)}), of which "
            f"{', '.join(lost)} {'is' if len(lost) == 1 else 'are'} finished and would be replaced "
            f"as far as they depend on that; run that one with --recipe {file}, choose another "
            "--out, or replace it with --overwrite"
        )
    if there is not None and finished:
        tell(what_becomes(changed, finished))
    return False


def _keep(recipe: RunRecipe, pair: Pair, out: Path) -> RunRecipe:
    """Write the recipe, with the fingerprints of the pair."""
    file, models = out / FILE, recipe.models
    filled = recipe.model_copy(
        update={
            "models": models.model_copy(
                update={f"{role}_revision": print_ for role, print_ in pair.fingerprints.items()}
            ),
            "versions": recipe.versions or versions(),
        }
    )
    with atomic_file(file) as temporary:
        temporary.write_text(filled.to_yaml(), encoding="utf-8")
    return filled


def _unless_unreadable(file: Path, overwrite: bool) -> RunRecipe | None:
    try:
        return load_recipe(file)
    except ConfigError:
        if overwrite:
            return None
        raise


def _plain(recipe: RunRecipe) -> dict[str, Any]:
    """What makes two recipes different: everything but revisions and versions."""
    values = recipe.model_dump(exclude={"versions"})
    flat = {f"{part}.{key}": value for part, keys in values.items() for key, value in keys.items()}
    return {key: value for key, value in flat.items() if not key.endswith("_revision")}


def _differing(first: RunRecipe, second: RunRecipe) -> list[str]:
    ours, theirs = _plain(first), _plain(second)
    return [key for key, value in ours.items() if theirs[key] != value]


def _version_notes(recipe: RunRecipe) -> list[str]:
    now = versions()
    odd = [
        f"{name} {version}, now {now.get(name, 'missing')}"
        for name, version in recipe.versions.items()
        if now.get(name) != version
    ]
    return [f"the recipe was written with {'; '.join(odd)}"] if odd else []


def _accuracy_notes(right: float | None) -> list[str]:
    """A sentence where tuned's accuracy on the task questions says little, in percent."""
    if right is None or right >= LEAST_RIGHT:
        return []
    return [
        f"tuned itself gets {right:.1f} % of the task questions right by their words, so its "
        "accuracy says little: go by the task loss, or give --task-questions with short answers"
    ]


def _inputs(recipe: RunRecipe, pair: Pair, job: Job) -> dict[str, dict[str, Any]]:
    """What each step's result depends on, beside the results of earlier ones."""
    settings, models = recipe.settings.model_dump(), recipe.models
    asking = {key: settings[key] for key in ("limit", "max_new_tokens", "chat_template", "device")}
    common = {
        "hcnr": __version__,
        "fingerprints": pair.fingerprints,
        "tokenizer": models.tokenizer,
        "honesty": digest_of(job.honesty),
        "measuring": job.config.model_dump(mode="json"),
    }
    task = contents_of(job.data / SAMPLES)
    asking["drop"] = settings["max_accuracy_drop"]
    choosing = {"questions": questions_digest(job.validation, job.task_validation, settings)}
    judging = {"questions": questions_digest(job.questions, job.task_questions, settings)}
    # A probe reads prompts alone: it measures what no kind of repair changes.
    probed = {key: getattr(job.config, key) for key in PROBED} | {"samples": settings["samples"]}
    return {
        "probe": {**common, "measuring": probed},
        "search": {**common, "task": task},
        "choose": {**common, "task": task, **asking, **choosing},
        "restore": {**common, "task": task, "ids": [models.base_id, models.tuned_id]},
        "evaluate": {**asking, **judging, "versions": versions(), "fingerprints": pair.fingerprints,
                     "tokenizer": models.tokenizer},
        "report": {"hcnr": __version__},
    }  # fmt: skip


def _outputs(out: Path, names: tuple[str, ...]) -> Mapping[str, str]:
    """What a step leaves; of a model its weights and the companions that stay as they are."""
    files: list[Path] = []
    for name in names:
        path = out / name
        if path.name == "model":
            files += sorted(path.glob("*.safetensors"))
            files += [path / "hcnr_report.json", path / "hcnr_config.yaml"]
        else:
            files.append(path)
    return contents_of(*files)
