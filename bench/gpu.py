"""`make gpu`: builds, tests and measures everything on a machine with a GPU.

    python bench/gpu.py [--sections build,tests,...] [--append EARLIER] [--out DIRECTORY] [--quick]

Runs with the interpreter that starts it, without a network and without the project being
installed. One command takes nine minutes at most; what it does not reach is measured by the next
one, with `--append` and the file that this one has written.

Results are written after every record, as `<device>-partial` (`.json`, `.md`, and a journal while
the command runs), and as `<device>` once every section has come to an end. A command that is
stopped or killed leaves what it had measured. Exit status: 0 if every section that ran passed or
was skipped, 1 if one failed, 2 without a GPU. A target that is not met is a result, not a failure.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from bench import sections, wheels  # noqa: E402
from bench.children import child, installed, python  # noqa: E402
from bench.context import FAILED, LATE, PASSED, Context, is_bad  # noqa: E402
from bench.journal import Result, load, measured  # noqa: E402
from bench.outputs import Outputs  # noqa: E402
from bench.report import compact  # noqa: E402

WHOLE_SECONDS = 540
"""Within ten minutes, with room for starting, for the last child to end, and for the results."""

FACTS_SECONDS = 240
"""A fresh machine's first import of torch and its first look at the GPU take minutes."""


class Stopped(BaseException):
    """The command was told to end."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Build, test and measure on a GPU, in ten minutes a command."
    )
    known = [*sections.SECTIONS, *sections.GROUPS]
    parser.add_argument("--sections", help=f"some of {','.join(known)}, in any order")
    parser.add_argument(
        "--append", type=Path, metavar="FILE",
        help="results of an earlier command: go on from there, with what it has not measured, or "
        "with --sections",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="where results go (default: bench/results)")
    parser.add_argument(
        "--seconds", type=float, default=WHOLE_SECONDS, help="time of this command (default: 540)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer runs, tests and checks")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda",
        help="cpu: tiny shapes, to test this program without a GPU; its figures mean nothing",
    )  # fmt: skip
    parsed = parser.parse_args()
    parsed.earlier = None
    if parsed.append is not None:
        try:
            parsed.earlier = load(parsed.append)
        except ValueError as error:
            parser.error(str(error))
    named = None if parsed.sections is None else [n for n in parsed.sections.split(",") if n]
    if named is not None and (not named or set(named) - set(known)):
        parser.error(f"--sections takes some of {', '.join(known)}")
    parsed.named, parsed.sections = named, chosen(named, parsed.earlier)
    return parsed


def chosen(named: list[str] | None, earlier: Result | None) -> list[str]:
    """The sections to run, in their order.

    Without names: all, or what an earlier command has left; and first the build, which the rest
    needs. What it has not reached goes before what did not come to its end, what failed, and what
    passed without some package.
    """
    if named is not None:
        wanted = {one for name in named for one in sections.GROUPS.get(name, (name,))}
        return [name for name in sections.SECTIONS if name in wanted]
    before = {} if earlier is None else earlier["sections"]
    status = {name: found["status"] for name, found in before.items()}
    left = [name for name in sections.SECTIONS if name == "build" or status.get(name, "") != PASSED]
    last = (LATE, FAILED, PASSED)

    def rank(name: str) -> int:
        """Sections that are as far as each other keep their order."""
        ended = "" if name == "build" else status.get(name, "")
        return next((rank for rank, kind in enumerate(last, 1) if ended.startswith(kind)), 0)

    return sorted(left, key=rank)


def output_folders(out: Path | None, device: str) -> list[Path]:
    """Where results go: `--out`, and the folder named by the variable OUT."""
    if out is None:
        fresh = device == "cpu"
        out = Path(tempfile.mkdtemp(prefix="bench-")) if fresh else ROOT / "bench" / "results"
    folder = os.environ.get("OUT")
    return [out, *([Path(folder)] if folder else [])]


def facts(device: str, scratch: Path) -> dict[str, str] | int:
    """What this machine is, as far as it can be found out in time; 2 if it has no GPU."""
    known = scratch / "facts.json"
    command = python("-m", "bench.facts", "--device", device, "--json", str(known))
    status = child(command, FACTS_SECONDS)
    if status == 2:
        return 2
    if known.exists() and status == 0:
        return json.loads(known.read_text())
    print(
        f"the machine could not be described (status {status}); its results are kept all the same"
    )
    return {"name": "unknown device"}


def run(settings: argparse.Namespace, scratch: Path, outputs: Outputs, deadline: float) -> None:
    """The chosen sections in turn, each within its limit, while there is time."""
    skip = {}
    for name, before in (settings.earlier or {"sections": {}})["sections"].items():
        if not before["status"].startswith((PASSED, FAILED)):
            skip[name] = measured(settings.earlier, name)
    for name in settings.sections:
        section, start = sections.SECTIONS[name], time.monotonic()
        if deadline - start < section.least:
            print(f"\n== {name}: not reached, go on with --append", flush=True)
            continue
        limit = min(section.seconds, deadline - start)
        print(f"\n== {name}, at most {limit:.0f} s", flush=True)
        outputs.journal.add("start", section=name)
        context = Context(
            settings.device, settings.quick, scratch, outputs.journal, start + limit, skip,
            outputs.refresh,
        )  # fmt: skip
        try:
            status = section.run(context)
        except Exception:
            traceback.print_exc()
            status = FAILED
        seconds = time.monotonic() - start
        outputs.journal.add("section", section=name, status=status, seconds=seconds)
        outputs.refresh()
        print(f"== {name}: {status} after {seconds:.0f} s", flush=True)


def apart(settings: argparse.Namespace, device: dict[str, str]) -> None:
    """Figures of two kinds of GPU are not mixed: start anew beside an earlier command's."""
    before = device if settings.earlier is None else settings.earlier["device"]
    if "unknown device" in (before["name"], device["name"]) or before["name"] == device["name"]:
        return
    print(
        f"{settings.append} was measured on {before['name']}, this is {device['name']}: kept apart"
    )
    settings.earlier = settings.append = None
    if settings.named is None:
        settings.sections = chosen(None, None)


