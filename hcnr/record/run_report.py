"""The report of a run as what Python gets: a dictionary that shows itself briefly."""

from typing import Any

from hcnr.output.notebook import html_table


class RunReport(dict[str, Any]):
    """What happened in a run, all of `hcnr_report.json`: plain values by key.

    A restoration's keys are the fields of `hcnr.record.files.restoration.RestorationRecord`, level
    by level; those of a training are the fields of `hcnr.record.files.tuning.TuneRecord`. It prints
    as a few facts; `dict(report)` prints everything.
    """

    def __repr__(self) -> str:
        return f"RunReport({', '.join(f'{name}: {value}' for name, value in self.facts())})"

    def _repr_html_(self) -> str:
        return html_table("hcnr report", self.facts())

    def facts(self) -> list[tuple[str, str]]:
        """What a person wants to know of the run, in words."""
        pair = self.get("pair", {})
        facts = [(role, str(pair[role])) for role in ("base", "tuned") if role in pair]
        config, summary = self.get("config", {}), self.get("summary", {})
        if config:
            facts.append(("repaired by", str(config.get("compensation"))))
        if "selected_matrices" in summary and "interpolation" not in self:
            count = f"{summary['selected_matrices']} of {summary['target_matrices']}"
            facts.append(("matrices", count))
        if mixed := self.get("interpolation"):
            facts.append(("coefficient", f"{mixed['coefficient']:g}"))
        if made := self.get("tune"):
            facts.append(("trained", f"{made['steps']} steps, rate {made['rate']:g}"))
        if verdict := self.get("verdict"):
            facts.append(("verdict", f"{verdict['word']}: {verdict['reason']}"))
        facts.append(("seconds", f"{sum(self.get('seconds', {}).values()):.1f}"))
        facts += [("warning", str(warning)) for warning in self.get("warnings", ())]
        return facts
