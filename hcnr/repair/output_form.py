"""The form that a result is written in: a whole checkpoint, an adapter or a patch."""

from typing import Any

from hcnr.errors import ConfigError
from hcnr.models.pair import Pair
from hcnr.repair.adapter_output import AdapterOutput
from hcnr.repair.patch_output import PatchOutput

__all__ = ["OutputForm", "output_form"]

OutputForm = AdapterOutput | PatchOutput
"""How what is no whole checkpoint is written."""


def output_form(
    pair: Pair, out_format: str, adapter_rank: int | None, out: Any
) -> OutputForm | None:
    """What `restore` was asked to write; None for a whole checkpoint.

    Raises:
        ConfigError: the format is unknown, or the rank belongs to another one.
        HcnrError: as `AdapterOutput.of` and `PatchOutput.of`.
    """
    if out_format == "adapter":
        return AdapterOutput.of(pair, adapter_rank, out)
    if out_format not in ("full", "patch"):
        raise ConfigError(f"out_format is {out_format!r}, expected 'full', 'adapter' or 'patch'")
    if adapter_rank is not None:
        what = "a patch" if out_format == "patch" else "a whole checkpoint"
        raise ConfigError(
            f"adapter_rank is {adapter_rank}, and {what} has none; leave it out, or ask for "
            "out_format 'adapter' (--out-format adapter)"
        )
    return PatchOutput.of(pair, out) if out_format == "patch" else None