def hear(handler: Callable[[int, Any], None] | signal.Handlers) -> None:
    """What is done at a signal that asks to end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handler)


def stop(number: int, frame: object) -> None:
    hear(signal.SIG_IGN)
    raise Stopped


def main() -> int:
    settings = arguments()
    began = time.monotonic()
    hear(stop)
    outputs = None
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        print(wheels.carry(scratch / "packages"))
        if not installed("torch"):
            print(f"make gpu needs a torch for CUDA; {sys.executable} has none: set PYTHON.")
            return 2
        try:
            device = facts(settings.device, scratch)
            if isinstance(device, int):
                return device
            apart(settings, device)
            outputs = Outputs.open(
                output_folders(settings.out, settings.device),
                device,
                settings.earlier,
                settings.append,
            )
            run(settings, scratch, outputs, began + settings.seconds)
        except Stopped:
            print("\nstopped; what was measured is kept", flush=True)
            if outputs is None:
                return 1
        # What is left takes no time, and half of it is no result.
        hear(signal.SIG_IGN)
    return conclude(settings, outputs, time.monotonic() - began)


def conclude(settings: argparse.Namespace, outputs: Outputs, seconds: float) -> int:
    """Write the files, print the table, and say with what status to leave."""
    result, written = outputs.conclude(sections.SECTIONS, partial=settings.quick)
    try:
        print(f"\n{compact(result['records'])}\n")
    except Exception:
        traceback.print_exc()
    for section in sections.SECTIONS:
        outcome = result["sections"].get(section, {"status": "not reached", "seconds": 0.0})
        print(f"{section:12} {outcome['seconds']:5.0f} s  {outcome['status']}")
    print(f"{'in all':12} {seconds:5.0f} s  {', '.join(map(str, written))}")
    mine = [result["sections"].get(name) for name in settings.sections]
    return int(any(found is not None and is_bad(found["status"]) for found in mine))


if __name__ == "__main__":
    sys.exit(main())
