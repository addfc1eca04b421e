"""Whether a report that was read back has what the page needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hcnr.errors import DataError

Kind = type | tuple[type, ...]
PERHAPS: Kind = (int, float, type(None))
PARTS: dict[str, Kind] = {
    "pair": dict, "config": dict, "summary": dict, "matrices": list, "perturbation": dict,
    "seconds": dict, "versions": dict,
}  # fmt: skip
PAIR: dict[str, Kind] = {"base": str, "tuned": str}
CONFIG: dict[str, Kind] = {"axis": str}
SUMMARY: dict[str, Kind] = {
    "target_matrices": int, "selected_matrices": int, "restored_neurons": int,
    "restored_parameters": int, "target_parameters": int, "mean_half_overlap": PERHAPS,
    "half_overlap_by_chance": PERHAPS, "objective_none": PERHAPS, "objective": PERHAPS,
}  # fmt: skip
MATRIX: dict[str, Kind] = {
    "name": str, "neurons": int, "restored": int, "damping": PERHAPS, "condition": PERHAPS,
    "objective_none": PERHAPS, "objective": PERHAPS,
}  # fmt: skip
NAMES: dict[Kind, str] = {
    dict: "an object", list: "a list", str: "a text", int: "a whole number",
    PERHAPS: "a number or null",
}  # fmt: skip


def check_report(path: Path, report: Any) -> dict[str, Any]:
    """Check `hcnr_report.json`: the parts and keys that the page needs, and their types.

    Returns:
        The report.

    Raises:
        DataError: something is missing or of another type.
    """
    if isinstance(report, dict) and "tune" in report:
        raise DataError(
            f"{path} is of hcnr tune, which restores nothing, so there is no page of it; evaluate "
            "it beside a repair (hcnr evaluate REPAIR --against DIRECTORY)"
        )
    _check(path, "", report, PARTS)
    for part, kinds in (("pair", PAIR), ("config", CONFIG), ("summary", SUMMARY)):
        _check(path, part, report[part], kinds)
    for index, record in enumerate(report["matrices"]):
        _check(path, f"matrices[{index}]", record, MATRIX)
    scores = report.get("scores") or {}
    _check_kind(path, "scores", scores, dict)
    for name, found in scores.items():
        _check_kind(path, f"scores.{name}", found, dict)
        for data_set, levels in found.items():
            _check_kind(path, f"scores.{name}.{data_set}", levels, list)
    for part in ("two_sided", "interpolation"):
        _check_kind(path, part, report.get(part) or {}, dict)
    _check_kind(path, "warnings", report.get("warnings") or [], list)
    return report


def _check(path: Path, where: str, found: Any, kinds: Mapping[str, Kind]) -> None:
    """Check the keys of one part; those that may be null may be missing as well."""
    _check_kind(path, where, found, dict)
    for key, kind in kinds.items():
        inside = f"{where}.{key}".lstrip(".")
        if key in found:
            _check_kind(path, inside, found[key], kind)
        elif kind is not PERHAPS:
            raise _error(path, f"has no part '{inside}'", kind)


def _check_kind(path: Path, where: str, found: Any, kind: Kind) -> None:
    if not isinstance(found, kind) or isinstance(found, bool):
        what = f"holds a {type(found).__name__}"
        raise _error(path, f"{what} as '{where}'" if where else what, kind)


def _error(path: Path, what: str, kind: Kind) -> DataError:
    return DataError(f"{path} {what}, expected {NAMES[kind]}; restore again to write it anew")
