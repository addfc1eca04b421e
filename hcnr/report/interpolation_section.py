"""What the page says about plain interpolation as a repair."""

from hcnr.record.interpolation import HOW, Interpolated, key_facts, search_sentence
from hcnr.record.numbers import NONE, fixed, short
from hcnr.record.tables import Table
from hcnr.report.drawing.markup import Markup, element
from hcnr.report.parts import table


def section_parts(found: Interpolated) -> list[Markup]:
    """What the page says about the repair itself."""
    facts = [[name, text] for name, text in key_facts(found).items()]
    parts = [
        element("p", f"{HOW[:1].upper()}{HOW[1:]}, norms, embeddings and the head included."),
        table(Table(("repair", "interpolate"), facts, ("interpolate",)), "The repair in numbers"),
    ]
    if found.left:
        names = ", ".join(found.left)
        parts.append(element("p", f"As tuned stay: {names}: base lacks them, or their shape."))
    if found.search:
        rows = [
            [short(trial.coefficient), fixed(trial.retention, ".1f") if trial.retention is not None
             else NONE, "yes" if trial.kept else "no",
             "yes" if trial.coefficient == found.coefficient else ""]
            for trial in sorted(found.search, key=lambda trial: trial.coefficient)
        ]  # fmt: skip
        heads = ("coefficient c", "task gain kept, %", "enough", "used")
        title = "Search for the coefficient"
        parts.append(element("h3", title, class_="apart"))
        parts.append(element("p", search_sentence(found)))
        parts.append(table(Table(heads, rows), title, strong=short(found.coefficient)))
    return parts
