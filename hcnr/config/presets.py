"""Settings of a restoration by name: the default, the paper's, and what needs no search."""

from typing import Any

from hcnr.settings import config_error

FAST_TASK_WEIGHT = 10.0
"""mu of the preset `fast`."""

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "compensation": "sum",
        "in_weight_ratio": 0.5,
        "cross_weight_ratio": 0.4,
    },
    "fast": {"task_weight": FAST_TASK_WEIGHT},
}
"""Settings by name: the default, the paper's exactly, and what needs no search."""


def preset(name: str) -> dict[str, Any]:
    """Return the settings of a preset.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise config_error(
            f"the preset {name!r} is unknown, expected one of {', '.join(PRESETS)}; choose another"
        )
    return dict(PRESETS[name])
