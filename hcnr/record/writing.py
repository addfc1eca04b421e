"""Writing the companions of restored weights into the output directory."""

import json
from pathlib import Path
from typing import Any

from hcnr.config import RestoreConfig
from hcnr.directories import PATCHED_CARD
from hcnr.errors import CheckpointError, DataError
from hcnr.output import plain_values
from hcnr.record.card import model_card
from hcnr.record.files.restoration import AGAIN, MadeBy, RestorationRecord
from hcnr.record.files.tuning import TUNE_AGAIN, TuneRecord
from hcnr.record.front_matter import Origin
from hcnr.record.names import names_only
from hcnr.record.run_report import RunReport

WORDS = ("pair", "config", "data", "warnings", "versions", "patch")
"""Parts of a report without infinities, whose names may be `nan` or `inf`."""


def write_companions(
    directory: Path, report: dict[str, Any], config: RestoreConfig, origin: Origin | None = None
) -> None:
    """Write `README.md`, `hcnr_config.yaml` and `hcnr_report.json` into `directory`.

    They hold names of directories and files, no paths of the machine: they are published. Of a
    patch the card of the checkpoint that it makes is kept too, as `hcnr_card.md`.

    Args:
        directory: of the restored checkpoint.
        report: what `build_report` returned.
        config: of the run.
        origin: where both models come from, for the card.
    """
    _write_report(directory, names_only(plain_values(report)))
    (directory / "hcnr_config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    (directory / "README.md").write_text(model_card(report, origin), encoding="utf-8")
    if "patch" in report:
        card = model_card(_without_patch(report), origin)
        (directory / PATCHED_CARD).write_text(card, encoding="utf-8")


def copy_patched(patch: Path, directory: Path) -> None:
    """Write what `write_companions` would have written of the checkpoint that a patch makes.

    Args:
        patch: its directory.
        directory: of that checkpoint.

    Raises:
        DataError: the report of the patch is missing or damaged.
        CheckpointError: another of its files cannot be read.
    """
    read_report(patch)
    report = json.loads((patch / "hcnr_report.json").read_text(encoding="utf-8"))
    _write_report(directory, _without_patch(report))
    for source, name in ((PATCHED_CARD, "README.md"), ("hcnr_config.yaml", "hcnr_config.yaml")):
        try:
            content = (patch / source).read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"'{patch / source}' cannot be read ({error.strerror or error}); copy the patch's "
                "directory again, with all of its files"
            ) from error
        (directory / name).write_bytes(content)


def _write_report(directory: Path, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=2, allow_nan=False)
    (directory / "hcnr_report.json").write_text(text + "\n", encoding="utf-8")


def _without_patch(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key != "patch"}


def read_report(directory: str | Path) -> RunReport:
    """Read the report of a directory that a run wrote, infinities included.

    Args:
        directory: what `hcnr.restore` or `hcnr.tune` wrote, with `hcnr_report.json`.

    Raises:
        DataError: there is none, or it is damaged: the file, the key and what was expected there.
    """
    path = Path(directory).expanduser() / "hcnr_report.json"
    if not path.is_file():
        raise DataError(
            f"there is no hcnr_report.json in {directory}; give the directory that "
            "`hcnr restore --out` wrote"
        )
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); restore again to write it anew") from None
    report = _numeric(report)
    if isinstance(report, dict) and "tune" in report:
        TuneRecord.of(report, path, TUNE_AGAIN)
    else:
        RestorationRecord.of(report, path, AGAIN)
    return RunReport(report)


def read_restoration(directory: str | Path) -> RestorationRecord:
    """The same of a restoration alone, with names in place of paths.

    Raises:
        DataError: as `read_report`, or it is of `hcnr tune`.
    """
    report, path = read_report(directory), Path(directory).expanduser() / "hcnr_report.json"
    if "tune" in report:
        raise DataError(
            f"{path} is of hcnr tune, which restores nothing, so there is no page of it; evaluate "
            "it beside a repair (hcnr evaluate REPAIR --against DIRECTORY)"
        )
    return RestorationRecord.of(names_only(report), path, AGAIN)


def report_of(model: Any) -> MadeBy:
    """How a model in a directory was made; nothing where no report, or a damaged one, tells."""
    if not isinstance(model, str | Path):
        return MadeBy()
    try:
        text = (Path(model).expanduser() / "hcnr_report.json").read_text(encoding="utf-8")
        return MadeBy.model_validate(_numeric(json.loads(text)))
    except (OSError, ValueError):
        return MadeBy()


def _numeric(value: Any) -> Any:
    """Undo `plain_values`."""
    if isinstance(value, str) and value in ("inf", "-inf", "nan"):
        return float(value)
    if isinstance(value, dict):
        return {key: one if key in WORDS else _numeric(one) for key, one in value.items()}
    return [_numeric(item) for item in value] if isinstance(value, list) else value
