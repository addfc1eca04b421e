"""Packages carried to a machine without a network: unpacked where it lacks them."""

import importlib
import importlib.util
import os
import platform
import shutil
import sys
import zipfile
from pathlib import Path

from bench.lean import ROOT

WHEELS = ROOT / "bench" / "wheels"
NEEDED_BY = {
    "pydantic": ("pydantic", "pydantic_core", "annotated_types", "typing_inspection",
                 "typing_extensions"),
    "kronfluence": ("kronfluence", "einconv"),
}  # fmt: skip
"""What is carried together, by the package that decides whether it is missing."""

NOT_THEIRS = ("tests/", "examples/")


def carry(target: Path, wheels: Path = WHEELS) -> str:
    """Unpack what this interpreter lacks into `target`, for it and its children to import.

    Args:
        target: A folder, made where something is unpacked.
        wheels: Where the wheels lie.

    Returns:
        What was done, in one line.
    """
    missing = [name for name in NEEDED_BY if importlib.util.find_spec(name) is None]
    if not missing:
        return "packages: nothing is missing"
    used, unfit, broken = [], [], ""
    for group in missing:
        files = [path for name in NEEDED_BY[group] for path in sorted(wheels.glob(f"{name}-*.whl"))]
        unfit += [path.name for path in files if not fits(path)]
        # A package without what it needs would fail when it is imported.
        if len(files) < len(NEEDED_BY[group]) or not all(map(fits, files)):
            continue
        try:
            for path in files:
                _unpack(path, target / group)
        except ValueError as error:
            shutil.rmtree(target / group, ignore_errors=True)
            broken = f"; {error}"
            continue
        used += ["-".join(path.name.split("-")[:2]) for path in files]
        _make_importable(target / group)
    outcome = [f"carried {', '.join(used)}"] if used else []
    left = [group for group in missing if importlib.util.find_spec(group) is None]
    if left:
        why = f"; {unfit[0]} does not fit python {platform.python_version()}" if unfit else broken
        outcome.append(f"missing and not carried: {', '.join(left)}{why} (make gpu-wheels)")
    return f"packages: {'; '.join(outcome)}"


def _unpack(wheel: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            inside = archive.namelist()
            # kronfluence's wheel has packages of these names, which ours would be taken for.
            archive.extractall(target, [name for name in inside if not name.startswith(NOT_THEIRS)])
    except Exception as error:  # what is damaged must not end a run that can do without
        raise ValueError(f"{wheel.name} cannot be unpacked: {error}") from error


def _make_importable(folder: Path) -> None:
    """For this process and its children."""
    sys.path.insert(0, str(folder))
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([inherited] if inherited else [])])
    importlib.invalidate_caches()


def fits(wheel: Path) -> bool:
    """Whether a wheel's name says that this interpreter can use it, on Linux."""
    python, abi, places = wheel.stem.split("-")[-3:]
    own = f"cp{sys.version_info.major}{sys.version_info.minor}"
    pure = abi == "none" and places == "any" and "py3" in python.split(".")
    built = own in python.split(".") and abi in (own, "abi3") and "linux" in places
    return pure or (built and platform.machine() in places)
