"""What the site shows from outside of `docs/`, and how links between both are written there.

In the repository every link is relative to its file, as a reader on a code host needs it. The site
has `docs/` as its root, so a link that leaves `docs/` or leads into it is rewritten. Strict mode
reports what leads nowhere then.
"""

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "experiments/trial/results/README.md",
    "experiments/trial/results/smollm2-figures/figures.md",
    "experiments/trial/results/smollm2-figures/forms.md",
    "experiments/trial/results/smollm2-figures/probe.svg",
    "experiments/trial/results/smollm2-hotpotqa/trial.md",
    "experiments/trial/results/smollm2-medmcqa/trial.md",
    "experiments/trial/results/smollm2-bioasq/trial.md",
    "experiments/trial/results/smollm2-nq/trial.md",
    "integrations/lm_eval/README.md",
)
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


def site_link(source: str, link: str) -> str:
    """The link of a page of the repository, both relative to it, as the site has it.

    Args:
        source: the page, by its path in the repository.
        link: what it links to, without an anchor, relative to the page.
    """
    here = posixpath.dirname(_in_site(source))
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return posixpath.relpath(_in_site(target), here or ".")


def rewritten(source: str, text: str) -> str:
    """A page with its links as the site has them; code stays as it is."""
    code = _CODE.findall(text)
    prose = [
        _LINK.sub(lambda match: site_link(source, match[1]), part) for part in _CODE.split(text)
    ]
    return "".join(part + block for part, block in zip(prose, [*code, ""], strict=True))


def _in_site(path: str) -> str:
    return path.removeprefix("docs/")


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages from outside, under their paths in the repository."""
    from mkdocs.structure.files import File

    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: "Page", **_: object) -> str:
    """Rewrite the links of a page."""
    name = page.file.src_uri
    return rewritten(name if name in OUTSIDE else f"docs/{name}", markdown)
