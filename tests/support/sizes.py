"""How many lines each folder of the package has, and of what.

    python tests/support/sizes.py            # or another folder than hcnr

Blank lines and comments are not counted; what the columns are says `source_lines.kinds_of_lines`.
"""

import sys
from collections import Counter
from pathlib import Path

from source_lines import kinds_of_lines

COLUMNS = ("code", "statements", "signatures", "imports", "declarations", "errors", "docstrings")


def sizes(library: Path) -> dict[str, Counter[str]]:
    """Lines by folder, the largest first; modules beside the folders count together."""
    folders: dict[str, Counter[str]] = {}
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        counts = kinds_of_lines(path.read_text(encoding="utf-8"))
        counts["code"] = counts.total() - counts["docstrings"]
        folders.setdefault(parts[0] if parts[1:] else "(modules)", Counter()).update(counts)
    return dict(sorted(folders.items(), key=lambda item: -item[1]["code"]))


def main() -> None:
    """Print the table."""
    library = Path(sys.argv[1] if sys.argv[1:] else "hcnr")
    folders = sizes(library)
    folders["together"] = sum(folders.values(), Counter())
    print(f"{'':14}", *(f"{column:>12}" for column in COLUMNS))
    for name, counts in folders.items():
        print(f"{name:14}", *(f"{counts[column]:12,}" for column in COLUMNS))


if __name__ == "__main__":
    main()
