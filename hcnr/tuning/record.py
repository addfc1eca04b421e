"""What is written of a training: the report and the model card."""

from collections.abc import Mapping, Sequence
from typing import Any

from hcnr.record.card import stem
from hcnr.record.files.tuning import TuneRecord
from hcnr.record.front_matter import Origin, front_matter
from hcnr.tuning.settings import TuneSettings

CARD = """\
---
{front_matter}---

# {title}

This model is `{tuned}` after a short supervised fine-tuning, by TRL's SFTTrainer, on {samples}:
what [HCNR](https://arxiv.org/abs/2511.12991) measures for a repair that needs no training. It was
made to compare such a repair with.

{losses}

| | |
|---|---|
{rows}

Every number of the run is in `hcnr_report.json`. `hcnr evaluate REPAIR --against DIRECTORY`
compares their answers.
"""


def build_record(
    tuned: str,
    fingerprint: str,
    settings: TuneSettings,
    data: Mapping[str, Mapping[str, Any]],
    before: Mapping[str, float],
    after: Mapping[str, float],
    held_back: Mapping[str, bool],
    training: Mapping[str, Any],
    notes: Sequence[str],
    seconds: Mapping[str, float],
    versions: Mapping[str, str],
) -> TuneRecord:
    """Collect a training for its report.

    Args:
        tuned: the model that was trained.
        fingerprint: of it.
        settings: how it was trained.
        data: facts of each data set.
        before: tuned's mean loss by data set.
        after: the same of the result.
        held_back: by data set, whether losses are on samples that were not trained on.
        training: `steps` and `loss` of the training.
        notes: for the reader.
        seconds: of each stage.
        versions: of the libraries.
    """
    return TuneRecord.model_validate(
        {
            "tune": {**settings.as_dict(), **training},
            "pair": {"tuned": tuned, "fingerprints": {"tuned": fingerprint}},
            "data": {name: dict(facts) for name, facts in data.items()},
            "losses": {
                name: {"tuned": before[name], "result": after[name], "held_back": held_back[name]}
                for name in before
            },
            "warnings": list(notes),
            "seconds": dict(seconds),
            "versions": dict(versions),
        }
    )


def loss_lines(record: TuneRecord) -> list[str]:
    """What a run ends with: how both losses changed."""
    lines = []
    for name, losses in record.losses.items():
        kind = "held-back" if losses.held_back else "trained"
        lines.append(
            f"{name} loss on {kind} samples: tuned {losses.tuned:.4f} -> result {losses.result:.4f}"
        )
    return lines


def tuned_card(record: TuneRecord, origin: Origin) -> str:
    """Return the card as Markdown with YAML front matter."""
    made, tuned = record.tune, stem(record.pair.tuned)
    rows = {
        "tuned": f"`{tuned}` (fingerprint {record.pair.fingerprints['tuned']})",
        "trained": "all weights" if made.lora is None else f"LoRA, rank {made.lora}, merged",
        "learning rate": f"{made.rate:g}",
        "epochs": f"{made.epochs:g} ({made.steps} steps of {made.batch_size} samples)",
        "seed": made.seed,
        **{
            f"{name} data": f"{facts.samples} samples, {facts.tokens:,} tokens"
            for name, facts in record.data.items()
        },
        "hcnr": record.versions["hcnr"],
    }
    counts = [f"{facts.samples} {name} samples" for name, facts in record.data.items()]
    return CARD.format(
        front_matter=front_matter(origin, record.as_dict()["data"]),
        title=f"{tuned}, fine-tuned on honesty and task samples",
        tuned=tuned,
        samples=" and ".join(counts),
        losses="\n".join(f"- {line}" for line in loss_lines(record)),
        rows="\n".join(f"| {key} | {value} |" for key, value in rows.items()),
    )
