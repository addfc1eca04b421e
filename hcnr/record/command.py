"""The command line that makes a run again, from what its report holds."""

import shlex
from typing import Any

from hcnr.config import RestoreConfig
from hcnr.record.files.restoration import RestorationRecord
from hcnr.record.names import names_only


def restore_command(report: RestorationRecord, out: str) -> str:
    """`hcnr restore ...` with every setting that is not the default, and names in place of paths.

    Args:
        report: of the run.
        out: name of its directory.
    """
    words = ["hcnr", "restore"]
    words += [_name(getattr(report.pair, role), role) for role in ("base", "tuned")]
    for name in ("honesty", "task"):
        if name in report.data:
            words += [f"--{name}", _name(report.data[name].source, name)]
    for name, field in RestoreConfig.model_fields.items():
        if (value := getattr(report.config, name)) != field.default:
            words += _option(name.replace("_", "-"), value)
    if report.adapter is not None:
        words += ["--out-format", "adapter", "--adapter-rank", str(report.adapter.rank)]
    if report.patch is not None:
        words += ["--out-format", "patch"]
    return shlex.join([*words, "--out", out])


def _name(value: Any, what: str) -> str:
    """A directory or a file by its name; what was in memory has none."""
    text = names_only({"source": value})["source"]
    return text if isinstance(text, str) and text and " " not in text else what.upper()


def _option(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, tuple):
        return [f"--{flag}", ",".join(map(str, value))]
    return [f"--{flag}", "null" if value is None else str(value)]
