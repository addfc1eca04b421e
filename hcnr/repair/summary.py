"""`hcnr_report.json`: everything numeric that happened, nothing silent."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hcnr.config import RestoreConfig
from hcnr.record.files.matrix_record import MatrixRecord
from hcnr.record.files.restoration import (
    AdapterRecord,
    Interpolated,
    PatchRecord,
    RestorationRecord,
)
from hcnr.record.files.two_sided import TwoSidedRecord
from hcnr.record.quantiles import score_quantiles
from hcnr.record.run_report import RunReport
from hcnr.versions import versions

if TYPE_CHECKING:
    from hcnr.curvature.statistics import Statistics
    from hcnr.repair.selection import Selection


def build_report(
    *,
    base: str,
    tuned: str,
    messages: Sequence[str],
    config: RestoreConfig,
    statistics: "Statistics",
    selection: "Selection",
    records: Sequence[MatrixRecord],
    seconds: Mapping[str, float],
    target_parameters: int,
    two_sided: TwoSidedRecord | None = None,
    verdict: Mapping[str, Any] | None = None,
    out_of_reach: Mapping[str, Any] | None = None,
    interpolation: Interpolated | None = None,
    sources: Mapping[str, Mapping[str, Any]] | None = None,
    form: AdapterRecord | PatchRecord | None = None,
) -> RunReport:
    """Collect a run, see `hcnr.record.files.restoration.RestorationRecord`.

    Args:
        base: name of the base model.
        tuned: name of the tuned model.
        messages: what the run wants to be known.
        config: its settings.
        statistics: what was measured.
        selection: what was selected.
        records: of the selected matrices.
        seconds: by stage.
        target_parameters: weights of all target matrices that fine-tuning changed.
        two_sided: of a kind that repairs whole matrices, or where mu was searched.
        verdict: where losses were taken, `Verdict.as_dict()`.
        sources: where base and tuned come from where that is no directory of their own, by role,
            such as the adapter that was merged.
        form: of a result that was written as an adapter or a patch.
        out_of_reach: weights of the blocks that no repair reaches, `Reach.as_dict()`.
        interpolation: where all weights were mixed with base's, and nothing was measured or
            selected.
    """
    overlaps = [selection.overlap[n] for n in selection.selected if n in selection.overlap]
    restored = sum(record.parameters for record in records)
    raised = [record.name for record in records if record.raised(config.damping)]
    summary: dict[str, Any] = {
        "target_matrices": len(selection.masks) - len(selection.untouched),
        "untouched_matrices": list(selection.untouched),
        "selected_matrices": len(selection.selected),
        "restored_neurons": sum(record.restored for record in records),
        "restored_parameters": restored,
        "target_parameters": target_parameters,
        "mean_half_overlap": fmean(overlaps) if overlaps else None,
        "selected_overlap": selection.selected_overlap,
        "half_overlap_by_chance": config.candidate_ratio,
        "objective_none": _total(record.objective_none for record in records),
        "objective": _total(record.objective for record in records),
        "largest_damping": _largest(record.dampings for record in records),
        "largest_condition": _largest(record.conditions for record in records),
        "damping_raised": raised,
        "seconds": sum(seconds.values()),
    }
    if out_of_reach is not None:
        summary["out_of_reach"] = out_of_reach
    if any(record.two_sided for record in records):
        summary |= _restored_directions(records)
    parts = {
        "two_sided": two_sided, "interpolation": interpolation,
        "adapter": form if isinstance(form, AdapterRecord) else None,
        "patch": form if isinstance(form, PatchRecord) else None,
        "verdict": verdict,
    }  # fmt: skip
    content = {
        "pair": {
            "base": base,
            "tuned": tuned,
            "fingerprints": statistics.fingerprints,
            **({"sources": sources} if sources else {}),
        },
        "config": config,
        "data": statistics.data,
        "summary": summary,
        "warnings": [*messages, *_warnings(statistics, selection, records, config)],
        "matrices": list(records),
        "perturbation": selection.perturbation,
        "half_overlap": selection.overlap,
        "scores": score_quantiles(statistics),
        "seconds": dict(seconds),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        **{name: part for name, part in parts.items() if part is not None},
    }
    return RunReport(RestorationRecord.model_validate(content).as_dict())


def overlap_is_low(mean: float, chance: float) -> bool:
    """Whether two halves of the samples hardly agree on the neurons.

    That is less than a quarter of the way from chance to full agreement. Where chance is 0 or 1
    nothing was chosen, and nothing can be low.

    Args:
        mean: share of one half's candidates that the other half has too, mean over matrices.
        chance: what it would be by chance, the in-weight ratio.
    """
    return 0 < chance < 1 and mean < chance + (1 - chance) / 4


def _largest(values: Iterable[list[float]]) -> float | None:
    return max((value for some in values for value in some), default=0.0) or None


def _restored_directions(records: Sequence[MatrixRecord]) -> dict[str, float | None]:
    """Restored directions of all matrices, and as a share of all that they have."""
    of_records = [record.two_sided and record.two_sided.restored_directions for record in records]
    known = [value for value in of_records if value is not None]
    if not known or len(known) < len(records):
        return {"restored_directions": None, "restored_share": None}
    directions = sum(record.parameters for record in records)
    return {"restored_directions": sum(known), "restored_share": sum(known) / directions}


def _total(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _warnings(
    statistics: "Statistics",
    selection: "Selection",
    records: Sequence[MatrixRecord],
    config: RestoreConfig,
) -> list[str]:
    """Sentences about what a user should know before trusting the result."""
    sentences = []
    if selection.untouched:
        sentences.append(
            f"{len(selection.untouched)} of {len(selection.masks)} target matrices are in tuned as "
            f"they are in base ({selection.untouched[0]} among them): they are neither counted nor "
            "selected"
        )
    if "task" in config.kind.needs and any(
        (r.objective or 0) > (r.objective_none or 0) for r in records
    ):
        sentences.append(
            "the objective is that of honesty alone; balanced also serves the task, so it may rise"
        )
    if not any(record.restored for record in records) and not config.interpolates:
        sentences.append("nothing was restored: a ratio is too small, the output equals tuned")
    raised = [record for record in records if record.raised(config.damping)]
    if raised:
        sentences.append(
            f"damping was raised above {config.damping} for {len(raised)} matrices, the highest "
            f"to {max(used for record in raised for used in record.dampings)}"
        )
    deficient = [record for record in records if record.rank_deficient]
    if deficient:
        sentences.append(
            f"{len(deficient)} matrices have more neurons than tokens to measure their curvature "
            "on: damping may be all that makes it invertible"
        )
    dead = [record for record in records if record.dead]
    if dead:
        sentences.append(
            f"{len(dead)} matrices have neurons without any curvature, which neither give nor "
            "take compensation"
        )
    overlaps = [selection.overlap[n] for n in selection.selected if n in selection.overlap]
    # Where whole matrices are repaired, no choice of neurons is made that could be noise.
    chosen = overlaps and not any(record.two_sided for record in records)
    if chosen and overlap_is_low(fmean(overlaps), config.candidate_ratio):
        sentences.append(
            f"two halves of the samples agree on only {fmean(overlaps):.0%} of the neurons "
            f"({config.in_weight_ratio:.0%} by chance): measure more of them (--samples)"
        )
    for name, facts in statistics.data.items():
        wanted, used = config.samples, facts.get("samples", 0)
        if used < wanted:
            sentences.append(f"the {name} data has {used} samples, {wanted} were asked for")
        for kind in ("prompts_truncated", "responses_truncated"):
            if facts.get(kind):
                sentences.append(
                    f"{facts[kind]} {name} {kind.split('_')[0]} were cut to fit "
                    f"{facts.get('max_length', config.max_length)} tokens"
                )
    return sentences
