"""Frozen, validated configurations, from Python, YAML or flags; need no torch.

Each is declared once, by `hcnr.settings.setting`: its type, its limits, its words. From that come
the options of its command, the keyword arguments of its Python call and what is refused.
"""

from hcnr.config.evaluate import EvaluateConfig
from hcnr.config.loading import load_config, load_with
from hcnr.config.presets import FAST_TASK_WEIGHT, PRESETS, preset
from hcnr.config.probe import ProbeConfig
from hcnr.config.restore import RestoreConfig
from hcnr.config.sweep import SweepConfig

__all__ = [
    "FAST_TASK_WEIGHT",
    "PRESETS",
    "EvaluateConfig",
    "ProbeConfig",
    "RestoreConfig",
    "SweepConfig",
    "load_config",
    "load_with",
    "preset",
]
