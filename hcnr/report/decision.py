"""What an evaluation says about using the restored model."""

from dataclasses import replace

from hcnr.choosing.decision import Decision, Evidence, decide, weigh
from hcnr.record.files.evaluation import EvaluationRecord, ModelDifference, ModelScores


def decision_of(
    data: EvaluationRecord, before: ModelScores | None, difference: ModelDifference | None
) -> Decision:
    """Decide by the numbers of `metrics.json`, not by its words.

    Args:
        data: the file. Where it weighed nothing its means are weighed; what is to be beaten has no
            interval then.
        before: scores of the tuned model, where it was evaluated.
        difference: the restored model minus that one.
    """
    stored, limit = data.recommendation, data.settings.max_accuracy_drop
    if stored is not None and stored.gain is not None and stored.gain.gain is not None:
        return decide(stored.evidence)
    if before is None:
        return decide(Evidence(None, None, limit))
    # Points that were asked few questions only found the one that was asked all.
    curve = [(one.coefficient, one.scores.figures) for one in data.interpolation if one.complete]
    if not curve and (row := data.interpolation_row) is not None:
        curve = [(row.coefficient, row.figures)]
    evidence = weigh(data.figures, before.figures, curve, limit)
    delta = None if difference is None else difference.macro.refusal_delta
    return decide(replace(evidence, gain=(delta and delta.gain) or evidence.gain))
