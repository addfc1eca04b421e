"""`make gpu`: builds, tests and measures everything on a machine with a GPU, in ten minutes.

    python bench/gpu.py [--sections build,tests,...] [--out DIRECTORY] [--quick]

Runs with the interpreter that starts it, without a network and without the project being
installed. Writes `<device>.json` and `<device>.md`; a run that is not whole writes
`<device>-partial`. Exit status: 0 if every section passed or was skipped, 1 if one failed, 2
without a GPU. A target that is not met is a result, not a failure.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from bench import report, sections  # noqa: E402

WHOLE_SECONDS = 570
"""Within ten minutes, with room for starting and for writing the results."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Build, test and measure on a GPU, in ten minutes."
    )
    known = list(sections.SECTIONS)
    parser.add_argument(
        "--sections", default=",".join(known), help=f"some of {','.join(known)}, in any order"
    )
    parser.add_argument("--out", type=Path, help="where results go (default: bench/results)")
    parser.add_argument("--quick", action="store_true", help="fewer runs, tests and checks")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda",
        help="cpu: tiny shapes, to test this program without a GPU; its figures mean nothing",
    )  # fmt: skip
    found = parser.parse_args()
    found.sections = [name for name in found.sections.split(",") if name]
    unknown = set(found.sections) - set(known)
    if unknown or not found.sections:
        parser.error(f"--sections takes some of {', '.join(known)}")
    return found


def destinations(out: Path | None, device: str) -> list[Path]:
    if out is None:
        fresh = device == "cpu"
        out = Path(tempfile.mkdtemp(prefix="bench-")) if fresh else ROOT / "bench" / "results"
    given = os.environ.get("OUT")
    return [out, *([Path(given)] if given else [])]


def main() -> int:
    settings = arguments()
    began = time.monotonic()
    if not sections.installed("torch"):
        print(f"make gpu needs a torch for CUDA; {sys.executable} has none: set PYTHON.")
        return 2
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        known = scratch / "facts.json"
        command = sections.python("-m", "bench.facts", "--device", settings.device)
        status = sections.child([*command, "--json", str(known)], 90)
        if status != 0:
            return 2 if status == 2 else 1
        found = run(settings, scratch, began)
        lines = recorded(scratch)
        result = {
            "device": json.loads(known.read_text()),
            "sections": found,
            "records": [json.loads(line) for line in lines],
        }
    return conclude(result, settings, time.monotonic() - began)


def run(settings: argparse.Namespace, scratch: Path, began: float) -> dict[str, dict]:
    """The chosen sections in turn; what one leaves of its time is the next one's."""
    chosen = {name: one for name, one in sections.SECTIONS.items() if name in settings.sections}
    stretch = WHOLE_SECONDS / sum(section.seconds for section in chosen.values())
    deadline = began
    found = {}
    for name, section in chosen.items():
        start = time.monotonic()
        deadline += stretch * section.seconds
        print(f"\n== {name}, at most {deadline - start:.0f} s", flush=True)
        context = sections.Context(settings.device, settings.quick, scratch, deadline)
        try:
            outcome = section.run(context)
        except Exception:
            traceback.print_exc()
            outcome = sections.FAILED
        seconds = time.monotonic() - start
        found[name] = {"status": outcome, "seconds": seconds}
        print(f"== {name}: {outcome} after {seconds:.0f} s", flush=True)
    return found


def recorded(scratch: Path) -> list[str]:
    """The records of all sections; a line cut off by a time limit is left out."""
    path = scratch / "records.jsonl"
    return (
        [line for line in path.read_text().splitlines() if line.endswith("}")]
        if path.exists()
        else []
    )


def conclude(result: dict, settings: argparse.Namespace, seconds: float) -> int:
    """Write the files, print the table, and say with what status to leave."""
    whole = set(settings.sections) == set(sections.SECTIONS)
    name = report.slug(result["device"]["name"])
    if settings.quick or not whole:
        name += "-partial"
    written = report.write(result, name, destinations(settings.out, settings.device))
    print(f"\n{report.compact(result['records'])}\n")
    for section, found in result["sections"].items():
        print(f"{section:10} {found['seconds']:5.0f} s  {found['status']}")
    print(f"{'in all':10} {seconds:5.0f} s  {', '.join(map(str, written))}")
    bad = {sections.FAILED, sections.LATE}
    return int(any(found["status"] in bad for found in result["sections"].values()))


if __name__ == "__main__":
    sys.exit(main())
