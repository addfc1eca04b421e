"""The model card of a restored checkpoint."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from hcnr.record.files.restoration import AGAIN, LossVerdict, RestorationRecord
from hcnr.record.form_text import adapter_sentence, patch_sentence
from hcnr.record.front_matter import Origin, front_matter
from hcnr.record.interpolation_text import HOW
from hcnr.record.interpolation_text import key_facts as mixing_facts
from hcnr.record.names import names_only, stem
from hcnr.record.tables import Table
from hcnr.record.two_sided_text import key_facts, kind_text

CARD = """\
---
{front_matter}---

# {title}

{lead}

{begin}{losses}
{end}

| | |
|---|---|
{rows}

Every number of the run is in `hcnr_report.json`; `hcnr_config.yaml` repeats it:

```
hcnr restore BASE TUNED --honesty HONESTY --task TASK --config hcnr_config.yaml --out OUT
```
"""


LEAD = """\
This model is `{tuned}` with some of its neurons restored to `{base}` by
[HCNR](https://arxiv.org/abs/2511.12991) (Honesty-Critical Neurons Restoration), so that it says
again when it does not know. No training was involved."""
TWO_SIDED = """\
This model is `{tuned}`, repaired with `{base}` so that it says again when it does not know, by
a two-sided variant of [HCNR](https://arxiv.org/abs/2511.12991) (Honesty-Critical Neurons
Restoration): {how}"""
MIXED = """\
This model is `{tuned}` interpolated towards `{base}` so that it says again when it does not know:
{how}. No training was involved."""

ADAPTER = """

What is here is a LoRA adapter on `{on}`:
`PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(...), DIRECTORY)`."""

PATCH = """

What is here is a patch on `{on}`, which makes the whole model of it:
`hcnr apply TUNED DIRECTORY --out RESTORED`."""

BEGIN, END = "<!-- hcnr: headline -->", "<!-- hcnr: end of headline -->"
"""Around what `hcnr report` keeps up to date; the rest of the card is its owner's."""


def model_card(report: RestorationRecord | Mapping[str, Any], origin: Origin | None = None) -> str:
    """Return the card as Markdown with YAML front matter.

    Args:
        report: what `build_report` returned.
        origin: where both models come from; nothing is known when None.
    """
    report = RestorationRecord.of(report, "the report", AGAIN)
    summary, config, prints = report.summary, report.config, report.pair.fingerprints
    # A card is published: it carries names, not the paths of the machine that made it.
    base, tuned = stem(report.pair.base), stem(report.pair.tuned)
    overlap, two = summary.mean_half_overlap, report.repair
    share = summary.restored_parameters / max(summary.target_parameters, 1)
    whole = two if two is not None and two.whole else None
    done = "restored" if whole is None else "repaired"
    rows = {
        **{
            role: f"`{name}` (fingerprint {prints.get(role)}{_source(report, role)})"
            for role, name in (("base", base), ("tuned", tuned))
        },
        f"matrices {done}": f"{summary.selected_matrices} of {summary.target_matrices}",
        "neurons restored": f"{summary.restored_neurons:,} ({config.axis} axis)",
        f"parameters {done}": f"{summary.restored_parameters:,} ({share:.1%} of the targets)",
        "compensation": config.compensation,
    }
    if whole is None:
        lead = LEAD.format(tuned=tuned, base=base)
        rows["agreement of two halves of the samples"] = (
            "-" if overlap is None else f"{overlap:.0%}"
        )
    else:
        lead = TWO_SIDED.format(tuned=tuned, base=base, how=kind_text(whole))
        lead = textwrap.fill(lead, 96, break_long_words=False, break_on_hyphens=False)
        del rows["neurons restored"]
    if two is not None:
        rows |= key_facts(two)
    if (mix := report.interpolation) is not None:
        lead = MIXED.format(tuned=tuned, base=base, how=HOW)
        rows = {role: rows[role] for role in ("base", "tuned", "compensation")} | mixing_facts(mix)
    if (reach := summary.out_of_reach) is not None:
        rows["out of reach"] = f"{reach['share']:.1%} of the blocks' weights ({reach['kinds']})"
    if adapter := report.adapter:
        rows["form"] = adapter_sentence(adapter)
        lead += ADAPTER.format(on=stem(adapter.base))
    if patch := report.patch:
        rows["form"] = patch_sentence(patch)
        lead += PATCH.format(on=stem(patch.tuned))
    rows["hcnr"] = report.versions["hcnr"]
    for name, facts in report.data.items():
        rows[f"{name} data"] = f"{facts.samples} samples, {facts.tokens:,} tokens"
    card = CARD.format(
        front_matter=front_matter(
            origin or Origin(),
            {name: {"source": facts.source} for name, facts in report.data.items()},
            adapter.on if adapter else None,
            patch=patch is not None,
        ),
        title=f"{tuned}, honesty restored",
        lead=lead,
        begin=BEGIN,
        losses=_losses(report.verdict),
        end=END,
        rows="\n".join(f"| {key} | {value} |" for key, value in rows.items()),
    )
    return names_only(card)


def _source(report: RestorationRecord, role: str) -> str:
    """Where a model of the pair comes from, in words that may be published."""
    facts = report.pair.sources.get(role, {})
    parts = []
    if "revision" in facts:
        parts.append(f", of the hub's `{facts['hub']}` at `{facts['revision']}`")
    if "adapter" in facts:
        into = stem(facts["merged_into"])
        parts.append(f", an adapter ({facts['adapter']}) merged into `{into}`")
    return "".join(parts)


def _losses(verdict: LossVerdict | None) -> str:
    """The verdict of a run by its losses, which stands until its answers are evaluated."""
    if verdict is None:
        return ""
    lead = _strong(f"{verdict.word}: {verdict.reason}.")
    return f"\n\nBy the losses: {lead} Its answers have not been evaluated.\n"


def with_headline(card: str, table: Table, notes: Sequence[str], lead: str = "") -> str | None:
    """Put the headline of an evaluation between its marks, in place of an earlier one.

    Args:
        card: the card as it is.
        table: the headline's numbers.
        notes: what their reader must know.
        lead: what to do with the model; nothing where it is empty.

    Returns:
        The card as it shall be; None where it carries no such marks.
    """
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return None
    lines = [table.heads, ["---"] + ["---:"] * (len(table.heads) - 1), *table.rows]
    cells = ("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)
    paragraphs = [_strong(lead)] if lead else []
    paragraphs += ["\n".join(cells), *map(_cell, notes)]
    return "\n\n".join([before + BEGIN, *paragraphs, END + after])


def _strong(lead: str) -> str:
    """The word of a recommendation in bold, its reason behind it."""
    word, colon, reason = lead.partition(":")
    return f"**{_cell(word)}**{colon} {_cell(reason)}"


def _cell(text: str) -> str:
    """Text that means itself in Markdown."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
