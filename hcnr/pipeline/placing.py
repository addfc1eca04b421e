"""What is refused, before any work, where a model's weights are read when their block runs."""

from hcnr import ranks
from hcnr.config import RestoreConfig
from hcnr.errors import ConfigError
from hcnr.models.directory import DirectorySource
from hcnr.models.pair import Pair
from hcnr.models.streamed.units import residence

__all__ = ["check_placement", "check_streamable"]


def check_placement(
    config: RestoreConfig, *, makes_model: bool = False, out_format: str = "full"
) -> None:
    """Refuse what does not go together with where weights shall be.

    Args:
        config: of the run.
        makes_model: whether the result is a model in memory.
        out_format: of the result.

    Raises:
        ConfigError: naming what does not, and what to do.
    """
    if not config.streams:
        if config.max_memory is not None:
            raise ConfigError(
                f"max_memory is {config.max_memory:g} GiB, and without device_map auto or disk all "
                "weights are in memory; give --device-map auto too"
            )
        return
    what = f"device_map is {config.device_map!r}"
    if ranks.size() > 1:
        raise ConfigError(
            f"{what} in {ranks.size()} processes, each of which holds the whole model; start one "
            "process, or leave device_map out"
        )
    if "natural" in config.bases:
        raise ConfigError(
            f"{what} with the compensation {config.compensation}, whose steps hold all repaired "
            "weights in float32 in memory; take --compensation spectral, or leave device_map out"
        )
    if config.interpolates and config.searches:
        raise ConfigError(
            f"{what} with a coefficient that is searched, which mixes the whole model in memory; "
            "give --coefficient a number, or leave device_map out"
        )
    if makes_model:
        raise ConfigError(
            f"{what}, and without an output directory the result is a model in memory; give out"
        )
    if out_format == "adapter":
        raise ConfigError(
            f"{what} with the output format adapter, which is judged merged into a model in "
            "memory; write the full form (--out-format full), or leave device_map out"
        )


def check_streamable(pair: Pair, config: RestoreConfig) -> None:
    """Refuse a pair whose weights cannot be read block by block.

    Raises:
        ConfigError: a model is in memory, or `max_memory` does not hold the largest block.
        ModelError: blocks share weights.
    """
    if not config.streams:
        return
    for source in (pair.base, pair.tuned):
        if not isinstance(source, DirectorySource):
            raise ConfigError(
                f"device_map is {config.device_map!r}, and {source} is in memory already; give a "
                "directory, or leave device_map out"
            )
        residence(source.structure, config)
