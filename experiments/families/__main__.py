"""`python -m experiments.families`: try every family and write docs/models.md.

Each runs in a process of its own. A journal keeps every finished family, so that a run that was
stopped goes on; `--only llama,gpt2` tries some again.
"""

import argparse
import json
import multiprocessing
import os
import queue
import warnings
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def main() -> None:
    """Try, keep, write."""
    parser = argparse.ArgumentParser(prog="python -m experiments.families", description=__doc__)
    parser.add_argument("--only", default="", help="model types, separated by commas")
    parser.add_argument("--seconds", type=float, default=240.0, help="time limit of a family")
    parser.add_argument("--journal", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="forget what the journal has")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch
    from transformers import __version__

    from experiments.families.page import write
    from experiments.families.tiny import families

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    _load_once()
    known = {} if arguments.again else read(arguments.journal)
    known_families = list(families())
    chosen = set(filter(None, arguments.only.split(",")))
    for name, kind in known_families:
        if (chosen and name not in chosen) or (not chosen and name in known):
            continue
        known[name] = apart(name, kind, arguments.seconds)
        print(name, known[name]["result"], known[name]["options"] or "", known[name]["note"],
              flush=True)  # fmt: skip
        keep(arguments.journal, known, __version__, len(known_families))
    keep(arguments.journal, known, __version__, len(known_families))
    write(arguments.page, json.loads(arguments.journal.read_text(encoding="utf-8")))


def _load_once() -> None:
    """Load what every process needs before they part from this one; runs no backward pass."""
    import tempfile

    from transformers import LlamaForCausalLM

    from experiments.families.checks import built, saved
    from hcnr.models.directory import DirectorySource
    from hcnr.pipeline import restoring

    assert restoring
    with tempfile.TemporaryDirectory() as directory:
        saved(built(LlamaForCausalLM), Path(directory))
        assert DirectorySource(Path(directory) / "base").fingerprint()


def read(journal: Path) -> dict[str, dict[str, Any]]:
    """Finished families of a journal."""
    if not journal.exists():
        return {}
    rows = json.loads(journal.read_text(encoding="utf-8"))["families"]
    return {row["family"]: row for row in rows}


def keep(journal: Path, known: dict[str, dict[str, Any]], version: str, count: int) -> None:
    """Write the journal, in one piece."""
    rows = ",\n".join(json.dumps(known[name]) for name in sorted(known))
    scratch = journal.with_suffix(".new")
    text = f'{{"transformers": "{version}", "all": {count}, "families": [\n{rows}\n]}}\n'
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(journal)


def apart(name: str, kind: Any, seconds: float) -> dict[str, Any]:
    """The row of a family, tried in a process that ends with it or at its time limit."""
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    child = context.Process(target=_child, args=(name, kind, results))
    child.start()
    row = {"family": name, "class": kind.__name__, "options": {}}
    try:
        row = results.get(timeout=seconds)
    except queue.Empty:
        note = f"no result within {seconds:.0f} seconds"
        row.update(result="too slow" if child.is_alive() else "traceback", note=note)
    child.join(5)
    if child.is_alive():
        child.kill()
        child.join()
    return row


def _child(name: str, kind: Any, results: Any) -> None:
    from transformers.utils import logging

    from experiments.families.checks import check

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    results.put(check(name, kind))


if __name__ == "__main__":
    main()
