"""docs/models.md, from the journal."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD = """# Models

Written by `python -m experiments.families` with transformers {version}; its journal is
`experiments/families/results.json`. Every causal language model that
transformers knows is counted; each that was tried, listed below, was built with a tiny random
configuration, run, measured and repaired (`joint`, on every matrix), in a process of its own. It
is **exact** when

- the scores of every measured matrix are those of a loop of single-sample backward passes in
  float64 (in float32 where the model cannot run in float64);
- every tensor that is no target is stored as in tuned, byte for byte, and at most the rows that
  were asked for changed in the others;
- the repair of the models in memory, by the same statistics, is that of the directories, bit for
  bit.

Where a run was refused with a sentence that names `--ignore` or `--token-budget 1`, that option
was taken, and it stands in the table: the rest of the model is
exact, and what is ignored stays as tuned. *Not run* is a tiny configuration that the model itself
cannot run, with what transformers says.

| result | families |
|---|---|
{counts}
| not tried yet | {left} |

| model type | result | matrices | options | note |
|---|---|---|---|---|
"""
LONGEST = 160


def counts_of(rows: list[Mapping[str, Any]]) -> dict[str, int]:
    """Families by result; those that need an option are counted apart."""
    counts = Counter(
        "exact with the option that a refusal names"
        if row["result"] == "exact" and row["options"]
        else row["result"]
        for row in rows
    )
    return dict(counts.most_common())


def write(page: Path, data: Mapping[str, Any]) -> None:
    """Write the page of a journal."""
    rows = data["families"]
    counts = "\n".join(f"| {result} | {count} |" for result, count in counts_of(rows).items())
    left = data["all"] - len(rows)
    head = HEAD.format(version=data["transformers"], counts=counts, left=left)
    page.write_text(head + "".join(map(_row, rows)), encoding="utf-8")


def _row(row: Mapping[str, Any]) -> str:
    options = [f"`--ignore '{pattern}'`" for pattern in row["options"].get("ignore", ())]
    if len(options) > 4:
        options = [*options[:4], f"and {len(options) - 4} more"]
    if "token_budget" in row["options"]:
        options.append("`--token-budget 1`")
    note = row.get("note", "").replace("|", "/").replace("<", "&lt;").replace("`", "'")
    note = note if len(note) <= LONGEST else f"{note[:LONGEST]}..."
    if row.get("out_of_reach"):
        note = f"{row['out_of_reach']:.1%} of the blocks' weights are no linear layers"
    name, result, matrices = row["family"], row["result"], row.get("matrices", "")
    return f"| {name} | {result} | {matrices} | {' '.join(options)} | {note} |\n"
