"""Kinds that other packages add, through entry points: detectors, readers of files, repairs."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, NamedTuple, get_args

from hcnr.errors import ConfigError

Group = Literal["hcnr.detectors", "hcnr.readers", "hcnr.repairs"]
GROUPS: tuple[Group, ...] = get_args(Group)


class Plugin(NamedTuple):
    """One entry point.

    Attributes:
        group: what it adds to.
        name: under which users name it.
        package: the distribution that registers it, with its version.
        value: module and name of the function.
    """

    group: Group
    name: str
    package: str
    value: str


def registered(group: Group) -> list[Plugin]:
    """What installed packages have registered in `group`, by name; nothing is imported."""
    points = {(point.name, point.value): point for point in entry_points(group=group)}
    return [
        Plugin(group, name, _package(points[name, value]), value) for name, value in sorted(points)
    ]


def names(group: Group) -> list[str]:
    """Names that installed packages have registered in `group`, sorted."""
    return sorted({point.name for point in entry_points(group=group)})


def load(group: Group, name: str) -> Any:
    """The function registered as `name` in `group`; None if there is none.

    Raises:
        ConfigError: two packages registered the name, or it cannot be imported or called.
    """
    points = {point.value: point for point in entry_points(group=group, name=name)}
    if not points:
        return None
    if len(points) > 1:
        raise ConfigError(
            f"{name!r} is registered in {group} more than once, by "
            f"{', '.join(sorted(map(_owner, points.values())))}; uninstall all but one of them"
        )
    (point,) = points.values()
    try:
        loaded = point.load()
    except (Exception, SystemExit) as error:  # whatever the other package raises
        raise ConfigError(
            f"{name!r} of {group} cannot be imported from {_owner(point)}: {type(error).__name__}: "
            f"{error}; repair or uninstall that package"
        ) from error
    if not callable(loaded):
        raise ConfigError(
            f"{name!r} of {group} is a {type(loaded).__name__} in {_owner(point)}, expected a "
            "function; repair or uninstall that package"
        )
    return loaded


def _owner(point: EntryPoint) -> str:
    package = point.dist.name if point.dist is not None else "an unknown package"
    return f"{package} ({point.value})"


def _package(point: EntryPoint) -> str:
    parts = () if point.dist is None else (point.dist.name, point.dist.version)
    return " ".join(filter(None, parts)) or "unknown"
