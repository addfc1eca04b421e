"""The model card of a restored checkpoint."""

from typing import Any

import yaml

CARD = """\
---
{front_matter}---

# {title}

This model is `{tuned}` with some of its neurons restored to `{base}` by
[HCNR](https://arxiv.org/abs/2511.12991) (Honesty-Critical Neurons Restoration), so that it says
again when it does not know. No training was involved.

| | |
|---|---|
{rows}

Every number of the run is in `hcnr_report.json`; `hcnr_config.yaml` repeats it:

```
hcnr restore BASE TUNED --honesty HONESTY --task TASK --config hcnr_config.yaml --out OUT
```
"""


def model_card(report: dict[str, Any]) -> str:
    """Return the card as Markdown with YAML front matter.

    Args:
        report: what `build_report` returned.
    """
    summary, config, prints = report["summary"], report["config"], report["pair"]["fingerprints"]
    # A card is published: it carries names, not the paths of the machine that made it.
    base, tuned = _stem(report["pair"]["base"]), _stem(report["pair"]["tuned"])
    front_matter = yaml.safe_dump(
        {
            "base_model": tuned,
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["hcnr"],
        },
        sort_keys=False,
    )
    overlap = summary["mean_half_overlap"]
    share = summary["restored_parameters"] / max(summary["target_parameters"], 1)
    rows = {
        "base": f"`{base}` (fingerprint {prints.get('base')})",
        "tuned": f"`{tuned}` (fingerprint {prints.get('tuned')})",
        "matrices restored": f"{summary['selected_matrices']} of {summary['target_matrices']}",
        "neurons restored": f"{summary['restored_neurons']:,} ({config['axis']} axis)",
        "parameters restored": f"{summary['restored_parameters']:,} ({share:.1%} of the targets)",
        "compensation": config["compensation"],
        "agreement of two halves of the samples": "-" if overlap is None else f"{overlap:.0%}",
        "hcnr": report["versions"]["hcnr"],
    }
    for name, facts in report["data"].items():
        rows[f"{name} data"] = f"{facts['samples']} samples, {facts['tokens']:,} tokens"
    return CARD.format(
        front_matter=front_matter,
        title=f"{tuned}, honesty restored",
        base=base,
        tuned=tuned,
        rows="\n".join(f"| {key} | {value} |" for key, value in rows.items()),
    )


def _stem(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
