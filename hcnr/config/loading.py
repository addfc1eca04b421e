"""Configurations from presets, YAML files and options."""

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from hcnr.config.configuration import Configuration, checked
from hcnr.config.presets import preset
from hcnr.config.restore import RestoreConfig

Own = TypeVar("Own", bound=Configuration)


def load_config(
    path: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    preset_name: str | None = None,
) -> RestoreConfig:
    """Build a configuration from a preset, an optional YAML file and settings that win over both.

    Args:
        path: a YAML mapping of settings; an empty file, or none, means the preset's.
        overrides: settings by name, taken as given (leave out what is not to be overridden).
        preset_name: one of `PRESETS`, which the file and the overrides win over.

    Raises:
        ConfigError: the preset is unknown; the file is missing, unreadable, no YAML or no mapping;
            or a key or value of any source is refused; an override does not excuse a bad value in
            the file.
    """
    start = preset(preset_name or "default")
    (from_file,) = checked((RestoreConfig,), path)
    return RestoreConfig(**{**start, **from_file, **RestoreConfig.renamed(overrides or {})})


def load_with(
    kind: type[Own],
    path: str | os.PathLike[str] | None,
    own: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> tuple[Own, RestoreConfig]:
    """Build a command's own configuration beside that of a restoration, from one file for both.

    Args:
        kind: the command's own.
        path: a YAML mapping of settings of both.
        own: settings of the command that win over the file.
        overrides: the same of the restoration.

    Raises:
        ConfigError: as of `load_config`.
    """
    mine, shared = checked((kind, RestoreConfig), path)
    return (
        kind(**{**mine, **kind.renamed(own)}),
        RestoreConfig(**{**shared, **RestoreConfig.renamed(overrides)}),
    )
