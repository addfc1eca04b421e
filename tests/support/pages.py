"""What the tests of README.md and docs/ read: blocks of code, commands, links and headings."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *DOCS,
    *sorted((ROOT / "experiments").rglob("*.md")),
    *sorted((ROOT / "integrations").rglob("*.md")),
]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(hcnr [^`]+)`")


def title(page: Path) -> str:
    """A page as it is called in the repository."""
    return str(page.relative_to(ROOT))


def blocks(text: str, language: str = "python") -> list[str]:
    """The blocks of code of a page in one language, in order; "" for those that name none."""
    return [code for name, code in _BLOCK.findall(text) if name == language]


def run_blocks(text: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run the Python of a page in order, in one namespace, which is returned.

    Args:
        text: of the page.
        names: what the page takes for granted.
    """
    for block in blocks(text):
        # A real file name, so that the compiler finds the source.
        exec(compile(block, "<page>", "exec"), names)
    return names


def commands(text: str) -> list[str]:
    """What a page says to type, without comments: lines of blocks and code within sentences."""
    lines = [
        line.partition("  #")[0].strip()
        for code in blocks(text, "") + blocks(text, "sh")
        for line in code.replace("\\\n", " ").splitlines()
    ]
    return [*lines, *_INLINE.findall(prose(text))]


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return _BLOCK.sub("", text)


def links(text: str) -> list[str]:
    """Where a page leads within the repository."""
    found = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", prose(text))
    every = [markdown or html for markdown, html in found]
    return [link for link in every if not re.match(r"[a-z]+:", link)]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}
